"""Runs stages in order: what is present is left alone, what is missing is made, and a record is kept."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from jobs.display import Display, format_seconds
from pipelines.progress import Progress
from storage.errors import InfrastructureError, ObjectNotFound
from storage.keys import Json
from storage.manifest import read_manifest
from storage.objects import Objects

__all__ = ["Located", "Outcome", "Outputs", "Stage", "State", "Timings", "run_stages"]

logger = logging.getLogger(__name__)

_TIMINGS_VERSION = 1


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
    """Seconds that each output took, kept beside the outputs since those hold no clock.

    Args:
        objects: prefix of the notes, one small JSON file per output.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def read(self, key: str) -> tuple[float | None, int]:
        """Seconds of the run that made the output (None: unknown) and the number of starts."""
        try:
            note = cast("dict[str, object]", json.loads(self._objects.read(f"{key}.json")))
        except (ObjectNotFound, ValueError):
            return None, 0
        seconds, num_starts = note.get("seconds"), note.get("num_starts")
        known = isinstance(seconds, int | float)
        return float(cast("float", seconds)) if known else None, num_starts if isinstance(num_starts, int) else 0

    def start(self, key: str) -> int:
        """Notes that an output is begun; returns which start this is, from 1."""
        num_starts = self.read(key)[1] + 1
        self._write(key, None, num_starts)
        return num_starts

    def finish(self, key: str, seconds: float, num_starts: int) -> None:
        """Notes how long the start that finished the output took."""
        self._write(key, seconds, num_starts)

    def _write(self, key: str, seconds: float | None, num_starts: int) -> None:
        note = {"version": _TIMINGS_VERSION, "seconds": seconds, "num_starts": num_starts}
        self._objects.put(f"{key}.json", json.dumps(note).encode())


def run_stages(
    stages: Sequence[Stage],
    display: Display,
    timings: Timings,
    session: Callable[[], AbstractContextManager[None]],
    on_outcome: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> tuple[list[Outcome], dict[str, Located]]:
    """Runs what is missing, in order.

    Args:
        stages: the flow; each one's inputs are outputs of earlier ones.
        display: where progress is shown.
        timings: where seconds are kept.
        session: opens the Ray session; entered at most once, and only if a missing stage needs it.
        on_outcome: told all outcomes so far after each stage.

    Returns:
        One outcome per stage, and the outputs by the stage's name.

    Raises:
        InfrastructureError: a stage returned but its output isn't there.
        SailloftError: whatever a stage raises.
    """
    outcomes: list[Outcome] = []
    outputs: dict[str, Located] = {}
    with ExitStack() as stack:
        in_session = False
        for stage in stages:
            progress = display.stage(stage.name)
            located = stage.locate(outputs, progress)
            assert located is not None, stage.name
            if stage.complete(outputs, located):
                outcome = _outcome(stage, located, State.PRESENT, timings)
                display.note(stage.name, "present, nothing to do")
            else:
                if stage.needs_ray and not in_session:
                    stack.enter_context(session())
                    in_session = True
                outcome = _run(stage, outputs, located, display, progress, timings)
            outputs[stage.name] = located
            outcomes.append(outcome)
            on_outcome(outcomes)
    return outcomes, outputs


def _outcome(stage: Stage, located: Located, state: State, timings: Timings) -> Outcome:
    seconds, num_starts = timings.read(located.key)
    return Outcome(stage.name, located.key, located.objects.url, state, seconds, num_starts)


def _run(
    stage: Stage, outputs: Outputs, located: Located, display: Display, progress: Progress, timings: Timings
) -> Outcome:
    num_starts = timings.start(located.key)
    logger.info("%s begins: %s", stage.name, located.objects.url)
    start_s = time.perf_counter()
    stage.run(outputs, located, progress)
    seconds = round(time.perf_counter() - start_s, 3)
    if not stage.complete(outputs, located):
        raise InfrastructureError(
            f"{stage.name}: expected a finished output at {located.objects.url} after the stage, found none; "
            "was the workspace changed by somebody else? Run the command again"
        )
    timings.finish(located.key, seconds, num_starts)
    again = f" (begun {num_starts} times)" if num_starts > 1 else ""
    display.note(stage.name, f"done in {format_seconds(seconds)}{again}")
    return _outcome(stage, located, State.RAN, timings)
