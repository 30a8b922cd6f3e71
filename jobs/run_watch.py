"""Watches a run from its driver: stages, log, the figures of all processes; and keeps its record.

The record begins with the first stage that does something, or with an error. A run that finds everything present leaves
none, unless the newest record of its recipe tells of other outputs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

from jobs.config import Recipe
from jobs.flow import Located, Outcome, Stage, State
from jobs.ledger import Ledger, Report, ledger_name
from jobs.logs import JsonFormatter, log_settings
from jobs.machine import cluster_nodes
from jobs.observing import THIS_PROCESS, RunObserver
from jobs.run_recorder import RunRecorder, error_json
from pipelines.observer import Observer
from pipelines.progress import Progress
from storage.errors import UsageError
from storage.keys import Json
from storage.objects import Objects

__all__ = ["RunWatch"]

logger = logging.getLogger(__name__)

_DRAIN_TIMEOUT_S = 10.0
_OWN_LOGGERS = (__name__, RunRecorder.__module__)
"""Their lines tell of trouble with the record, which doesn't belong into it."""


class RunWatch:
    """One run of a recipe, as its driver sees it.

    Args:
        workspace: of the recipe.
        recipe: what runs.
        clock: seconds since 1970.
    """

    def __init__(self, workspace: Objects, recipe: Recipe, clock: Callable[[], float] = time.time) -> None:
        self._recorder = RunRecorder(workspace, recipe, self._gather, clock)
        self._outcomes: list[Outcome] = []
        self._ledger: Any = None
        self._ledger_lock = threading.Lock()

    @property
    def run(self) -> str:
        """Id of the run."""
        return self._recorder.run

    def resolve(self, recipe: Recipe) -> None:
        """Tells what the recipe has come to be, where earlier stages decide on that; the end of the record has it."""
        self._recorder.recipe = recipe

    @contextmanager
    def watching(self) -> Generator[None]:
        """Records what happens until its end; an error is recorded and raised again.

        Wrong usage that is found before any stage has begun is no run, and leaves no record.
        """
        lines = _Lines(self._recorder.add_line)
        logging.getLogger().addHandler(lines)
        try:
            with THIS_PROCESS.driving(self._recorder.add_report):
                yield
        except BaseException as error:
            if self._recorder.is_open or not isinstance(error, UsageError):
                self._recorder.end(self._outcomes, error)
            raise
        finally:
            logging.getLogger().removeHandler(lines)
            self._recorder.stop()

    def finish(self) -> str:
        """Ends the record of a run that went well; its URL, or that of an earlier run with the same outputs."""
        earlier = None if self._recorder.is_open else self._recorder.same_as_newest(self._outcomes)
        if earlier is not None:
            return earlier
        self._recorder.end(self._outcomes, None)
        return self._recorder.url

    @contextmanager
    def on_ray(self) -> Generator[None]:
        """To be held within a Ray session: the processes of the run can hand in what they see."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Ledger)
        self._ledger = actor.options(name=ledger_name(self.run)).remote()
        self._recorder.event("cluster", nodes=cluster_nodes())
        try:
            yield
        finally:
            self._gather()
            with self._ledger_lock, suppress(RayError, ConnectionError):
                ledger, self._ledger = self._ledger, None
                ray.kill(ledger)

    @contextmanager
    def looking_at(self, stage: Stage) -> Generator[None]:
        """What the driver does until its end belongs to a stage."""
        with self._observer(stage.name).here("driver"):
            yield

    @contextmanager
    def running(
        self, stage: Stage, located: Located, inputs: Mapping[str, str], progress: Progress
    ) -> Generator[Progress]:
        """Records a stage that does its work; gives the progress that it should report to."""
        self._recorder.open()
        observer, name = self._observer(stage.name), stage.name
        began: dict[str, Json] = {"key": located.key, "url": located.objects.url, "inputs": dict(inputs)}
        self._recorder.event("stage_began", at_once=True, stage=name, **began)
        start_s = time.monotonic()
        try:
            with observer.here("driver"):
                yield _ObservedProgress(observer, progress)
        except BaseException as error:
            observer.count("sailloft_stages_total", state="failed")
            seconds = round(time.monotonic() - start_s, 3)
            self._recorder.event("stage_failed", stage=name, seconds=seconds, error=error_json(error))
            raise

    def settled(self, outcome: Outcome) -> None:
        """Records what became of a stage."""
        self._outcomes.append(outcome)
        observer = self._observer(outcome.name)
        observer.count("sailloft_stages_total", state=outcome.state.value)
        if outcome.state is State.RAN:
            observer.set("sailloft_stage_seconds", outcome.seconds or 0.0)
        found = {"state": outcome.state.value, "seconds": outcome.seconds, "num_starts": outcome.num_starts}
        self._recorder.event("stage_ended", at_once=True, stage=outcome.name, **found)

    def _observer(self, stage: str) -> RunObserver:
        return RunObserver(self.run, stage, log_settings().of_workers, self._ledger is not None)

    def _gather(self) -> None:
        THIS_PROCESS.flush()
        self._drain()

    def _drain(self) -> None:
        """Takes over what other processes have handed in."""
        with self._ledger_lock:
            if self._ledger is None:
                return
            import ray
            from ray.exceptions import RayError

            try:
                report = cast("Report", ray.get(self._ledger.drain.remote(), timeout=_DRAIN_TIMEOUT_S))
            except (RayError, ConnectionError) as error:
                logger.info("what the processes of the run saw can't be had just now: %s", error)
                return
        self._recorder.add_report(report)


class _ObservedProgress:
    """Progress that is a figure, too."""

    def __init__(self, observer: Observer, progress: Progress) -> None:
        self._observer, self._progress = observer, progress

    def update(self, done: int, total: int, **facts: object) -> None:
        """See `Progress.update`."""
        self._observer.set("sailloft_progress_done", done)
        self._observer.set("sailloft_progress_units", total)
        self._progress.update(done, total, **facts)


class _Lines(logging.Handler):
    """Takes warnings and errors of the log."""

    def __init__(self, add: Callable[[Mapping[str, Json]], None]) -> None:
        super().__init__(logging.WARNING)
        self._add = add
        self._formatter = JsonFormatter("driver")

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one."""
        if record.name not in _OWN_LOGGERS:
            self._add(self._formatter.as_json(record))
