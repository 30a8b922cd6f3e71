"""A schedule on one machine: one run at a time, in good order to its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from jobs.cron import Cron, parse_cron
from jobs.scheduler import Runs, keep_schedule, time_zone
from storage.errors import UsageError

_WAIT_S = 60.0


class EverySoOften(Cron):
    """Comes every few tenths of a second, which no cron expression says."""

    def trigger(self, zone: Any = None) -> Any:
        return IntervalTrigger(seconds=0.3, timezone=UTC)


class LateTrigger(BaseTrigger):
    """A hundred turns that have been missed, an hour apart, and then none for long."""

    def __init__(self) -> None:
        self.num_asked = 0
        self._start = datetime.now(UTC) - timedelta(hours=100)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        self.num_asked += 1
        return self._start if previous is None else previous + timedelta(hours=1)


class EveryTurnOf(Cron):
    """Comes when a trigger says so."""

    late: Any = None

    def trigger(self, zone: Any = None) -> Any:
        return type(self).late


OFTEN = EverySoOften("* * * * *", frozenset(), frozenset(), None, frozenset(), None)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", code]


def end_when(condition: Callable[[], bool], number: int = signal.SIGTERM) -> threading.Thread:
    """Sends this process a signal as soon as a condition holds."""

    def watch() -> None:
        deadline_s = time.monotonic() + _WAIT_S
        while not condition() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kept(command: list[str], condition: Callable[[list[str]], bool], number: int = signal.SIGTERM) -> list[str]:
    """Lines of a schedule that ends when they fulfil a condition."""
    lines: list[str] = []
    thread = end_when(lambda: condition(lines), number)
    keep_schedule(OFTEN, Runs(command, lines.append, grace_s=20.0), at_once=True)
    thread.join()
    return [line.partition("  ")[2] for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_runs_come_again_until_a_signal(number: int, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    log = tmp_path / "runs"
    command = python(f"import sys; open({str(log)!r}, 'a').write('x'); sys.exit(3)")
    lines = kept(command, lambda lines: sum("exit code 3" in line for line in lines) >= 2, number)
    assert lines[0] == "begins"
    assert lines[1].startswith("exit code 3 after ")
    assert len(log.read_text()) == lines.count("begins") >= 2
    assert signal.getsignal(number) is before


def test_a_turn_that_comes_too_early_is_left_out(tmp_path: Path) -> None:
    """A run that stands in another's way would find the folder that it made."""
    command = python(f"import os, time; os.mkdir({str(tmp_path / 'busy')!r}); time.sleep(30)")
    lines = kept(command, lambda lines: sum("left out" in line for line in lines) >= 2)
    assert lines.count("begins") == 1
    assert "left out: the run before is still at work" in lines
    # The run at work was asked to end, and did at once.
    assert lines[-1].startswith("exit code 143 after ")


def test_a_run_that_does_not_end_is_killed(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(deaf)!r}, 'w'); time.sleep(60)"
    lines: list[str] = []
    runs = Runs(python(code), lines.append, grace_s=0.3)
    thread = end_when(deaf.exists)
    keep_schedule(OFTEN, runs, at_once=True)
    thread.join()
    assert "exit code 137" in lines[-1]
    assert runs.run() is None


def test_missed_turns_are_made_up_for_once() -> None:
    """A machine that slept: a hundred turns have passed when it looks again."""
    lines: list[str] = []
    asleep = LateTrigger()
    cron = EveryTurnOf("* * * * *", frozenset(), frozenset(), None, frozenset(), None)
    EveryTurnOf.late = asleep
    thread = end_when(lambda: any("exit code" in line for line in lines))
    keep_schedule(cron, Runs(python(""), lines.append))
    thread.join()
    assert asleep.num_asked > 100
    assert sum("begins" in line for line in lines) == 1


def test_the_first_run_waits_for_its_time() -> None:
    lines: list[str] = []
    thread = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    thread.start()
    far = datetime.now(UTC) + timedelta(days=2)
    keep_schedule(parse_cron(f"0 0 {far.day} {far.month} *"), Runs(python(""), lines.append), UTC)
    thread.join()
    assert lines == []


def test_zones() -> None:
    assert time_zone(None) is None
    assert str(time_zone("Europe/Berlin")) == "Europe/Berlin"
    for name in ("Europe/Atlantis", "../../etc/passwd", ""):
        with pytest.raises(UsageError, match="expected a name such as Europe/Berlin"):
            time_zone(name)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "apscheduler"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apscheduler", None)
    with pytest.raises(UsageError, match=r"needs apscheduler; pip install 'sailloft\[schedule\]'"):
        keep_schedule(OFTEN, Runs(python(""), str))
