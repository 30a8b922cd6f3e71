"""Hands a recipe to a cluster through the Ray Jobs API: its text travels, and what else the user says."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import yaml

from jobs.config import Recipe
from jobs.submission.code_folder import RECIPE_NAME, CodeFolder, gather_code
from jobs.submission.following import follow as follow_log
from jobs.submission.following import follow_command
from jobs.submission.order import Order, check_job_id
from jobs.submission.runtime_env import read_runtime_env
from jobs.submission.server import Job, JobServer
from jobs.submission.versions import check_versions, probe_versions
from jobs.told import Told
from storage.errors import UsageError
from storage.keys import Json

__all__ = [
    "PASSED_BY_DEFAULT",
    "Submission",
    "Travels",
    "attach",
    "check_workspace",
    "describe_order",
    "make_order",
    "passed_environment",
    "submit_order",
]

PASSED_BY_DEFAULT = ("AWS_*",)
"""Names of the variables that a job gets from the submitter's environment, as shell patterns."""

_OF_THIS_MACHINE = {
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
}
"""Variables that name files of this machine, or what stands in them; passed on by their own names alone."""
_MAX_KEPT_OUT = 30


@dataclass(frozen=True, slots=True)
class Travels:
    """What goes to the cluster beside the recipe's text."""

    env_patterns: tuple[str, ...] = ()
    """Names or shell patterns of variables; none: `PASSED_BY_DEFAULT`."""
    runtime_env: str | None = None
    """File or packaged name of a runtime environment; None: the recipe's, if it has one."""
    code: Path | None = None
    """Folder of the user's own modules."""
    code_limit_mib: float = 10.0
    """Upper bound of what travels of it."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was handed in, and what its process returned if it was waited for."""

    job_id: str
    exit_code: int | None
    is_new: bool = True
    """False: the job was there already, and nothing was started."""


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


def make_order(
    recipe: Recipe,
    command: str = "run",
    stages: tuple[str, ...] | None = None,
    after: Sequence[str] = (),
    travels: Travels | None = None,
) -> Order:
    """Puts together what a job consists of; nothing is sent.

    Values of passed variables go to the cluster's job records, which whoever may use its dashboard can read;
    credentials that the nodes have by themselves (an instance role) are better.

    Args:
        recipe: what to run.
        command: on the cluster, such as `run` or `retrain`.
        stages: of `run` that may do work, in order; None: all.
        after: ids of jobs that have to succeed before this one begins.
        travels: what goes along.

    Raises:
        UsageError: the workspace can't be reached from a cluster, a variable isn't set, or something that isn't fit
            to travel.
    """
    along = travels or Travels()
    check_workspace(recipe.workspace)
    name = along.runtime_env or recipe.cluster.runtime_env
    runtime_env = {} if name is None else read_runtime_env(name)
    variables = passed_environment(along.env_patterns or PASSED_BY_DEFAULT)
    if not along.env_patterns:
        # What a file says on purpose goes before what is passed on without being asked for.
        declared = cast("Mapping[str, str]", runtime_env.get("env_vars") or {})
        kept_back = {*declared, *_OF_THIS_MACHINE}
        variables = {name: value for name, value in variables.items() if name not in kept_back}
    code = None if along.code is None else gather_code(along.code, along.code_limit_mib)
    return Order(recipe, command, stages, tuple(after), variables, runtime_env, code)


def describe_order(order: Order, address: str) -> Told:
    """What would be handed in, in lines: every file that travels, and what stays; no values of variables."""
    lines = [
        f"job {order.series}-N for {address}; nothing was sent",
        f"command    {order.entrypoint}",
        f"variables  {', '.join(sorted(order.variables)) or 'none'}",
    ]
    if order.runtime_env:
        text = yaml.safe_dump(dict(order.runtime_env), sort_keys=False).rstrip().replace("\n", "\n  ")
        lines.append(f"runtime environment\n  {text}")
    lines += ["travels", f"  {_size(len(_recipe_text(order).encode()))}  {RECIPE_NAME}"]
    files: list[Json] = [] if order.code is None else [file.path for file in order.code.files]
    data: dict[str, Json] = {
        "dry_run": True,
        "job": order.series,
        "address": address,
        "command": order.entrypoint,
        "variables": sorted(order.variables),
        "files": [RECIPE_NAME, *files],
    }
    return Told("\n".join([*lines, *([] if order.code is None else _code_lines(order.code))]), data)


def submit_order(
    order: Order, address: str, follow: bool = False, write: Callable[[str], None] = lambda text: None
) -> Submission:
    """Hands in a job, unless one is at work on the same outputs already.

    A client whose connection or process is lost in between finds the job by doing the same again.

    Args:
        order: the job.
        address: of the job server, such as `http://head:8265`.
        follow: waits for the end and hands the log to `write`.
        write: receives text for the user.

    Raises:
        UsageError: another job, with other settings, is at work on the same outputs; or a job to wait for that the
            server doesn't know.
        InfrastructureError: no connection, no access, or versions that differ.
    """
    server = JobServer.connect(address)
    for job_id in order.after:
        server.known_job(job_id)
    present = _at_work(server, order)
    if present is None:
        check_versions(probe_versions(server))
        job_id, is_new = _hand_in(server, order)
    else:
        job_id, is_new = present.job_id, False
    write(f"job {job_id} {'handed in to' if is_new else 'is at work already on'} {address}\n")
    if follow:
        return Submission(job_id, follow_log(server, job_id, write).exit_code, is_new)
    write(f"follow it:  {follow_command(job_id, address)}\n")
    return Submission(job_id, None, is_new)


def attach(job_id: str, address: str, write: Callable[[str], None]) -> Submission:
    """Follows a job that was handed in before, from the beginning of its log.

    Raises:
        UsageError: no job of that id.
        InfrastructureError: no connection, or no access.
    """
    check_job_id(job_id)
    job = follow_log(JobServer.connect(address), job_id, write)
    return Submission(job_id, job.exit_code, is_new=False)


def _at_work(server: JobServer, order: Order) -> Job | None:
    """The job that makes the same outputs, if one hasn't ended yet."""
    for job in server.jobs():
        if job.ended or job.job_id in order.after or not order.attempts([job.job_id]):
            continue
        _require_same(job, order)
        return job
    return None


def _require_same(job: Job, order: Order) -> None:
    if job.metadata.get("settings") != order.settings_key:
        raise UsageError(
            f"job {job.job_id} is at work on the same outputs with other settings, code or variables; wait for it "
            f"(--after {job.job_id}), or stop it first (sailloft jobs stop {job.job_id})"
        )


def _hand_in(server: JobServer, order: Order) -> tuple[str, bool]:
    """The job's id, and whether it is new: of two clients at once the second one finds that of the first."""
    job_id = order.job_id([job.job_id for job in server.jobs()])
    with tempfile.TemporaryDirectory(prefix="sailloft-submit-") as folder:
        if order.code is not None:
            order.code.write(Path(folder))
        (Path(folder) / RECIPE_NAME).write_text(_own_heading(job_id) + _recipe_text(order), encoding="utf-8")
        is_new = server.hand_in(job_id, order.entrypoint, order.job_runtime_env(folder), order.metadata(_version()))
    if not is_new:
        _require_same(server.known_job(job_id), order)
    return job_id, is_new


def _own_heading(job_id: str) -> str:
    """A comment that no other submission has: Ray keeps working directories by what they hold, and deletes that of a
    job that has died some seconds later, with all that a job of equal files would need."""
    return f"# job {job_id}, handed in {datetime.now(UTC).isoformat()}\n"


def _recipe_text(order: Order) -> str:
    return yaml.safe_dump(order.tree, sort_keys=False)


def _version() -> str:
    try:
        return version("sailloft")
    except PackageNotFoundError:
        return "source"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1024:9.1f} KiB"


def _code_lines(code: CodeFolder) -> list[str]:
    lines = [f"  {_size(file.size_bytes)}  {file.path}" for file in code.files]
    lines += [f"  {_size(len(text.encode()))}  {path}" for path, text in code.declared]
    stays = [f"  {item.path}  ({item.reason})" for item in code.kept_out]
    more = len(stays) - _MAX_KEPT_OUT
    lines += [f"stays in {code.root}" if stays else "nothing stays", *stays[:_MAX_KEPT_OUT]]
    return [*lines, f"  and {more} more"] if more > 0 else lines
