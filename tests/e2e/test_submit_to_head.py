"""`sailloft submit` against a real head with its job server, all on loopback and with token authentication on."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.session import RAY_ENVIRONMENT
from storage.manifest import read_manifest
from storage.objects import Objects

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

REPOSITORY = Path(__file__).parents[2]
_START_TIMEOUT_S = 90


@dataclass(frozen=True)
class Head:
    """A running head: the URL of its job server and the environment that its clients need."""

    address: str
    environment: dict[str, str]

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `sailloft submit`."""
        command = [sys.executable, "-m", "jobs", "submit", *arguments, "--address", self.address]
        return subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """`ray start --head` as a process of its own, ended by its pid."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    # A short path: sockets below it may not be longer than 107 characters.
    folder = tempfile.mkdtemp(prefix="sl-", dir="/tmp")
    environment = {
        **os.environ,
        **RAY_ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONPATH": str(REPOSITORY),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody is served any more when the head ends
        "OMP_NUM_THREADS": "1",
        # The job's own `python` must be this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    address = f"http://127.0.0.1:{(dashboard_port := free_port())}"
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={free_port()}", "--num-cpus=4", f"--temp-dir={folder}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}",
        f"--runtime-env-agent-port={free_port()}", f"--metrics-export-port={free_port()}",
        f"--ray-client-server-port={free_port()}", f"--object-store-memory={256 * 2**20}",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("head") / "head.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
        try:
            _wait_until_up(process, address, token.read_text(), log)
            yield Head(address, environment)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)
            shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(process: subprocess.Popen[bytes], address: str, token: str, log: Path) -> None:
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the head did not come up within {_START_TIMEOUT_S} s:\n{log.read_text()[-3000:]}")


def test_a_submitted_recipe_runs_to_its_report(head: Head, tmp_path: Path) -> None:
    done = head.submit("smoke", f"workspace={tmp_path}", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 of 9 stages ran in" in done.stdout
    (report,) = tmp_path.glob("report/*")
    assert read_manifest(Objects.open(str(report))) is not None


def test_the_exit_code_is_that_of_the_job(head: Head, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    done = head.submit("smoke", f"workspace={tmp_path}", "scenes=null", f"curation.root={absent}", "--follow")
    assert done.returncode == 3, done.stdout + done.stderr
    assert str(absent) in done.stdout


def test_without_the_token_nothing_is_handed_in(head: Head, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    environment = {**head.environment, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    done = Head(head.address, environment).submit("smoke", f"workspace={tmp_path}")
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stderr.startswith("error: job server")
    assert "Traceback" not in done.stderr
