"""A job server in memory that stands in for Ray's client, and loses connections and answers when told to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jobs.submission.server import JobServer

__all__ = ["FakeClient", "fake_server"]


class FakeClient:
    """Takes jobs, which do nothing until a test says what became of them."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.handed_in: list[dict[str, Any]] = []
        self.sent: list[dict[str, str]] = []
        """Files of each working directory, with their text."""
        self.log: list[str] = []
        self.failures: list[Exception] = []
        """Raised by the next calls, one each."""
        self.lost_answers: list[Exception] = []
        """Raised by the next submissions, after they were taken."""
        self.breaks: list[int] = []
        """Pieces of the log after which the next connections break."""
        self.on_ask: Callable[[], None] = lambda: None

    def submit_job(self, **job: Any) -> str:
        self._fail()
        job_id = job["submission_id"]
        if job_id in self.jobs:
            raise RuntimeError(f"Request failed with status code 400: Job with submission_id {job_id} already exists.")
        self.handed_in.append(job)
        folder = job["runtime_env"].get("working_dir")
        files = [] if folder is None else [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        self.sent.append({path.relative_to(folder).as_posix(): path.read_text() for path in files})
        self.add(job_id, entrypoint=job["entrypoint"], metadata=job["metadata"])
        if self.lost_answers:
            raise self.lost_answers.pop(0)
        return job_id

    def add(self, job_id: str, status: str = "RUNNING", exit_code: int | None = None, **fields: Any) -> None:
        """Puts a job on the list, or another state in the place of its last one."""
        known = vars(self.jobs[job_id]) if job_id in self.jobs else {}
        new = {"submission_id": job_id, "status": SimpleNamespace(value=status), "driver_exit_code": exit_code}
        usual = {"message": "", "start_time": 1000 * len(self.jobs), "end_time": None, "entrypoint": "", "metadata": {}}
        self.jobs[job_id] = SimpleNamespace(**{**usual, **known, **new, **fields})

    def list_jobs(self) -> list[Any]:
        self._fail()
        return [*self.jobs.values(), SimpleNamespace(submission_id=None)]

    def get_job_info(self, job_id: str) -> Any:
        self._fail()
        self.on_ask()
        return self._known(job_id)

    def get_job_logs(self, job_id: str) -> str:
        self._known(job_id)
        return "".join(self.log)

    def stop_job(self, job_id: str) -> bool:
        self.add(job_id, "STOPPED")
        return True

    def delete_job(self, job_id: str) -> bool:
        del self.jobs[job_id]
        return True

    async def tail_job_logs(self, job_id: str) -> AsyncGenerator[str]:
        self._known(job_id)
        num_pieces = self.breaks.pop(0) if self.breaks else None
        for text in self.log[:num_pieces]:
            yield text
        if num_pieces is not None:
            raise RuntimeError("connection lost")

    def _known(self, job_id: str) -> Any:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


def fake_server(client: FakeClient) -> JobServer:
    """The job server behind a fake client."""
    return JobServer(client, "http://head:8265")  # type: ignore[arg-type]
