"""What is seen while stages run: a live bar on a terminal, one plain line per interval elsewhere, records in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from jobs.colour import is_live
from jobs.logs import PROGRESS_LOGGER, log_settings
from pipelines.progress import Progress
from pipelines.quantities import seconds_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = [
    "Display",
    "Displays",
    "LogDisplay",
    "Pace",
    "PlainDisplay",
    "TerminalDisplay",
    "open_display",
    "progress_line",
]

_INTERVAL_S = 5.0
"""Seconds between two plain lines: often enough to see life, seldom enough for a log file."""


class Display(Protocol):
    """Where the runner of stages shows what happens."""

    def stage(self, name: str) -> Progress:
        """Opens a stage and returns what it reports to."""
        ...

    def note(self, name: str, text: str) -> None:
        """Says one thing about a stage, which also ends its progress."""
        ...


class Pace:
    """Rate and remaining time of a stage, from what was done since the first report.

    Units of an earlier, interrupted run count as done but not for the rate.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = clock()
        self._first_done: int | None = None
        self.done = 0
        self.total = 0

    def update(self, done: int, total: int) -> None:
        """Takes in a report."""
        if self._first_done is None:
            self._first_done, self._start_s = done, self._clock()
        self.done, self.total = done, total

    @property
    def per_second(self) -> float | None:
        """Units per second; None before there is anything to go by."""
        elapsed_s = self._clock() - self._start_s
        gained = self.done - (self._first_done or 0)
        return gained / elapsed_s if gained > 0 and elapsed_s > 0 else None

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the present rate."""
        rate = self.per_second
        return None if rate is None or self.total <= 0 else max(0, self.total - self.done) / rate


def _fact(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def progress_line(name: str, pace: Pace, facts: Mapping[str, object]) -> str:
    """One plain line: stage, done and total, rate, time to go, facts."""
    shown = dict(facts)
    unit = str(shown.pop("unit", "")).strip()
    count = f"{pace.done}/{pace.total}" if pace.total > 0 else str(pace.done)
    parts = [f"{name:<18}", f"{count} {unit}".strip()]
    if pace.per_second is not None:
        parts.append(f"{pace.per_second:.3g}/s")
    if pace.remaining_s:
        parts.append(f"{seconds_text(pace.remaining_s)} to go")
    parts.extend(f"{key}={_fact(value)}" for key, value in shown.items())
    return "  ".join(parts)


class _TimedStage:
    """Tells how far a stage is, once per interval."""

    def __init__(
        self, tell: Callable[[Pace, Mapping[str, object]], None], interval_s: float, clock: Callable[[], float]
    ) -> None:
        self._tell, self._interval_s, self._clock = tell, interval_s, clock
        self._pace = Pace(clock)
        self._last_s = float("-inf")

    def update(self, done: int, total: int, **facts: object) -> None:
        self._pace.update(done, total)
        now_s = self._clock()
        if now_s - self._last_s >= self._interval_s:
            self._last_s = now_s
            self._tell(self._pace, facts)


class PlainDisplay:
    """One line per event and per interval, for log files and pipes.

    Args:
        stream: where the lines go.
        interval_s: seconds between two lines of a stage.
        clock: seconds, monotonic.
    """

    def __init__(
        self, stream: TextIO, interval_s: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._interval_s, self._clock = stream, interval_s, clock

    def stage(self, name: str) -> Progress:
        """Opens a stage; its first report is shown at once."""

        def tell(pace: Pace, facts: Mapping[str, object]) -> None:
            self._write(progress_line(name, pace, facts))

        return _TimedStage(tell, self._interval_s, self._clock)

    def note(self, name: str, text: str) -> None:
        """Writes one line on a stage."""
        self._write(f"{name:<18}  {text}")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class _TerminalStage:
    def __init__(self, bars: RichProgress, name: str, tasks: dict[str, TaskID]) -> None:
        self._bars, self._name, self._tasks = bars, name, tasks
        self._pace = Pace()

    def update(self, done: int, total: int, **facts: object) -> None:
        self._pace.update(done, total)
        if self._name not in self._tasks:
            self._tasks[self._name] = self._bars.add_task(self._name, total=None, facts="")
        shown = dict(facts)
        unit = str(shown.pop("unit", ""))
        rate = f"{self._pace.per_second:.3g}/s" if self._pace.per_second is not None else ""
        text = "  ".join(filter(None, [unit, rate, *(f"{key}={_fact(value)}" for key, value in shown.items())]))
        self._bars.update(self._tasks[self._name], completed=done, total=total or None, facts=text)


class TerminalDisplay:
    """A live bar per running stage and one line that stays for each finished one.

    Args:
        bars: a started rich progress with a column for the field `facts`.
    """

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def stage(self, name: str) -> Progress:
        """Opens a stage; its first report adds the bar."""
        return _TerminalStage(self._bars, name, self._tasks)

    def note(self, name: str, text: str) -> None:
        """Replaces the bar of a stage with a line."""
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)
        self._bars.console.print(f"{name:<18}  {text}", markup=False, highlight=False, soft_wrap=True)


class LogDisplay:
    """A record of the log per event and per interval.

    Args:
        interval_s: seconds between two records of a stage.
        clock: seconds, monotonic.
    """

    def __init__(self, interval_s: float = _INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s, self._clock = interval_s, clock
        self._logger = logging.getLogger(PROGRESS_LOGGER)

    def stage(self, name: str) -> Progress:
        """Opens a stage; its first report is logged at once."""

        def tell(pace: Pace, facts: Mapping[str, object]) -> None:
            fields = {"done": pace.done, "total": pace.total, "per_second": pace.per_second, **facts}
            line = " ".join(progress_line(name, pace, facts).split())
            self._logger.info("%s", line, extra={"fields": fields, "origin": {"stage": name}})

        return _TimedStage(tell, self._interval_s, self._clock)

    def note(self, name: str, text: str) -> None:
        """Logs one thing about a stage."""
        self._logger.info("%s: %s", name, text, extra={"origin": {"stage": name}})


class Displays:
    """Several displays at once."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = displays

    def stage(self, name: str) -> Progress:
        """Opens a stage on all of them."""
        return _Stages([display.stage(name) for display in self._displays])

    def note(self, name: str, text: str) -> None:
        """Says one thing about a stage on all of them."""
        for display in self._displays:
            display.note(name, text)


class _Stages:
    def __init__(self, stages: Sequence[Progress]) -> None:
        self._stages = stages

    def update(self, done: int, total: int, **facts: object) -> None:
        for stage in self._stages:
            stage.update(done, total, **facts)


@contextmanager
def open_display(stream: TextIO | None = None) -> Generator[Display]:
    """The display that suits the log and the stream.

    Where every line of the log has to be JSON, progress is a part of the log; a log file gets it too.

    Args:
        stream: where people look; standard error by default, so that standard output holds results alone.
    """
    settings = log_settings()
    if settings.json_on_stderr:
        yield LogDisplay()
        return
    with _open_for_people(stream or sys.stderr) as display:
        yield display if settings.file is None else Displays([display, LogDisplay()])


@contextmanager
def _open_for_people(target: TextIO) -> Generator[Display]:
    """Live on a terminal, plain lines elsewhere, colour or not. `NO_COLOR` is honoured."""
    if not is_live(target):
        yield PlainDisplay(target)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[facts]}", style="dim", markup=False),
        console=Console(file=target),
    )
    with bars:
        yield TerminalDisplay(bars)
