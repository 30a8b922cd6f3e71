"""What a command says where its object store refuses: one line with URL and remedy, exit code 4, within seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs import cli, runner
from tests.faulty_proxy import Faults, FaultyProxy, Refusal
from tests.s3_server import S3Server

Refused = Callable[..., str]

assert runner  # what is slow to import, torch above all, is imported before the time is taken
LIMIT_S = 30
"""A definite refusal is told at once, an address where nobody is after seconds; the rest is a busy machine's."""

COMMANDS = {
    "run": "run smoke workspace={url}",
    "dry run": "run smoke workspace={url} --dry-run",
    "curate": "curate smoke workspace={url}",
    "teach": "teach smoke workspace={url}",
    "plan": "plan smoke workspace={url}",
    "evaluate": "evaluate smoke workspace={url}",
    "sources": "curate smoke workspace={folder} scenes=null curation.root={url}",
    "compare": "compare {url}/first {url}/second",
    "corpus": "corpus show {url}/curate/0123",
    "features": "features stat {url}/features/0123",
    "lineage": "lineage {url}/curate/0123",
    "registry": "registry show {url}/registry/smoke",
    "runs": "runs list {url}",
    "view": "view {url}/benchmarks/0123",
}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Runs a command of `COMMANDS` in this process; gives the one line that it says."""
    monkeypatch.setattr("jobs.session.ray_session", None)  # no session is opened for nothing

    def run(command: str, url: str) -> str:
        line = COMMANDS[command].format(url=url, folder=tmp_path / "workspace")
        monkeypatch.setattr(sys, "argv", ["sailloft", *line.split()])
        begin_s = time.monotonic()
        code = cli.main()
        seconds = time.monotonic() - begin_s
        out, err = capfd.readouterr()
        assert code == 4, out + err
        *progress, last = err.splitlines()
        assert last.startswith("error: "), err
        assert progress == (["curate              0 reading the sources"] if command == "sources" else [])
        assert url in err
        assert seconds < LIMIT_S
        for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
            assert os.environ.get(name, "nothing of that name") not in err + out
        return err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_tells_of_a_wrong_secret(
    s3_bucket: str, refused: Refused, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "this-is-not-the-one")
    text = refused(command, f"{s3_bucket}/workspace")
    assert "check AWS_SECRET_ACCESS_KEY" in text
    assert "the server says SignatureDoesNotMatch" in text


def test_an_unknown_access_key(s3_bucket: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody-has-this-one")
    text = refused("curate", f"{s3_bucket}/workspace")
    assert "check AWS_ACCESS_KEY_ID" in text
    assert "the server says InvalidAccessKeyId" in text


def test_no_credentials(s3_bucket: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials are; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in refused("curate", s3_bucket)


@pytest.mark.parametrize("command", ["curate", "features", "runs"])
def test_no_such_bucket(s3_bucket: str, refused: Refused, command: str) -> None:
    text = refused(command, "s3://no-such-bucket/workspace")
    assert "the bucket doesn't exist; create it or correct the URL (the server says NoSuchBucket" in text


@pytest.fixture
def proxy(s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        (Refusal(403, "RequestTimeTooSkewed", "The difference is too large."), "set the clock (NTP)"),
        (Refusal(403, "AccessDenied", "Access Denied."), "grant reading, writing, deleting and listing below the URL"),
        (Refusal(400, "ExpiredToken", "The provided token has expired."), "set new ones, AWS_SESSION_TOKEN with them"),
        (Refusal(301, "PermanentRedirect", "Use the specified endpoint."), "set AWS_REGION"),
    ],
    ids=lambda value: value.code if isinstance(value, Refusal) else "",
)
def test_what_the_test_server_never_says(
    proxy: FaultyProxy, s3_bucket: str, refused: Refused, refusal: Refusal, remedy: str
) -> None:
    proxy.faults = Faults(refused_share=1.0, refusal=refusal)
    text = refused("curate", f"{s3_bucket}/workspace")
    assert remedy in text
    assert len(proxy.requests) < 10


def test_nobody_at_the_endpoint(
    s3_bucket: str, refused: Refused, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{closed_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    text = refused("run", f"{s3_bucket}/workspace")
    assert f"endpoint {endpoint} unreachable, the connection is refused; check AWS_ENDPOINT_URL" in text


def test_the_program_ends_without_a_traceback(s3_server: S3Server, s3_bucket: str) -> None:
    command = [sys.executable, "-m", "jobs", "run", "smoke", f"workspace={s3_bucket}/workspace"]
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": "this-is-not-the-one"}
    ended = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 4
    assert ended.stderr.startswith(f"error: read {s3_bucket}/workspace/")
    assert ended.stderr.count("\n") == 1
    assert s3_server.environment["AWS_ACCESS_KEY_ID"] not in ended.stderr
