"""The cluster's versions of Python, Ray, torch and Sailloft, compared with ours before anything is uploaded."""

from __future__ import annotations

import json
import platform
import secrets
import shlex
import time
from dataclasses import dataclass
from typing import cast

from jobs.submission.server import JobServer
from storage.errors import InfrastructureError

__all__ = ["PROBE_PURPOSE", "ClusterVersions", "check_versions", "probe_versions"]

PROBE_PURPOSE = "versions"
"""What the metadata of the probing job says of it."""

_PROBE = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print("sailloft-versions " + json.dumps({"python": platform.python_version(), "ray": of("ray"), "torch": of("torch"),
    "sailloft": of("sailloft") or ("source" if __import__("importlib.util").util.find_spec("jobs") else None)}))
"""
_TIMEOUT_S = 120.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class ClusterVersions:
    """Versions as the cluster's own Python reports them; None where the package is absent."""

    python: str
    ray: str | None
    torch: str | None
    sailloft: str | None


def check_versions(found: ClusterVersions) -> None:
    """Compares the cluster's versions with ours before anything is handed in.

    Ray and Python's minor version have to be equal, since pickled functions travel between them.

    Raises:
        InfrastructureError: they differ, or Sailloft isn't installed there.
    """
    import ray

    python = ".".join(platform.python_version_tuple()[:2])
    wrong = [
        f"{name} {theirs or 'absent'} there, {ours} here"
        for name, theirs, ours in (
            ("Ray", found.ray, ray.__version__),
            ("Python", ".".join(found.python.split(".")[:2]), python),
        )
        if theirs != ours
    ]
    if wrong:
        raise InfrastructureError(
            f"the cluster's versions differ: {'; '.join(wrong)}; use an image with equal versions"
        )
    if found.torch is None or found.sailloft is None:
        absent = "torch" if found.torch is None else "Sailloft"
        raise InfrastructureError(
            f"{absent} isn't installed on the cluster; use an image that holds `pip install sailloft`"
        )


def probe_versions(server: JobServer) -> ClusterVersions:
    """Asks the cluster's Python for its versions by a job of its own, which takes a few seconds and is removed.

    Raises:
        InfrastructureError: no answer, or one that isn't understood.
    """
    job_id = f"sailloft-versions-{secrets.token_hex(8)}"
    server.hand_in(job_id, f"python -c {shlex.quote(_PROBE)}", {}, {"sailloft": PROBE_PURPOSE})
    deadline_s = time.monotonic() + _TIMEOUT_S
    while not server.known_job(job_id).ended:
        if time.monotonic() > deadline_s:
            server.stop(job_id)
            raise InfrastructureError(
                f"job server {server.address}: no answer on versions within {_TIMEOUT_S:.0f} s; is the head busy?"
            )
        time.sleep(_POLL_S)
    log = server.log(job_id)
    server.delete(job_id)
    for line in log.splitlines():
        if line.startswith("sailloft-versions "):
            return ClusterVersions(**cast("dict[str, str]", json.loads(line.partition(" ")[2])))
    raise InfrastructureError(f"job server {server.address}: the version check failed: {log[-500:]}")
