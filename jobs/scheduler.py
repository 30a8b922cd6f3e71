"""A schedule on one machine: one command at a time, in the foreground, until it is told to end."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jobs.cron import Cron
from pipelines.quantities import seconds_text
from storage.errors import UsageError

__all__ = ["Runs", "keep_schedule", "time_zone"]

logger = logging.getLogger(__name__)

_GRACE_S = 90.0
"""Between SIGTERM and SIGKILL of a run: training writes a state meanwhile."""


def time_zone(name: str | None) -> tzinfo | None:
    """A time zone by its name; None: this machine's.

    Raises:
        UsageError: nobody knows it.
    """
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"--time-zone {name!r}: expected a name such as Europe/Berlin") from error


class Runs:
    """Runs a command as a process of its own, again and again, one at a time.

    Args:
        command: program and arguments; no shell reads them.
        write: receives one line per run.
        grace_s: between SIGTERM and SIGKILL.
    """

    def __init__(self, command: Sequence[str], write: Callable[[str], None], grace_s: float = _GRACE_S) -> None:
        self._command, self._write, self._grace_s = list(command), write, grace_s
        self._lock = threading.Lock()
        self._ending = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int | None:
        """Runs it once, and says how it ended.

        Returns:
            The exit code; None: nothing was begun, since the schedule ends.
        """
        with self._lock:
            if self._ending:
                return None
            self._say("begins")
            start_s = time.monotonic()
            self._process = process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        code = process.wait()
        code = code if code >= 0 else 128 - code
        self._say(f"exit code {code} after {seconds_text(time.monotonic() - start_s)}")
        return code

    def skipped(self) -> None:
        """Says that a turn was left out."""
        self._say("left out: the run before is still at work")

    def end(self) -> None:
        """Begins no more runs; the one at work is asked to end, and killed if it doesn't."""
        with self._lock:
            self._ending = True
            process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(self._grace_s)
        except subprocess.TimeoutExpired:
            logger.warning("the run did not end within %.0f s and is killed", self._grace_s)
            process.kill()
            process.wait()

    def _say(self, text: str) -> None:
        self._write(f"{datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}  {text}")


def keep_schedule(cron: Cron, runs: Runs, zone: tzinfo | None = None, at_once: bool = False) -> None:
    """Runs a command whenever its time comes, until SIGTERM or SIGINT.

    A turn that comes while a run is at work is left out; turns that were missed, the machine slept for instance, are
    made up for by one run.

    Args:
        cron: when.
        runs: what.
        zone: of the hours; None: this machine's.
        at_once: whether one run begins now.

    Raises:
        UsageError: the extra `schedule` isn't installed.
    """
    scheduler = _scheduler(zone)
    from apscheduler.events import EVENT_JOB_MAX_INSTANCES

    options: dict[str, Any] = {"next_run_time": datetime.now(zone or UTC)} if at_once else {}
    scheduler.add_job(
        runs.run, cron.trigger(zone), max_instances=1, coalesce=True, misfire_grace_time=None, id="run", **options
    )
    scheduler.add_listener(lambda event: runs.skipped(), EVENT_JOB_MAX_INSTANCES)
    with _told_to_end() as told:
        scheduler.start()
        try:
            told.wait()
        finally:
            scheduler.pause()
            runs.end()
            scheduler.shutdown(wait=True)


def _scheduler(zone: tzinfo | None) -> Any:
    try:
        from apscheduler.schedulers.background import BackgroundScheduler
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "apscheduler":
            raise
        raise UsageError("a schedule on this machine needs apscheduler; pip install 'sailloft[schedule]'") from error
    return BackgroundScheduler() if zone is None else BackgroundScheduler(timezone=zone)


@contextmanager
def _told_to_end() -> Generator[threading.Event]:
    """An event that SIGTERM and SIGINT set, which is how a schedule ends."""
    told = threading.Event()

    def tell(number: int, frame: FrameType | None) -> None:
        del number, frame
        told.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(one, tell) for one in signals]
    try:
        yield told
    finally:
        for one, handler in zip(signals, previous, strict=True):
            signal.signal(one, handler)
