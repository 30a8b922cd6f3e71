"""The Ray session: environment, signals, and our own errors out of Ray's."""

from __future__ import annotations

import os
import signal

import pytest

from jobs.session import RAY_ENVIRONMENT, interruptible, plain_errors, set_ray_environment
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
