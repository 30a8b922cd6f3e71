"""The Ray session: environment, signals, and our own errors out of Ray's."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.interruption import interruptible
from jobs.session import (
    RAY_ENVIRONMENT,
    ClusterConfig,
    _num_cpus,
    _start_local,
    plain_errors,
    ray_session,
    set_ray_environment,
)
from storage.errors import InfrastructureError, SourceError

REPOSITORY = Path(__file__).resolve().parents[3]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "mine")
    monkeypatch.delenv("RAY_DATA_DISABLE_PROGRESS_BARS", raising=False)
    set_ray_environment()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "mine"
    assert os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] == RAY_ENVIRONMENT["RAY_DATA_DISABLE_PROGRESS_BARS"]


def test_processes_of_a_cluster_do_not_listen_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RAY_ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    set_ray_environment(local=False)
    assert {name for name in RAY_ENVIRONMENT if name not in os.environ} == {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    set_ray_environment()
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


@pytest.mark.parametrize("mode", ["disabled", "token", None])
@pytest.mark.parametrize("address", ["ray://elsewhere:10001", "local"])
def test_the_users_authentication_stays(address: str, mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is imported already, as here, nothing is set at all: Ray then decides by itself."""
    import ray

    seen: list[str | None] = []

    def init(**_: object) -> None:
        seen.append(os.environ.get("RAY_AUTH_MODE"))
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_AUTH_MODE", mode or "")
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(InfrastructureError, match="nobody there"), ray_session(ClusterConfig(address=address)):
        pass
    assert seen == [mode]
    assert os.environ.get("RAY_AUTH_MODE") == mode


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FileNotFoundError(2, "No such file or directory", "/proc/.ray"), "set HOME to a folder that can be written"),
        (OSError(28, "No space left on device", "/tmp/ray"), "`sailloft doctor` looks at memory and /dev/shm"),
    ],
)
def test_a_session_that_does_not_start_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: OSError, remedy: str
) -> None:
    import ray

    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InfrastructureError, match=remedy), ray_session(ClusterConfig(address="local")):
        pass


_SESSION = """
import sys
from jobs.session import ClusterConfig, ray_session
with ray_session(ClusterConfig(num_cpus=1)):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
_STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=10))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_session_of_our_own_answers_those_who_hold_its_token_alone(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}

    def ask(address: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _STRANGER, address],
            env={**own, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    with subprocess.Popen(
        [sys.executable, "-c", _SESSION], env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        try:
            assert session.stdout is not None
            address = session.stdout.readline().strip()
            assert address.startswith("127.0.0.1:"), "it listens on loopback"
            held = ask(address, RAY_AUTH_MODE="token")
            assert held.returncode == 0, held.stderr
            for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}):
                refused = ask(address, **variables)
                assert refused.returncode == 1
                assert "uthenticat" in refused.stderr
        finally:
            session.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_unwind_the_stack_and_handlers_are_put_back(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit, match=str(code)), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_signal_while_ray_starts_ends_by_our_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler is in place then, and ends the process with the bare number."""
    import ray

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"), interruptible(), ray_session(ClusterConfig(address="elsewhere")):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_signal_that_meets_rays_waiting_ends_by_our_code() -> None:
    """Ray raises 1 in the place of the code that the handler gave."""
    import ray

    def rest() -> None:
        time.sleep(5)

    task: Any = ray.remote(rest)
    resting = task.remote()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit, match="143"), interruptible():
        ray.wait([resting], timeout=5)
    ray.cancel(resting, force=True)


@pytest.mark.parametrize(
    ("resources", "warned"), [({}, True), ({"CPU": 0.0, "memory": 5.0}, True), ({"CPU": 1.0}, False)]
)
def test_a_cluster_without_workers_is_told(
    resources: dict[str, float], warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    with caplog.at_level(logging.WARNING), ray_session(ClusterConfig(address="ray://elsewhere:10001")):
        pass
    assert ("stages wait until a worker joins" in caplog.text) == warned


def test_errors_of_tasks_come_out_as_raised() -> None:
    from ray.exceptions import RayTaskError
    from ray.train import WorkerGroupError

    inner = SourceError("refs(unc).p is torn")
    task_error = RayTaskError("read", "Traceback: many lines", inner).as_instanceof_cause()
    with pytest.raises(SourceError, match=r"^refs\(unc\)\.p is torn$"), plain_errors():
        raise task_error
    with pytest.raises(SourceError, match=r"^refs\(unc\)\.p is torn$"), plain_errors():
        raise WorkerGroupError("two workers failed", {0: task_error})


def test_trouble_of_ray_is_infrastructure() -> None:
    from ray.exceptions import WorkerCrashedError

    with pytest.raises(InfrastructureError, match=r"Ray: WorkerCrashedError: .*run the command again"), plain_errors():
        raise WorkerCrashedError


def test_a_bug_in_a_task_stays_a_bug() -> None:
    from ray.exceptions import RayTaskError

    with pytest.raises(RayTaskError, match="no such key"), plain_errors():
        raise RayTaskError("read", "no such key", KeyError("x"))


def test_a_late_node_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    starts: list[dict[str, object]] = []

    def init(**options: object) -> None:
        starts.append(options)
        if len(starts) < 3:
            raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    _start_local(ClusterConfig(num_cpus=2), logging.ERROR, False)
    assert len(starts) == 3
    assert starts[0]["num_cpus"] == 2
    starts[:] = []
    monkeypatch.setattr("jobs.session._MAX_STARTS", 2)
    with pytest.raises(InfrastructureError, match="Ray didn't start: The current node timed out"):
        _start_local(ClusterConfig(), logging.ERROR, False)


def test_logical_cpus_are_enough_for_two_workers_and_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert _num_cpus(ClusterConfig()) == 4
    assert _num_cpus(ClusterConfig(num_cpus=3)) == 3
