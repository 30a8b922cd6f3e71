"""The Ray session: environment, signals, and our own errors out of Ray's."""

from __future__ import annotations

import logging
import os
import signal
import sys

import pytest

from jobs.session import (
    RAY_ENVIRONMENT,
    ClusterConfig,
    _num_cpus,
    _start_local,
    interruptible,
    plain_errors,
    ray_session,
    set_ray_environment,
)
from storage.errors import InfrastructureError, SourceError


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "mine")
    monkeypatch.delenv("RAY_DATA_DISABLE_PROGRESS_BARS", raising=False)
    set_ray_environment()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "mine"
    assert os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] == RAY_ENVIRONMENT["RAY_DATA_DISABLE_PROGRESS_BARS"]


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
