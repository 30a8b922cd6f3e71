"""The job server: its records, its failures as ours, and jobs that are handed in once whatever gets lost."""

from __future__ import annotations

import os

import pytest
from ray.exceptions import AuthenticationError

from jobs.submission import server as server_module
from jobs.submission.server import Job, JobServer, NoConnection
from storage.errors import InfrastructureError, UsageError
from tests.fake_job_server import FakeClient, fake_server


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    monkeypatch.setattr(server_module, "_RETRY_S", 0.0)
    return FakeClient()


def job(status: str, exit_code: int | None = None) -> Job:
    return Job("j", status, exit_code, "", None, None, "")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (job("PENDING"), None),
        (job("RUNNING"), None),
        (job("SUCCEEDED", 0), 0),
        (job("FAILED", 3), 3),
        (job("FAILED", -9), 137),
        (job("FAILED"), 4),
        (job("STOPPED"), 143),
    ],
)
def test_the_exit_code_is_a_shells(found: Job, code: int | None) -> None:
    assert found.exit_code == code
    assert found.ended == (code is not None)


def test_an_answer_that_is_lost_starts_nothing_twice(client: FakeClient) -> None:
    client.lost_answers = [ConnectionError("reset"), ConnectionError("reset")]
    assert fake_server(client).hand_in("a-1", "true", {}, {"sailloft": "1"})
    assert [item["submission_id"] for item in client.handed_in] == ["a-1"]


def test_a_server_that_is_away_for_a_moment_is_asked_again(client: FakeClient) -> None:
    client.failures = [ConnectionError("refused"), RuntimeError("Request failed with status code 503: no agent")]
    assert fake_server(client).hand_in("a-1", "true", {}, {})
    assert list(client.jobs) == ["a-1"]


def test_a_job_that_somebody_else_handed_in_is_not_new(client: FakeClient) -> None:
    client.add("a-1")
    assert not fake_server(client).hand_in("a-1", "true", {}, {})
    assert client.handed_in == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AuthenticationError("token missing"), "job server http://head:8265: .*token missing"),
        (RuntimeError("Request failed with status code 400: bad"), "status code 400"),
    ],
)
def test_a_refusal_is_not_tried_again(client: FakeClient, error: Exception, message: str) -> None:
    client.failures = [error, AssertionError("asked again")]
    with pytest.raises(InfrastructureError, match=message):
        fake_server(client).hand_in("a-1", "true", {}, {})


def test_a_server_that_stays_away(client: FakeClient) -> None:
    client.failures = [ConnectionError("refused")] * 10
    with pytest.raises(NoConnection, match=r"no connection \(refused\); is the head running"):
        fake_server(client).hand_in("a-1", "true", {}, {})
    assert len(client.failures) == 10 - server_module._TRIES


def test_jobs_are_those_that_were_handed_in(client: FakeClient) -> None:
    for name in ("b", "a"):
        client.add(name)
    assert [item.job_id for item in fake_server(client).jobs()] == ["b", "a"]
    assert fake_server(client).job("c") is None
    with pytest.raises(UsageError, match="job 'c': the job server http://head:8265 knows none of that id"):
        fake_server(client).known_job("c")


def test_variables_of_the_shell_do_not_send_a_job_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    def client(address: str | None = None) -> None:
        seen.append((address, os.environ.get("RAY_ADDRESS"), os.environ.get("RAY_API_SERVER_ADDRESS")))

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", client)
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")
    JobServer.connect("http://head:8265")
    JobServer.connect(None)
    assert seen == [("http://head:8265", None, None), (None, "http://elsewhere:8265", "http://elsewhere:8265")]
    assert os.environ["RAY_ADDRESS"] == "http://elsewhere:8265"


def test_no_job_server() -> None:
    with pytest.raises(NoConnection, match=r"job server http://127\.0\.0\.1:1: no connection"):
        JobServer.connect("http://127.0.0.1:1")
    with pytest.raises(UsageError, match="expected the job server's URL"):
        JobServer.connect("head:8265")
