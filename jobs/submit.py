"""Hands a recipe to a cluster through the Ray Jobs API: its text travels, nothing else."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import platform
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

import yaml

from jobs.session import set_ray_environment
from storage.errors import InfrastructureError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["ClusterVersions", "Submission", "check_versions", "check_workspace", "passed_environment", "submit_recipe"]

ResultT = TypeVar("ResultT")

PASSED_BY_DEFAULT = ("AWS_*",)
"""Names of the variables that a job gets from the submitter's environment, as shell patterns."""

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
_PROBE_TIMEOUT_S = 120.0
_POLL_S = 0.5
_RETRY_S = 2.0
_MAX_TAIL_FAILURES = 5


@dataclass(frozen=True, slots=True)
class ClusterVersions:
    """Versions as the cluster's own Python reports them; None where the package is absent."""

    python: str
    ray: str | None
    torch: str | None
    sailloft: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was handed in, and what its process returned if it was waited for."""

    job_id: str
    exit_code: int | None


def passed_environment(patterns: Iterable[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that travel with a job, chosen by name.

    Raises:
        UsageError: a name without wildcard that isn't set.

    >>> passed_environment(["AWS_*"], {"AWS_REGION": "x", "HOME": "/"})
    {'AWS_REGION': 'x'}
    """
    chosen: dict[str, str] = {}
    for pattern in patterns:
        names = fnmatch.filter(sorted(environment), pattern)
        if not names and not any(sign in pattern for sign in "*?["):
            raise UsageError(f"--env {pattern}: expected a variable that is set; set it or leave the option out")
        chosen.update((name, environment[name]) for name in names)
    return chosen


def check_workspace(url: str) -> None:
    """Makes sure that a cluster can reach the workspace.

    Raises:
        UsageError: a relative folder or memory.
    """
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme == "memory" or (scheme in {"", "file"} and not url.removeprefix("file://").startswith("/")):
        raise UsageError(
            f"workspace {url!r}: a cluster needs a URL that all its nodes reach; "
            "give workspace=s3://bucket/prefix, or an absolute path of a shared disk"
        )


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


def submit_recipe(
    tree: Mapping[str, object],
    address: str,
    env_patterns: Iterable[str] = PASSED_BY_DEFAULT,
    follow: bool = False,
    write: Callable[[str], None] = lambda text: None,
) -> Submission:
    """Hands in a resolved recipe as the job `python -m jobs run recipe.yaml`.

    The working directory holds the recipe alone. Values of passed variables go to the cluster's job
    records, which whoever may use its dashboard can read; credentials that the nodes have by
    themselves (an instance role) are better.

    Args:
        tree: the resolved recipe.
        address: of the job server, such as `http://head:8265`.
        env_patterns: names or shell patterns of variables to pass on.
        follow: waits for the end and hands the log to `write`.
        write: receives text for the user.

    Raises:
        UsageError: the workspace can't be reached from a cluster, or a variable isn't set.
        InfrastructureError: no connection, no access, or versions that differ.
    """
    check_workspace(str(tree["workspace"]))
    environment = passed_environment(env_patterns)
    client = _connect(address)
    check_versions(_probe(client))
    sent = {**tree, "cluster": {}}  # the job runs inside the cluster that it was handed to
    with tempfile.TemporaryDirectory(prefix="sailloft-submit-") as folder:
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump(sent, sort_keys=False), encoding="utf-8")
        job_id = _call(
            lambda: client.submit_job(
                entrypoint="python -m jobs run recipe.yaml",
                runtime_env={"working_dir": folder, "env_vars": environment},
                metadata={"recipe": str(tree["name"]), "workspace": str(tree["workspace"])},
            ),
            address,
        )
    write(f"job {job_id} handed in to {address}\n")
    return Submission(job_id, _follow(client, job_id, address, write) if follow else None)


def _connect(address: str) -> JobSubmissionClient:
    set_ray_environment()
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://", "ray://")):
        raise UsageError(f"--address {address!r}: expected the job server's URL, such as http://head:8265")
    return _call(lambda: JobSubmissionClient(address), address)


def _call(action: Callable[[], ResultT], address: str) -> ResultT:
    from ray.exceptions import RayError

    try:
        return action()
    except RayError as error:  # a missing or wrong token
        raise InfrastructureError(f"job server {address}: {error}") from error
    except (ConnectionError, OSError) as error:
        raise InfrastructureError(
            f"job server {address}: no connection ({error}); is the head running, with its dashboard?"
        ) from error
    except RuntimeError as error:
        raise InfrastructureError(f"job server {address}: {error}") from error


def _probe(client: JobSubmissionClient) -> ClusterVersions:
    """Asks the cluster's Python for its versions by a job of its own, which takes a few seconds."""
    address = client.get_address()
    job_id = _call(lambda: client.submit_job(entrypoint=f"python -c {shlex.quote(_PROBE)}"), address)
    deadline_s = time.monotonic() + _PROBE_TIMEOUT_S
    while not _call(lambda: client.get_job_status(job_id), address).is_terminal():
        if time.monotonic() > deadline_s:
            client.stop_job(job_id)
            raise InfrastructureError(
                f"job server {address}: no answer on versions within {_PROBE_TIMEOUT_S:.0f} s; is the head busy?"
            )
        time.sleep(_POLL_S)
    logs = _call(lambda: client.get_job_logs(job_id), address)
    for line in logs.splitlines():
        if line.startswith("sailloft-versions "):
            return ClusterVersions(**cast("dict[str, str]", json.loads(line.partition(" ")[2])))
    raise InfrastructureError(f"job server {address}: the version check failed: {logs[-500:]}")


def _follow(client: JobSubmissionClient, job_id: str, address: str, write: Callable[[str], None]) -> int:
    """Streams the log until the job ends; a lost connection is taken up again. Returns the exit code."""
    asyncio.run(_tail(client, job_id, write))
    while not (info := _call(lambda: client.get_job_info(job_id), address)).status.is_terminal():
        time.sleep(_POLL_S)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    write(f"job {job_id}: {info.status}: {info.message}\n")
    return 0 if str(info.status) == "SUCCEEDED" else InfrastructureError.exit_code


async def _tail(client: JobSubmissionClient, job_id: str, write: Callable[[str], None]) -> None:
    from aiohttp import ClientError

    num_seen = 0
    for _ in range(_MAX_TAIL_FAILURES):
        num_skipped = 0
        with suppress(RuntimeError, OSError, ClientError):  # the log of a job starts anew with each connection
            async for text in client.tail_job_logs(job_id):
                fresh = text[max(0, num_seen - num_skipped) :]
                num_skipped += len(text)
                num_seen = max(num_seen, num_skipped)
                if fresh:
                    write(fresh)
            return
        await asyncio.sleep(_RETRY_S)
