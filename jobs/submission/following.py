"""Following a job: its log as it is written, through lost connections, until its exit code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from jobs.submission.server import Job, JobServer, NoConnection
from storage.errors import InfrastructureError

__all__ = ["follow", "follow_command", "wait_for"]

_POLL_S = 0.5
_RETRY_S = 2.0
_PATIENCE_S = 300.0
"""How long a lost connection is taken up again: a head's dashboard that starts anew is back sooner."""
_LOG_PATIENCE_S = 30.0
"""How long the log of a job that has ended is asked for: with its node it may be gone for good."""


def follow_command(job_id: str, address: str) -> str:
    """What to type to follow a job again."""
    return f"sailloft submit --attach {job_id} --address {address}"


def follow(server: JobServer, job_id: str, write: Callable[[str], None]) -> Job:
    """Hands the log of a job to `write`, each piece once, until the job has ended.

    Raises:
        UsageError: no job of that id.
        InfrastructureError: the server stays away; the job goes on without us.
    """
    server.known_job(job_id)
    try:
        return _Log(server, job_id, write).follow()
    except SystemExit:
        write(f"\nthe job goes on; to see it again: {follow_command(job_id, server.address)}\n")
        raise


def wait_for(server: JobServer, job_id: str) -> Job:
    """Waits until a job has ended, through lost connections.

    Raises:
        UsageError: no job of that id.
        InfrastructureError: the server stays away.
    """
    server.known_job(job_id)
    patience = _Patience(server, job_id)
    while True:
        job = patience.ask()
        if job is not None and job.ended:
            return job
        time.sleep(_POLL_S if job is not None else _RETRY_S)


class _Patience:
    """Asks for a job, and says so when nobody has answered for too long."""

    def __init__(self, server: JobServer, job_id: str) -> None:
        self._server, self._job_id = server, job_id
        self._lost_since_s: float | None = None

    def ask(self) -> Job | None:
        """The job; None: the server is away, but not for long yet."""
        try:
            job = self._server.known_job(self._job_id)
        except NoConnection as error:
            now_s = time.monotonic()
            self._lost_since_s = now_s if self._lost_since_s is None else self._lost_since_s
            if now_s - self._lost_since_s >= _PATIENCE_S:
                raise InfrastructureError(
                    f"{error}; nothing heard for {_PATIENCE_S:.0f} s, the job may go on; to see it again: "
                    f"{follow_command(self._job_id, self._server.address)}"
                ) from error
            return None
        self._lost_since_s = None
        return job


class _Log:
    """The log of a job, which starts anew with each connection: what was shown is left out."""

    def __init__(self, server: JobServer, job_id: str, write: Callable[[str], None]) -> None:
        self._server, self._job_id, self._write = server, job_id, write
        self._num_shown = 0

    def follow(self) -> Job:
        patience = _Patience(self._server, self._job_id)
        broken_since_s: float | None = None
        while True:
            num_before = self._num_shown
            whole = asyncio.run(self._tail())
            job = patience.ask()
            if whole or self._num_shown > num_before:
                broken_since_s = None
            if job is not None and job.ended:
                now_s = time.monotonic()
                broken_since_s = now_s if broken_since_s is None else broken_since_s
                if whole or now_s - broken_since_s >= _LOG_PATIENCE_S:
                    self._end(job, whole)
                    return job
            time.sleep(_POLL_S if whole else _RETRY_S)

    async def _tail(self) -> bool:
        """Shows what is new until the log ends; False: the connection broke before."""
        num_skipped = 0
        try:
            async with aclosing(self._server.tail(self._job_id)) as pieces:
                async for text in pieces:
                    fresh = text[max(0, self._num_shown - num_skipped) :]
                    num_skipped += len(text)
                    self._num_shown = max(self._num_shown, num_skipped)
                    if fresh:
                        self._write(fresh)
        except NoConnection:
            return False
        return True

    def _end(self, job: Job, whole: bool) -> None:
        if not whole:
            self._write(f"job {job.job_id}: the end of its log can't be had\n")
        if job.driver_exit_code is None:
            self._write(f"job {job.job_id}: {job.status}: {job.message}\n")
