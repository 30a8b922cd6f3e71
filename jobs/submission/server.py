"""A cluster's job server, as far as Sailloft needs it: its jobs as records, its failures as our errors."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jobs.session import set_ray_environment
from storage.errors import InfrastructureError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["Job", "JobServer", "NoConnection"]

ResultT = TypeVar("ResultT")

_RAY_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client puts above the address it is given."""
_CHATTY = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
"""Loggers of Ray's client that tell of each upload and connection."""
_TERMINATED = 143
"""What a shell returns for a process that SIGTERM ended; Ray keeps no exit code of jobs that were stopped."""
_REASON_CHARACTERS = 200
_TRIES = 5
_RETRY_S = 2.0


class NoConnection(InfrastructureError):
    """Nobody answers at the job server's address."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server knows it."""

    job_id: str
    status: str
    """`PENDING`, `RUNNING`, `STOPPED`, `SUCCEEDED` or `FAILED`."""
    driver_exit_code: int | None
    message: str
    start_s: float | None
    """Seconds since the epoch, by the cluster's clock."""
    end_s: float | None
    entrypoint: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in {"STOPPED", "SUCCEEDED", "FAILED"}

    @property
    def exit_code(self) -> int | None:
        """What a shell would return for the job's process; None while it runs."""
        if not self.ended:
            return None
        if self.driver_exit_code is not None:
            code = self.driver_exit_code
            return code if code >= 0 else 128 - code
        return {"SUCCEEDED": 0, "STOPPED": _TERMINATED}.get(self.status, InfrastructureError.exit_code)


class JobServer:
    """The job server of a cluster.

    Args:
        client: of Ray, connected.
        address: as the user gave it, for messages.
    """

    def __init__(self, client: JobSubmissionClient, address: str) -> None:
        self._client = client
        self.address = address

    @classmethod
    def connect(cls, address: str | None) -> JobServer:
        """Connects to the server at an address; None: of the cluster that this process runs in.

        Raises:
            UsageError: no URL.
            InfrastructureError: no connection, no access, or a Ray that is too old.
        """
        set_ray_environment()
        from ray.job_submission import JobSubmissionClient

        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        if address is None:
            return cls(_plainly(JobSubmissionClient, "of this cluster"), "of this cluster")
        if not address.startswith(("http://", "https://", "ray://")):
            raise UsageError(f"--address {address!r}: expected the job server's URL, such as http://head:8265")
        with _without_addresses():
            return cls(_plainly(lambda: JobSubmissionClient(address), address), address)

    def job(self, job_id: str) -> Job | None:
        """A job by its id; None: there is none."""
        try:
            return _job(self._ask(lambda: self._client.get_job_info(job_id)))
        except InfrastructureError as error:
            if _is_status(error, 404):
                return None
            raise

    def known_job(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            UsageError: there is none.
        """
        found = self.job(job_id)
        if found is None:
            raise UsageError(
                f"job {job_id!r}: the job server {self.address} knows none of that id; see sailloft jobs list"
            )
        return found

    def jobs(self) -> list[Job]:
        """All jobs of the cluster that were handed in, the oldest first."""
        found = [_job(info) for info in self._ask(self._client.list_jobs) if info.submission_id]
        return sorted(found, key=lambda job: (job.start_s or 0.0, job.job_id))

    def hand_in(
        self, job_id: str, entrypoint: str, runtime_env: Mapping[str, object], metadata: Mapping[str, str]
    ) -> bool:
        """Hands in a job, once: if an answer is lost and the job was taken, trying again doesn't start another.

        Returns:
            Whether it is new; False: somebody else has handed it in under the same id.

        Raises:
            UsageError: a runtime environment that Ray refuses.
            InfrastructureError: the server can't be reached or refuses.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                self._ask(
                    lambda: self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=job_id,
                        runtime_env=dict(runtime_env),
                        metadata=dict(metadata),
                    )
                )
            except InfrastructureError as error:
                if "already exists" in str(error):
                    return attempt > 1
                if attempt == _TRIES or not (isinstance(error, NoConnection) or _is_status(error, 5)):
                    raise
                time.sleep(_RETRY_S)
            except ValueError as error:
                raise UsageError(f"runtime environment: {error}") from error
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    def stop(self, job_id: str) -> bool:
        """Asks a job to end, which takes some seconds; False: it had ended before."""
        return self._ask(lambda: self._client.stop_job(job_id))

    def delete(self, job_id: str) -> None:
        """Removes an ended job from the server's list."""
        self._ask(lambda: self._client.delete_job(job_id))

    def log(self, job_id: str) -> str:
        """All that a job has written so far."""
        return self._ask(lambda: self._client.get_job_logs(job_id))

    async def tail(self, job_id: str) -> AsyncGenerator[str]:
        """The log of a job from its beginning, as it is written, until the job ends.

        Raises:
            NoConnection: the connection broke.
        """
        from aiohttp import ClientError

        try:
            async for text in self._client.tail_job_logs(job_id):
                yield text
        except (RuntimeError, OSError, ClientError) as error:
            raise NoConnection(f"job server {self.address}: the log of {job_id} broke off: {error}") from error

    def _ask(self, action: Callable[[], ResultT]) -> ResultT:
        return _plainly(action, self.address)


def _job(info: Any) -> Job:
    """Ray's record as ours; times are in milliseconds there."""
    return Job(
        str(info.submission_id),
        str(getattr(info.status, "value", info.status)),
        cast("int | None", info.driver_exit_code),
        str(info.message or ""),
        None if info.start_time is None else info.start_time / 1000,
        None if info.end_time is None else info.end_time / 1000,
        str(info.entrypoint),
        dict(info.metadata or {}),
    )


def _plainly(action: Callable[[], ResultT], address: str) -> ResultT:
    """Does something with the server; its errors come out as ours."""
    from ray.exceptions import AuthenticationError, RayError

    try:
        return action()
    except AuthenticationError as error:
        first = error.message.strip().partition("\n")[0][:_REASON_CHARACTERS]
        raise InfrastructureError(
            f"job server {address}: access refused ({first}); set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, the "
            "file that holds the cluster's token (or RAY_AUTH_TOKEN, the token itself)"
        ) from error
    except RayError as error:
        raise InfrastructureError(f"job server {address}: {error}") from error
    except (ConnectionError, OSError) as error:
        raise NoConnection(
            f"job server {address}: no connection ({error}); is the head running, with its dashboard?"
        ) from error
    except RuntimeError as error:
        raise InfrastructureError(f"job server {address}: {error}") from error


def _is_status(error: InfrastructureError, status: int) -> bool:
    """Whether an HTTP status, or one that begins with this digit, is what Ray's client complains of."""
    return f"status code {status}" in str(error)


@contextmanager
def _without_addresses() -> Generator[None]:
    """Hides the variables that would send a job elsewhere than the user said."""
    hidden = {name: os.environ.pop(name) for name in _RAY_ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
