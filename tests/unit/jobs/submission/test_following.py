"""A log is shown whole and once through lost connections, and says how to go on where it can't."""

from __future__ import annotations

import sys

import pytest

from jobs.submission import following
from jobs.submission.following import follow, wait_for
from storage.errors import InfrastructureError, UsageError
from tests.fake_job_server import FakeClient, fake_server


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """A job with a log in three pieces that has ended with 3."""
    for name in ("_POLL_S", "_RETRY_S", "_LOG_PATIENCE_S"):
        monkeypatch.setattr(following, name, 0.0)
    fake = FakeClient()
    fake.add("j", "FAILED", 3)
    fake.log = ["scenes done\n", "curate done\n", "error: torn\n"]
    return fake


def test_a_log_is_shown_once_through_lost_connections(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LOG_PATIENCE_S", 60.0)
    client.breaks = [1, 0, 2]
    shown: list[str] = []
    assert follow(fake_server(client), "j", shown.append).exit_code == 3
    assert shown == client.log


def test_a_server_that_comes_back_is_gone_on_with(client: FakeClient) -> None:
    client.add("j", "RUNNING")
    client.on_ask = lambda: client.add("j", "SUCCEEDED", 0)
    server = fake_server(client)
    shown: list[str] = []
    client.breaks = [2]
    client.failures = []

    def away() -> None:
        client.failures = [ConnectionError("refused")] * 3
        client.on_ask = lambda: client.add("j", "SUCCEEDED", 0)

    client.on_ask = away
    assert follow(server, "j", shown.append).exit_code == 0
    assert "".join(shown) == "".join(client.log)
    assert client.failures == []


def test_a_server_that_stays_away_leaves_a_way_back(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_PATIENCE_S", 0.0)

    def away() -> None:
        client.failures = [ConnectionError("refused")] * 3

    client.on_ask = away
    with pytest.raises(
        InfrastructureError, match=r"to see it again: sailloft submit --attach j --address http://head:8265"
    ):
        follow(fake_server(client), "j", lambda text: None)


def test_an_interrupted_client_says_that_the_job_goes_on(client: FakeClient) -> None:
    shown: list[str] = []

    def interrupt(text: str) -> None:
        shown.append(text)
        if len(shown) == 1:
            sys.exit(130)

    with pytest.raises(SystemExit, match="130"):
        follow(fake_server(client), "j", interrupt)
    assert shown[1] == "\nthe job goes on; to see it again: sailloft submit --attach j --address http://head:8265\n"


def test_a_log_that_went_with_its_node(client: FakeClient) -> None:
    client.add("j", "FAILED", message="the node died")
    client.breaks = [1] * 9
    shown: list[str] = []
    assert follow(fake_server(client), "j", shown.append).exit_code == 4
    assert shown == ["scenes done\n", "job j: the end of its log can't be had\n", "job j: FAILED: the node died\n"]


def test_waiting_needs_a_job_and_ends_with_it(client: FakeClient) -> None:
    client.add("k", "RUNNING")
    client.on_ask = lambda: client.add("k", "STOPPED")
    client.failures = []
    assert wait_for(fake_server(client), "k").exit_code == 143
    with pytest.raises(UsageError, match="job 'other'"):
        wait_for(fake_server(client), "other")
