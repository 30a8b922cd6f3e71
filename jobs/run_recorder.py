"""Keeps the record of a run while it goes on: begun lazily, flushed by a thread of its own, ended once."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import cast

from jobs.code_version import code_version
from jobs.config import Recipe
from jobs.figures import FigureSums
from jobs.flow import Outcome
from jobs.ledger import Report
from jobs.logs import relay
from jobs.machine import machine, noted_environment, versions
from jobs.run_costs import run_costs
from storage.errors import InfrastructureError, SailloftError
from storage.keys import Json
from storage.objects import Objects
from storage.redaction import redact_json
from storage.run_records import RunFolder, find_runs, new_run_id, read_run

__all__ = ["RunRecorder", "error_json"]

logger = logging.getLogger(__name__)

_POLL_S = 2.0
_SOONEST_FLUSH_S, _LATEST_FLUSH_S = 5.0, 300.0
_FLUSH_SHARE = 0.02
"""Of the time so far: a record of ten days has three thousand pieces, not two hundred thousand."""
_MAX_LINES = 5000
"""Lines of logs in a record; what comes behind them is counted."""


class RunRecorder:
    """The record of one run of a recipe. Trouble with it is logged and never ends the run.

    Args:
        workspace: of the recipe.
        recipe: what runs.
        gather: has everything handed in that was seen elsewhere; called before each look at what is new.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        workspace: Objects,
        recipe: Recipe,
        gather: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workspace, self._gather, self._clock = workspace, gather, clock
        self.recipe = recipe
        """As it is resolved by now."""
        self._begun_s = self._flushed_s = clock()
        self.run = new_run_id(recipe.name, self._begun_s)
        self._folder = RunFolder(workspace, self.run)
        self._lock, self._flush_lock = threading.Lock(), threading.Lock()
        self._sums = FigureSums()
        self._events: list[Json] = []
        self._num_lines = self._num_lost = 0
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.is_open = False
        """Whether the record has begun."""

    @property
    def url(self) -> str:
        """Where the record is kept."""
        return self._folder.objects.url

    def open(self, *, expected: bool = True) -> bool:
        """Begins the record, if it hasn't begun.

        Args:
            expected: whether it is news if that isn't possible.

        Returns:
            Whether its beginning is written, as far as this call knows.
        """
        if self.is_open:
            return True
        self.is_open = True
        start = {
            **self._about(),
            "time": _utc(self._begun_s),
            "versions": versions(),
            "machine": machine(),
            "environment": cast("dict[str, Json]", noted_environment()),
        }
        level = logging.WARNING if expected else logging.INFO
        written = self._write("its beginning", lambda: self._folder.write_start(_clean(start)), level)
        self._thread = threading.Thread(target=self._keep, name="run record", daemon=True)
        self._thread.start()
        return written

    def event(self, kind: str, *, at_once: bool = False, **fields: Json) -> None:
        """Notes that something happened.

        Args:
            kind: what.
            at_once: writes it now, beside the run, instead of with what comes later.
            **fields: more of it.
        """
        with self._lock:
            self._events.append({"time": _utc(self._clock()), "kind": kind, **fields})
        if at_once:
            self._wake.set()

    def add_report(self, report: Report) -> None:
        """Takes in what a process saw; its log lines go through the log of this one."""
        with self._lock:
            self._sums.merge(report.sums)
            self._num_lost += report.num_lines_lost
        for line in report.lines:
            relay(line)

    def add_line(self, line: Mapping[str, Json]) -> None:
        """Takes in a line of the log."""
        with self._lock:
            if self._num_lines == _MAX_LINES:
                self._num_lost += 1
                return
            self._num_lines += 1
            self._events.append({"kind": "log", **line})

    def same_as_newest(self, outcomes: Sequence[Outcome]) -> str | None:
        """URL of the newest record of the recipe, if it tells of these outputs, and perhaps of more."""
        try:
            found = find_runs(self._workspace, self.recipe.name)
            newest = read_run(self._workspace, found[-1], with_pieces=False) if found else None
        except SailloftError as error:
            logger.warning("records of earlier runs can't be read: %s", error)
            return None
        if newest is None or newest.end is None:
            return None
        told = {(stage["name"], stage["key"]) for stage in newest.end["stages"]}
        return newest.url if told.issuperset((outcome.name, outcome.key) for outcome in outcomes) else None

    def end(self, outcomes: Sequence[Outcome], error: BaseException | None) -> None:
        """Ends the record; begins it before, where nothing has. Where that can't be written nothing else is tried: the
        store that doesn't take it is what ended the run.

        Args:
            outcomes: of the stages that came to an end.
            error: what ended the run; None: it went well.
        """
        begun = self.open(expected=not isinstance(error, InfrastructureError))
        self.stop()
        self._gather()
        if not begun or (self._events and not self._flush()):
            return
        with self._lock:
            end: dict[str, Json] = {
                **self._about(),
                "time": _utc(self._clock()),
                "seconds": round(self._clock() - self._begun_s, 3),
                "exit_code": _exit_code(error),
                "error": None if error is None else error_json(error),
                "stages": [outcome.as_json() for outcome in outcomes],
                "lines_lost": self._num_lost,
                **self._totals(),
            }
        self._write("its end", lambda: self._folder.write_end(_clean(end)))

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _keep(self) -> None:
        """Looks at what is new again and again, and writes it, until the run ends."""
        while True:
            woken = self._wake.wait(_POLL_S)
            self._wake.clear()
            if self._ended.is_set():
                return
            self._gather()
            now_s = self._clock()
            due_s = min(max(_FLUSH_SHARE * (now_s - self._begun_s), _SOONEST_FLUSH_S), _LATEST_FLUSH_S)
            if woken or now_s - self._flushed_s >= due_s:
                self._flush()

    def _flush(self) -> bool:
        with self._flush_lock:
            with self._lock:
                events, self._events = self._events, []
                piece: dict[str, Json] = {"time": _utc(self._clock()), "events": events, **self._totals()}
            self._flushed_s = self._clock()
            written = self._write("what happens", lambda: self._folder.write_piece(_clean(piece)))
            if not written:
                with self._lock:
                    self._events = [*events, *self._events]
            return written

    def _about(self) -> dict[str, Json]:
        return {
            "run": self.run,
            "name": self.recipe.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "code": asdict(code_version()),
        }

    def _totals(self) -> dict[str, Json]:
        wall_s = self._clock() - self._begun_s
        return {"figures": self._sums.to_json(), "costs": run_costs(self._sums, wall_s, self.recipe.costs)}

    def _write(self, what: str, write: Callable[[], None], level: int = logging.WARNING) -> bool:
        try:
            write()
        except SailloftError as error:
            logger.log(level, "record of the run: %s could not be written: %s", what, error)
            return False
        return True


def error_json(error: BaseException) -> dict[str, Json]:
    """An error as a record tells it; one that nobody raised on purpose comes with its traceback."""
    found: dict[str, Json] = {"class": type(error).__name__, "message": str(error)}
    if not isinstance(error, SailloftError | SystemExit | KeyboardInterrupt):
        found["traceback"] = "".join(traceback.format_exception(error))
    return found


def _exit_code(error: BaseException | None) -> int:
    """What the command returns for an error."""
    if error is None:
        return 0
    if isinstance(error, SailloftError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _clean(value: dict[str, Json]) -> dict[str, Json]:
    return cast("dict[str, Json]", redact_json(value))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
