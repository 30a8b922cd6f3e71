"""A run of MLflow, through its client."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping

from PIL import Image

from pipelines.mlflow_client import Metric, MlflowException, Param, RunTag, mlflow_client
from pipelines.training.trackers.base import TrackedRun
from storage.errors import InfrastructureError, UsageError
from storage.keys import Json

__all__ = ["MlflowTracker"]

logger = logging.getLogger(__name__)

_KEY, _PICTURES = "sailloft.key", "sailloft.pictures"
_MAX_PARAMS = 100
"""Parameters that a server takes in one request."""
_MAX_VALUE = 500
"""Characters of a parameter's value that every version of MLflow takes."""


class MlflowTracker:
    """Curves, pictures and settings of one run.

    MLflow keeps every point that it is sent, so that points which a run has are not sent again. A store
    that fails while the run goes on costs the rest of the curves, not the run.
    """

    def __init__(self, run: TrackedRun, experiment: str, tracking_uri: str | None) -> None:
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _folder(run)
        self._failed = False
        self._done: dict[str, int] = {}
        self._pictures_done = 0
        try:
            self._client = mlflow_client(uri)
            self._run_id = self._find(run, experiment)
        except MlflowException as error:
            raise InfrastructureError(
                f"training.tracking.trackers: MLflow at {uri}: {error.message}; check MLFLOW_TRACKING_URI and the "
                "credentials in the environment, or leave the tracker out"
            ) from error

    def _find(self, run: TrackedRun, experiment: str) -> str:
        known = self._client.get_experiment_by_name(experiment)
        experiment_id = self._client.create_experiment(experiment) if known is None else known.experiment_id
        found = self._client.search_runs([experiment_id], f"tags.`{_KEY}` = '{run.key}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            for name in found[0].data.metrics:
                self._done[name] = max(metric.step for metric in self._client.get_metric_history(run_id, name))
            self._pictures_done = int(found[0].data.tags.get(_PICTURES, 0))
            return run_id
        run_id = self._client.create_run(experiment_id, tags={_KEY: run.key}, run_name=run.key[:16]).info.run_id
        params = [Param(name, value[:_MAX_VALUE]) for name, value in _flat(run.recipe)]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
        return run_id

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now_ms, step) for name, value in values.items() if step > self._done.get(name, 0)
        ]
        if metrics:
            self._send(lambda: self._client.log_batch(self._run_id, metrics=metrics))

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        """See `Tracker`."""
        if step <= self._pictures_done:
            return
        self._send(lambda: self._client.log_image(self._run_id, image, key=name, step=step))
        self._send(lambda: self._client.log_batch(self._run_id, tags=[RunTag(_PICTURES, str(step))]))

    def flush(self) -> None:
        """Every call has reached the store already."""

    def close(self, *, finished: bool) -> None:
        """See `Tracker`."""
        self._send(lambda: self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED"))

    def _send(self, call: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            call()
        except MlflowException as error:
            self._failed = True
            logger.warning("MLflow failed, training goes on without it: %s", error.message)


def _folder(run: TrackedRun) -> str:
    local = run.logs.child("mlflow").local_path
    if local is None:
        raise UsageError(
            f"training.tracking.trackers: mlflow: expected a tracking server, since {run.logs.url} isn't a local "
            "folder; set MLFLOW_TRACKING_URI"
        )
    return local.as_uri()


def _flat(tree: Mapping[str, Json], prefix: str = "") -> list[tuple[str, str]]:
    """Leaves of a tree of settings by their dotted places."""
    leaves: list[tuple[str, str]] = []
    for name, value in tree.items():
        leaves += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, str(value))]
    return leaves
