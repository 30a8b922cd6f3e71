"""Token authentication: what is sent to a job server that asks for a token, and what its refusal tells the user.

Ray reads mode and token once per process, so that each client is a process of its own, as the command line is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

REPOSITORY = Path(__file__).resolve().parents[4]
TOKEN = "0123456789abcdef" * 4


@dataclass
class Dashboard:
    """Answers as Ray's does where token authentication is on: 401 without a token, 403 with another one."""

    url: str
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and what came as authorisation."""


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            shown = self.headers.get("Authorization", "")
            found.asked.append((self.command, self.path, shown))
            if not shown:
                status, text = 401, "Unauthorized: Missing authentication token"
            elif shown != f"Bearer {TOKEN}":
                status, text = 403, "Forbidden: Invalid authentication token"
            elif self.path.startswith("/api/version"):
                status, text = 200, json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""})
            else:
                status, text = 200, "[]"
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Dashboard(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def sailloft(dashboard: Dashboard, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command on the job server, by a user of whom Ray knows nothing but these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "jobs", *arguments, "--address", dashboard.url],
        env={**kept, "PYTHONPATH": str(REPOSITORY), "HOME": str(home), "NO_PROXY": "127.0.0.1", **variables},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("by_file", [False, True])
def test_the_token_is_sent_and_shown_to_nobody(by_file: bool, dashboard: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    given = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")} if by_file else {"RAY_AUTH_TOKEN": TOKEN}
    done = sailloft(dashboard, tmp_path, "jobs", "list", "--json", RAY_AUTH_MODE="token", **given)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert {shown for _, _, shown in dashboard.asked} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "refusal"),
    [
        ({}, "Unauthorized: Missing authentication token"),
        ({"RAY_AUTH_MODE": "token"}, "couldn't find an au"),  # Ray asks nobody then
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}, "Forbidden: Invalid authentication token"),
    ],
    ids=["mode unset", "no token", "another token"],
)
def test_a_refusal_says_what_to_set(
    variables: dict[str, str], refusal: str, dashboard: Dashboard, tmp_path: Path
) -> None:
    done = sailloft(dashboard, tmp_path, "submit", "smoke", "workspace=s3://bucket/prefix", **variables)
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"error: job server {dashboard.url}: access refused (" in done.stderr
    assert refusal in done.stderr
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr
    assert {method for method, _, _ in dashboard.asked} <= {"GET"}, "nothing was handed in"
