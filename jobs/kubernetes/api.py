"""The API server of the Kubernetes cluster that this process runs in, as far as creating RayJobs needs it."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from storage.errors import InfrastructureError, UsageError

__all__ = ["AlreadyExists", "RayJobs"]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 30
_TRIES = 8
_RETRY_S = 5.0
_REASON_CHARACTERS = 300


class AlreadyExists(InfrastructureError):
    """An object of that name is there."""


@dataclass(frozen=True, slots=True)
class RayJobs:
    """The RayJobs of one namespace.

    Args:
        server: URL of the API server.
        namespace: of the jobs.
        account: folder with the token of this pod's service account, and the server's certificate.
    """

    server: str
    namespace: str
    account: Path = _ACCOUNT

    @classmethod
    def of_this_pod(cls, namespace: str) -> RayJobs:
        """Those that this pod may see.

        Raises:
            UsageError: this process runs outside of Kubernetes.
        """
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not (_ACCOUNT / "token").is_file():
            raise UsageError(
                "expected a pod with a service account, found none; this command is for the pods of a schedule "
                "(sailloft schedule RECIPE --kuberay)"
            )
        shown = f"[{host}]" if ":" in host else host
        return cls(f"https://{shown}:{port}", namespace)

    def create(self, job: Mapping[str, Any]) -> None:
        """Creates a job.

        Raises:
            AlreadyExists: one of its name is there, perhaps from a request whose answer was lost.
            InfrastructureError: the server refuses, or stays away.
        """
        self._ask("POST", "", job)

    def get(self, name: str) -> Mapping[str, Any]:
        """A job by its name.

        Raises:
            InfrastructureError: there is none, or the server refuses or stays away.
        """
        return self._ask("GET", f"/{urllib.parse.quote(name, safe='')}")

    def labelled(self, labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
        """Jobs with all of these labels."""
        selector = urllib.parse.quote(",".join(f"{name}={value}" for name, value in labels.items()), safe="")
        found = self._ask("GET", f"?labelSelector={selector}")
        return cast("list[Mapping[str, Any]]", found.get("items") or [])

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        namespace = urllib.parse.quote(self.namespace, safe="")
        url = f"{self.server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs{path}"
        reason = ""
        for attempt in range(1, _TRIES + 1):
            try:
                with urllib.request.urlopen(
                    self._request(method, url, body), timeout=_TIMEOUT_S, context=self._trust()
                ) as answer:
                    return cast("Mapping[str, Any]", json.load(answer))
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != 429:
                    raise self._refusal(method, url, error) from error
                reason = f"status {error.code}"
            except OSError as error:
                reason = str(error)
            if attempt < _TRIES:
                time.sleep(_RETRY_S)
        raise InfrastructureError(f"{method} {url}: no answer after {_TRIES} attempts ({reason})")

    def _request(self, method: str, url: str, body: Mapping[str, Any] | None) -> urllib.request.Request:
        headers = {
            # Read anew each time: Kubernetes replaces it within the hour.
            "Authorization": f"Bearer {(self.account / 'token').read_text().strip()}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(url, data, headers, method=method)

    def _trust(self) -> ssl.SSLContext | None:
        """Only the cluster's own certificate; None for a server without TLS, in tests."""
        if not self.server.startswith("https://"):
            return None
        return ssl.create_default_context(cafile=str(self.account / "ca.crt"))

    def _refusal(self, method: str, url: str, error: urllib.error.HTTPError) -> InfrastructureError:
        reason = error.read().decode(errors="replace")[:_REASON_CHARACTERS]
        if error.code == 409:
            return AlreadyExists(f"{method} {url}: {reason}")
        remedy = "; apply the role and its binding (accounts.yaml)" if error.code in {401, 403} else ""
        return InfrastructureError(f"{method} {url}: status {error.code}: {reason}{remedy}")
