"""What a schedule's pod does: creates the RayJob of this turn, unless one is at work, and waits for its end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from jobs.kubernetes.api import AlreadyExists, RayJobs
from storage.errors import InfrastructureError, UsageError

__all__ = ["launch", "launch_file"]

logger = logging.getLogger(__name__)

_ENDED = {"Complete", "Failed", "ValidationFailed"}
_POLL_S = 15.0


def launch_file(path: Path, write: Callable[[str], None]) -> int:
    """Launches the job in a file, by the variables of the pod that this process runs in.

    Args:
        path: of a RayJob without a name of its own.
        write: receives lines for the pod's log.

    Returns:
        The exit code, see `launch`.

    Raises:
        UsageError: this process runs outside of a schedule's pod.
        InfrastructureError: the API server refuses, or stays away.
    """
    names = ("SAILLOFT_JOB_NAME", "SAILLOFT_JOB_UID", "SAILLOFT_NAMESPACE")
    absent = [name for name in names if not os.environ.get(name)]
    if absent:
        raise UsageError(f"expected the variables of a schedule's pod, found no {', '.join(absent)}")
    name, uid, namespace = (os.environ[name] for name in names)
    job = cast("dict[str, Any]", yaml.safe_load(path.read_text(encoding="utf-8")))
    return launch(RayJobs.of_this_pod(namespace), job, name, uid, write)


def launch(jobs: RayJobs, job: Mapping[str, Any], name: str, owner_uid: str, write: Callable[[str], None]) -> int:
    """Creates a job under the name of this turn and waits until it has ended.

    A pod that begins again, its node was lost for instance, finds the job that it created and waits for it.

    Args:
        jobs: of the namespace.
        job: without a name of its own.
        name: of this turn: that of the Kubernetes job that the schedule made.
        owner_uid: of that Kubernetes job; the RayJob goes when it goes.
        write: receives lines for the pod's log.

    Returns:
        0: it succeeded, or an earlier one is still at work; 4: it failed.

    Raises:
        InfrastructureError: the API server refuses, or stays away.
    """
    labels = cast("Mapping[str, str]", job["metadata"]["labels"])
    for other in jobs.labelled(labels):
        other_name = str(other["metadata"]["name"])
        if other_name != name and not _ended(other):
            write(f"{other_name} is still at work; nothing was begun\n")
            return 0
    try:
        jobs.create(_named(job, name, owner_uid))
        write(f"created RayJob {name}\n")
    except AlreadyExists:
        write(f"RayJob {name} is there already\n")
    return _wait(jobs, name, write)


def _named(job: Mapping[str, Any], name: str, owner_uid: str) -> dict[str, Any]:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner_uid, "controller": False}
    return {**job, "metadata": {**job["metadata"], "name": name, "ownerReferences": [owner]}}


def _wait(jobs: RayJobs, name: str, write: Callable[[str], None]) -> int:
    shown = ""
    while True:
        job = jobs.get(name)
        status = cast("Mapping[str, Any]", job.get("status") or {})
        state = f"{status.get('jobDeploymentStatus') or 'New'} {status.get('jobStatus') or ''}".strip()
        if state != shown:
            write(f"{name}: {state}\n")
            shown = state
        if _ended(job):
            message = str(status.get("message") or "")
            if status.get("jobStatus") == "SUCCEEDED":
                return 0
            write(f"{name}: {message}\n")
            return InfrastructureError.exit_code
        time.sleep(_POLL_S)


def _ended(job: Mapping[str, Any]) -> bool:
    return (job.get("status") or {}).get("jobDeploymentStatus") in _ENDED
