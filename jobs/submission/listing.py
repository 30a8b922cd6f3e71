"""What `sailloft jobs ...` shows and does: jobs of a cluster by id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from jobs.submission.following import wait_for
from jobs.submission.order import check_job_id
from jobs.submission.server import Job, JobServer
from jobs.submission.versions import PROBE_PURPOSE
from jobs.told import Told, document
from pipelines.quantities import seconds_text
from pipelines.text_table import aligned
from storage.keys import Json

__all__ = [
    "await_job",
    "job_json",
    "job_text",
    "jobs_json",
    "jobs_text",
    "known_jobs",
    "log_of",
    "one_job",
    "stop_job",
]

_FIELDS = ("recipe", "command", "stages", "workspace", "after")
_MESSAGE_LINES = 5


def known_jobs(address: str, every: bool) -> list[Job]:
    """Jobs of a cluster, the oldest first.

    Args:
        address: of its job server.
        every: those of other programs too.

    Raises:
        InfrastructureError: no connection, or no access.
    """
    jobs = JobServer.connect(address).jobs()
    return [job for job in jobs if every or job.metadata.get("sailloft", PROBE_PURPOSE) != PROBE_PURPOSE]


def one_job(job_id: str, address: str) -> Job:
    """A job of a cluster.

    Raises:
        UsageError: no job of that id.
        InfrastructureError: no connection, or no access.
    """
    check_job_id(job_id)
    return JobServer.connect(address).known_job(job_id)


def log_of(job_id: str, address: str) -> str:
    """What a job has written so far; raises as `one_job`."""
    check_job_id(job_id)
    server = JobServer.connect(address)
    server.known_job(job_id)
    return server.log(job_id)


def stop_job(job_id: str, address: str, dry_run: bool = False) -> Told:
    """Ends a job and waits for it, or on a dry run only looks. Raises as `one_job`."""
    check_job_id(job_id)
    server = JobServer.connect(address)
    job = server.known_job(job_id)
    data: dict[str, Json] = {"job_id": job_id, "dry_run": dry_run}
    if dry_run:
        verb = "had ended before" if job.ended else "would be stopped"
        return Told(f"job {job_id} {verb}: {job.status}", {**data, "status": job.status, "stopped": False})
    if job.ended or not server.stop(job_id):
        text = f"job {job_id} had ended before: {job.status}"
        return Told(text, {**data, "status": job.status, "stopped": False})
    status = wait_for(server, job_id).status
    return Told(f"job {job_id}: {status}", {**data, "status": status, "stopped": True})


def await_job(job_id: str, address: str | None) -> tuple[int, str]:
    """Waits until a job has ended: its exit code, and a line for the user.

    Args:
        job_id: of the job.
        address: of the job server; None: of the cluster that this process runs in.

    Raises:
        UsageError: no job of that id.
        InfrastructureError: no connection, or no access.
    """
    check_job_id(job_id)
    job = wait_for(JobServer.connect(address), job_id)
    code = job.exit_code or 0
    return code, f"job {job_id}: {job.status}" + (f", exit code {code}; nothing that needs it runs" if code else "")


def jobs_text(jobs: Sequence[Job]) -> str:
    """A table of jobs."""
    if not jobs:
        return "no jobs"
    rows = [("ID", "STATUS", "COMMAND", "STAGES", "BEGAN", "TOOK")]
    for job in jobs:
        noted = job.metadata
        rows.append(
            (job.job_id, job.status, noted.get("command", ""), noted.get("stages", ""), _time(job.start_s), _took(job))
        )
    return "\n".join(aligned(rows))


def job_text(job: Job) -> str:
    """A job in lines; variables and the runtime environment are left out, since they may hold secrets."""
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    lines = [f"{job.job_id}  {job.status}{code}", f"began      {_time(job.start_s)}, {_took(job)}"]
    lines += [f"{name:<10} {job.metadata[name]}" for name in _FIELDS if job.metadata.get(name)]
    message = job.message.strip().splitlines()[-_MESSAGE_LINES:] if job.ended else []
    return "\n".join([*lines, *(f"  {line}" for line in message)])


def jobs_json(jobs: Sequence[Job]) -> str:
    """Jobs as a JSON list."""
    return document([_plain(job) for job in jobs])


def job_json(job: Job) -> str:
    """A job as a JSON object."""
    return document(_plain(job))


def _plain(job: Job) -> dict[str, object]:
    return {**asdict(job), "exit_code": job.exit_code}


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _took(job: Job) -> str:
    if job.start_s is None or job.end_s is None:
        return "so far" if job.start_s is not None else "-"
    return seconds_text(job.end_s - job.start_s)
