"""What `sailloft jobs` shows, and that it holds no variables."""

from __future__ import annotations

import json

import pytest

from jobs.submission import following
from jobs.submission.listing import (
    await_job,
    job_json,
    job_text,
    jobs_json,
    jobs_text,
    known_jobs,
    log_of,
    one_job,
    stop_job,
)
from jobs.submission.server import JobServer
from storage.errors import UsageError
from tests.fake_job_server import FakeClient, fake_server

NOTED = {"sailloft": "0.1", "recipe": "smoke", "command": "run", "stages": "curate,teach", "after": "", "settings": "k"}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(JobServer, "connect", lambda address: fake_server(fake))
    monkeypatch.setattr(following, "_POLL_S", 0.0)
    fake.add("other", "SUCCEEDED", 0)
    fake.add("sailloft-versions-1", "RUNNING", metadata={"sailloft": "versions"})
    fake.add(
        "smoke-1", "FAILED", 3, metadata=NOTED, start_time=1_700_000_000_000, end_time=1_700_000_075_000,
        message="\n".join(f"line {number}" for number in range(9)), runtime_env={"env_vars": {"HF_TOKEN": "hidden"}},
    )  # fmt: skip
    fake.add("smoke-2", metadata={**NOTED, "after": "smoke-1"}, start_time=1_700_000_100_000)
    return fake


@pytest.mark.usefixtures("client")
def test_the_list_is_of_our_own_jobs() -> None:
    jobs = known_jobs("http://head:8265", every=False)
    assert jobs_text(jobs).splitlines() == [
        "ID       STATUS   COMMAND  STAGES        BEGAN                    TOOK",
        "smoke-1  FAILED   run      curate,teach  2023-11-14 22:13:20 UTC  1:15 min",
        "smoke-2  RUNNING  run      curate,teach  2023-11-14 22:15:00 UTC  so far",
    ]
    assert [(one["job_id"], one["exit_code"]) for one in json.loads(jobs_json(jobs))] == [
        ("smoke-1", 3),
        ("smoke-2", None),
    ]
    every = {job.job_id for job in known_jobs("http://head:8265", every=True)}
    assert every == {"other", "sailloft-versions-1", "smoke-1", "smoke-2"}
    assert jobs_text([]) == "no jobs"


@pytest.mark.usefixtures("client")
def test_the_status_tells_the_end_and_hides_variables() -> None:
    job = one_job("smoke-1", "http://head:8265")
    assert job_text(job).splitlines() == [
        "smoke-1  FAILED, exit code 3",
        "began      2023-11-14 22:13:20 UTC, 1:15 min",
        "recipe     smoke",
        "command    run",
        "stages     curate,teach",
        *(f"  line {number}" for number in range(4, 9)),
    ]
    assert "hidden" not in job_text(job) + job_json(job)
    assert json.loads(job_json(job))["driver_exit_code"] == 3
    assert "after      smoke-1" in job_text(one_job("smoke-2", "http://head:8265"))


def test_stopping_waits_for_the_end(client: FakeClient) -> None:
    would = stop_job("smoke-2", "http://head:8265", dry_run=True)
    assert would.text.startswith("job smoke-2 would be stopped: ")
    assert would.data["stopped"] is False
    assert stop_job("smoke-2", "http://head:8265").text == "job smoke-2: STOPPED"
    assert stop_job("smoke-2", "http://head:8265").text == "job smoke-2 had ended before: STOPPED"


def test_waiting_ends_as_the_job_did(client: FakeClient) -> None:
    assert await_job("other", None) == (0, "job other: SUCCEEDED")
    assert await_job("smoke-1", None) == (3, "job smoke-1: FAILED, exit code 3; nothing that needs it runs")
    client.log = ["a\n", "b\n"]
    assert log_of("other", "http://head:8265") == "a\nb\n"


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("job_id", ["absent", "a; rm -rf /", "../x", ""])
def test_ids_that_nobody_has(job_id: str) -> None:
    for action in (one_job, stop_job, log_of, await_job):
        with pytest.raises(UsageError, match=r"knows none of that id|expected an id such as"):
            action(job_id, "http://head:8265")
