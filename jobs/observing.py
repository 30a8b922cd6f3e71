"""Observes the stages of a run in every process that works for it.

Figures, log lines, requests to storage and the seconds for which resources are held are gathered in the process and
handed on every few seconds: to Ray's metrics, and to whoever keeps the record of the run. In the driver that is the
record itself; other processes hand theirs to the run's ledger. What a process gathered in the last seconds before it
was killed is lost, but for its log, which Ray keeps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from jobs.figures import Figures
from jobs.ledger import Report, ledger_name
from jobs.logs import JsonFormatter, LogSettings, adopt_loggers, log_settings, set_up_logging
from jobs.ray_metrics import RayPublisher
from pipelines.observer import Observing
from storage.keys import Json
from storage.traffic import Traffic, traffic

__all__ = ["THIS_PROCESS", "RunObserver", "ThisProcess"]

logger = logging.getLogger(__name__)

_EVERY_S = 2.0
_SOONEST_S = 0.5
"""Between two reports of a process that does many short tasks."""
_MAX_LINES = 500
_QUIET = "ray"
"""Whose lines stay where they are, lest reports beget reports."""


@dataclass(frozen=True, slots=True)
class RunObserver:
    """The observer of one stage of one run, see `pipelines.observer.Observer`."""

    run: str
    stage: str
    log: LogSettings
    """Of processes that work for the run."""
    has_ledger: bool
    """Whether other processes can hand in what they see."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Run and stage."""
        return {"run": self.run, "stage": self.stage}

    def here(self, role: str = "worker") -> AbstractContextManager[None]:
        """See `Observer.here`."""
        return _Here(self, role)

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """See `Metrics.count`."""
        THIS_PROCESS.figures.count(self.stage, name, amount, labels)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """See `Metrics.set`."""
        THIS_PROCESS.figures.set(self.stage, name, value, labels)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """See `Metrics.observe`."""
        THIS_PROCESS.figures.observe(self.stage, name, value, labels)


class _Here:
    """Not a generator, which would come to its end when an actor's process is cleared away."""

    def __init__(self, observer: RunObserver, role: str) -> None:
        self._observer, self._role = observer, role
        self._current = Observing(observer)

    def __enter__(self) -> None:
        self._current.__enter__()
        THIS_PROCESS.enter(self._observer, self._role)

    def __exit__(self, *_: object) -> None:
        THIS_PROCESS.leave()
        self._current.__exit__(None, None, None)


class ThisProcess:
    """What a process gathers, for whichever stage it works."""

    def __init__(self) -> None:
        self.figures = Figures()
        self._publisher = RayPublisher()
        self._lock = threading.RLock()
        self._sink: Callable[[Report], object] | None = None
        self._is_driver = False
        self._observer: RunObserver | None = None
        self._depth = 0
        self._traffic = Traffic()
        self._charged_s = self._flushed_s = 0.0
        self._resources: Mapping[str, float] = {}
        # A lock of its own: whoever logs holds a lock of logging, and whoever holds the other one may log.
        self._line_lock = threading.Lock()
        self._lines: list[Mapping[str, Json]] = []
        self._num_lost = 0
        self._handler: _Forwarding | None = None
        self._thread: threading.Thread | None = None

    @contextmanager
    def driving(self, sink: Callable[[Report], object]) -> Generator[None]:
        """Makes this process the driver of a run, until its end.

        Args:
            sink: takes its reports.
        """
        with self._lock:
            before = self._sink, self._is_driver, self._observer
            self._sink, self._is_driver, self._observer = sink, True, None
            self._traffic = traffic()
        try:
            yield
        finally:
            self.flush()
            with self._lock:
                self._sink, self._is_driver, self._observer = before

    def enter(self, observer: RunObserver, role: str) -> None:
        """Begins to work for a stage."""
        with self._lock:
            self._settle()
            fresh = self._observer is None or self._observer.run != observer.run
            if self._observer is None:
                self._traffic = traffic()
            self._observer = observer
            self._depth += 1
            if self._is_driver:
                return
            if self._depth == 1:
                self._resources, self._charged_s = _assigned_resources(), time.monotonic()
            if fresh:
                self._join(observer, role)

    def leave(self) -> None:
        """Ends what `enter` began."""
        with self._lock:
            self._settle()
            self._depth -= 1
            soon = time.monotonic() - self._flushed_s >= _SOONEST_S
        if soon and not self._is_driver:
            self.flush()

    def flush(self) -> None:
        """Hands on what was gathered."""
        with self._lock:
            self._settle()
            self._flushed_s = time.monotonic()
            sums, values = self.figures.take()
            self._publisher.publish(sums, values)
            with self._line_lock:
                report = Report(sums, self._lines, self._num_lost)
                self._lines, self._num_lost = [], 0
            if report and self._sink is not None:
                self._sink(report)

    def add_line(self, line: Mapping[str, Json]) -> None:
        """Takes in a line of the log."""
        with self._line_lock:
            if len(self._lines) < _MAX_LINES:
                self._lines.append(line)
            else:
                self._num_lost += 1

    def _join(self, observer: RunObserver, role: str) -> None:
        """A process that begins to work for a run: its log is set up, and it finds out where to hand things in."""
        if log_settings() != observer.log or self._handler is None:
            set_up_logging(observer.log, role)
        adopt_loggers()
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
        self._handler = _Forwarding(role, self.add_line)
        logging.getLogger().addHandler(self._handler)
        self._sink = _ledger_of(observer.run) if observer.has_ledger else None
        if self._thread is None:
            self._thread = threading.Thread(target=self._report_forever, name="observing", daemon=True)
            self._thread.start()
        logger.info("a process works for %s", observer.stage, extra={"fields": {"resources": dict(self._resources)}})

    def _report_forever(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            self.flush()

    def _settle(self) -> None:
        """Books what was used since the last time, on the stage that this process works for."""
        if self._observer is None:
            return
        now = traffic()
        used, self._traffic = now.since(self._traffic), now
        for (scheme, kind), number in used.requests.items():
            self._observer.count("sailloft_storage_requests_total", number, scheme=scheme, request=kind)
        for direction, found in (("read", used.read_bytes), ("written", used.written_bytes)):
            for scheme, number in found.items():
                self._observer.count("sailloft_storage_bytes_total", number, scheme=scheme, direction=direction)
        if self._is_driver or not self._depth:
            return
        now_s = time.monotonic()
        held_s, self._charged_s = now_s - self._charged_s, now_s
        for resource, name in (
            ("CPU", "sailloft_worker_cpu_seconds_total"),
            ("GPU", "sailloft_worker_gpu_seconds_total"),
        ):
            if self._resources.get(resource):
                self._observer.count(name, held_s * self._resources[resource])


THIS_PROCESS = ThisProcess()
"""Of this process."""


class _Forwarding(logging.Handler):
    """Takes lines of the log for the driver: warnings, and whatever else our own packages log at their level."""

    def __init__(self, role: str, add_line: Callable[[Mapping[str, Json]], None]) -> None:
        super().__init__()
        self._add_line = add_line
        self.setFormatter(JsonFormatter(role))

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one."""
        if record.name.split(".")[0] != _QUIET:
            formatter = self.formatter
            assert isinstance(formatter, JsonFormatter)
            self._add_line(formatter.as_json(record))


def _ledger_of(run: str) -> Callable[[Report], object] | None:
    import ray

    try:
        ledger = ray.get_actor(ledger_name(run))
    except ValueError:  # the run has ended
        return None
    return lambda report: ledger.add.remote(report)


def _assigned_resources() -> Mapping[str, float]:
    import ray

    return ray.get_runtime_context().get_assigned_resources()
