"""Runs stages in order: what is present is left alone, what is missing is made, and a record is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from jobs.code_version import code_version
from jobs.display import Display
from pipelines.progress import Progress
from pipelines.quantities import seconds_text
from storage.errors import InfrastructureError, UsageError
from storage.keys import Json
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.stage_notes import StageNote, read_note, write_note

__all__ = ["FlowWatch", "Located", "Outcome", "Outputs", "Stage", "State", "Timings", "run_stages"]

logger = logging.getLogger(__name__)


class State(StrEnum):
    """What became of a stage."""

    RAN = "ran"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class Located:
    """An output: its content key and where it lies."""

    key: str
    objects: Objects
    """Prefix of the manifest that says that it is complete."""
    store: Objects | None = None
    """Prefix that its readers open, where that is another: a feature store serves many corpora."""

    @property
    def readable(self) -> Objects:
        """Prefix that its readers open."""
        return self.store or self.objects

    @property
    def complete(self) -> bool:
        """Whether the output exists, which its manifest says."""
        return read_manifest(self.objects) is not None


Outputs = Mapping[str, Located]
"""Outputs of earlier stages, by the stage's name."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One arrow of the flow."""

    name: str
    """What people read, such as `teach sam2`; distinct within a flow."""
    command: str
    """The verb of the command line that ends with this stage: `scenes`, `curate`, `teach`, `train`, `evaluate`."""
    inputs: tuple[str, ...]
    """Names of the stages whose outputs it reads."""
    locate: Callable[[Outputs, Progress | None], Located | None]
    """Works out the output's address; may read the sources, and shows that. Without a progress it only has a
    look: writes nothing, reads nothing large, and returns None if that isn't enough."""
    run: Callable[[Outputs, Located, Progress], object]
    """Makes the output at that address; called only while it isn't complete."""
    needs_ray: bool = True
    """Whether a Ray session has to be there while it runs."""
    complete: Callable[[Outputs, Located], bool] = field(default=lambda outputs, located: located.complete)
    """Whether the output at an address is whole; its manifest decides, unless a stage knows better."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stage in a run."""

    name: str
    key: str
    url: str
    state: State
    seconds: float | None
    """Wall time of the run that did the work, whenever that was; None: unknown or not done."""
    num_starts: int
    """How often the stage was begun; more than 1 means that it was interrupted and went on."""

    def as_json(self) -> dict[str, Json]:
        """The outcome as plain data."""
        return {
            "name": self.name,
            "key": self.key,
            "url": self.url,
            "state": self.state.value,
            "seconds": self.seconds,
            "num_starts": self.num_starts,
        }


class Timings:
    """What is noted of each output's making, kept beside the outputs since those hold no clock.

    Args:
        objects: prefix of the notes, one small JSON file per output.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def read(self, key: str) -> tuple[float | None, int]:
        """Seconds of the run that made the output (None: unknown) and the number of starts."""
        note = read_note(self._objects, key)
        return (None, 0) if note is None else (note.seconds, note.num_starts)

    def start(self, key: str, inputs: Mapping[str, str]) -> StageNote:
        """Notes that an output is begun, by which code and of what; returns the note."""
        before = read_note(self._objects, key) or StageNote(None, 0)
        code = tuple(dict.fromkeys([*before.code, code_version()]))
        note = StageNote(None, before.num_starts + 1, code, inputs)
        write_note(self._objects, key, note)
        return note

    def finish(self, key: str, seconds: float, note: StageNote) -> None:
        """Notes how long the start that finished the output took."""
        write_note(self._objects, key, replace(note, seconds=seconds))


class FlowWatch(Protocol):
    """Is told what happens to stages."""

    def looking_at(self, stage: Stage) -> AbstractContextManager[None]:
        """Held while a stage is looked at, and run if it is missing."""
        ...

    def running(
        self, stage: Stage, located: Located, inputs: Mapping[str, str], progress: Progress
    ) -> AbstractContextManager[Progress]:
        """Held while a stage runs, which reports to the progress that this gives; `inputs` are keys by stage."""
        ...

    def settled(self, outcome: Outcome) -> None:
        """Told what became of a stage."""
        ...


class _Unwatched:
    def looking_at(self, stage: Stage) -> AbstractContextManager[None]:
        del stage
        return nullcontext()

    def running(
        self, stage: Stage, located: Located, inputs: Mapping[str, str], progress: Progress
    ) -> AbstractContextManager[Progress]:
        del stage, located, inputs
        return nullcontext(progress)

    def settled(self, outcome: Outcome) -> None:
        pass


def run_stages(
    stages: Sequence[Stage],
    display: Display,
    timings: Timings,
    session: Callable[[], AbstractContextManager[None]],
    watch: FlowWatch | None = None,
    only: Collection[str] | None = None,
    given: Outputs = MappingProxyType({}),
) -> tuple[list[Outcome], dict[str, Located]]:
    """Runs what is missing, in order.

    Args:
        stages: the flow; each one's inputs are outputs of earlier ones.
        display: where progress is shown.
        timings: where seconds are kept.
        session: opens the Ray session; entered at most once, and only if a missing stage needs it.
        watch: told what happens.
        only: commands that may do work; outputs of the others have to be there if anything reads them. None: all.
        given: outputs that are there already, of stages that aren't among these.

    Returns:
        One outcome per stage whose output is there, and the outputs by the stage's name, those given among them.

    Raises:
        UsageError: a stage of `only` reads an output that is missing and that nobody may make.
        InfrastructureError: a stage returned but its output isn't there.
        SailloftError: whatever a stage raises.
    """
    watch = watch or _Unwatched()
    outcomes: list[Outcome] = []
    outputs: dict[str, Located] = dict(given)
    absent: dict[str, Stage] = {}
    with ExitStack() as stack:
        in_session = False
        for stage in stages:
            progress = display.stage(stage.name)
            with watch.looking_at(stage):
                located = _located(stage, outputs, absent, progress, only)
                if located is None:
                    absent[stage.name] = stage
                    continue
                if stage.complete(outputs, located):
                    outcome = _outcome(stage, located, State.PRESENT, timings)
                    display.note(stage.name, "present, nothing to do")
                else:
                    if stage.needs_ray and not in_session:
                        stack.enter_context(session())
                        in_session = True
                    outcome = _run(stage, outputs, located, display, progress, timings, watch)
            outputs[stage.name] = located
            outcomes.append(outcome)
            watch.settled(outcome)
    return outcomes, outputs


def _located(
    stage: Stage, outputs: Outputs, absent: Mapping[str, Stage], progress: Progress, only: Collection[str] | None
) -> Located | None:
    """Where a stage's output lies; None: it isn't there, and nobody may make it."""
    lacking = [absent[name] for name in stage.inputs if name in absent]
    if only is not None and stage.command not in only:
        located = None if lacking else stage.locate(outputs, progress)
        return located if located is not None and stage.complete(outputs, located) else None
    if lacking:
        raise _lacks(stage, lacking)
    located = stage.locate(outputs, progress)
    assert located is not None, stage.name
    return located


def _lacks(stage: Stage, lacking: Sequence[Stage]) -> UsageError:
    names = ", ".join(item.name for item in lacking)
    commands = ",".join(dict.fromkeys(item.command for item in lacking))
    return UsageError(
        f"{stage.name}: expected the output of {names}, which it reads, found none; run that first, or add "
        f"{commands} to --stages"
    )


def _outcome(stage: Stage, located: Located, state: State, timings: Timings) -> Outcome:
    seconds, num_starts = timings.read(located.key)
    return Outcome(stage.name, located.key, located.objects.url, state, seconds, num_starts)


def _run(
    stage: Stage,
    outputs: Outputs,
    located: Located,
    display: Display,
    progress: Progress,
    timings: Timings,
    watch: FlowWatch,
) -> Outcome:
    inputs = {name: outputs[name].key for name in stage.inputs}
    note = timings.start(located.key, inputs)
    logger.info("%s begins: %s", stage.name, located.objects.url)
    start_s = time.perf_counter()
    with watch.running(stage, located, inputs, progress) as watched:
        stage.run(outputs, located, watched)
    seconds = round(time.perf_counter() - start_s, 3)
    if not stage.complete(outputs, located):
        raise InfrastructureError(
            f"{stage.name}: expected a finished output at {located.objects.url} after the stage, found none; "
            "was the workspace changed by somebody else? Run the command again"
        )
    timings.finish(located.key, seconds, note)
    again = f" (begun {note.num_starts} times)" if note.num_starts > 1 else ""
    display.note(stage.name, f"done in {seconds_text(seconds)}{again}")
    return _outcome(stage, located, State.RAN, timings)
