"""How MLflow is reached: without usage statistics, without minutes of retries, and as a folder where it is told so.

Whoever uses MLflow takes it from here, so that it isn't imported before its environment is set.
"""

from __future__ import annotations

import os

# Usage statistics would be sent when the package is first used; no network that nobody asked for.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

__all__ = ["Metric", "MlflowClient", "MlflowException", "Param", "RunTag", "mlflow_client"]


def mlflow_client(uri: str) -> MlflowClient:
    """A client of a server or store.

    Args:
        uri: `http(s)://`, or `file:` for a folder.

    Raises:
        MlflowException: it isn't a URI that MLflow knows.
    """
    if uri.startswith("file:"):
        # The one store that needs neither a server nor a database; MLflow wants it asked for.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # Runs wait meanwhile; MLflow itself would try for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    return MlflowClient(tracking_uri=uri)
