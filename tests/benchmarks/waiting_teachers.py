"""Teachers that wait instead of computing, several in one process: many actors on a machine of few cores.

A process of Ray that has imported what a teacher needs takes some 200 MB and 2.5 s of a core to start, so that
64 of them don't fit here. Here each process holds several of the pipeline's own actors, and the pool, the dispatcher
and all that travels is the pipeline's: what is simulated is where actors live, and what their accelerators do.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import ray
from torch import Tensor

from pipelines.distillation import pipeline
from pipelines.distillation.plan import ShardTask
from pipelines.distillation.teaching import Job
from pipelines.distillation.worker import ShardResult
from pipelines.observer import Observer
from teachers.registry import TeacherCard
from tests.ledger_teacher import LedgerTeacher, LedgerTeacherConfig

__all__ = ["WaitingTeacherConfig", "WorkedSpan", "seats_in_processes", "worked_spans"]

_LOOK_EVERY_S = 0.1
_SHARDS_PER_SEAT = 2  # as the pipeline's own actors have


class WaitingTeacherConfig(LedgerTeacherConfig, frozen=True):
    """A teacher that begins when all of its kind are there, and notes how long it was at work."""

    kind: Literal["ledger"] = "ledger"
    meeting: str
    """Folder in which every teacher leaves a file when it is built, with a line for each forward pass."""
    num_teachers: int
    """That meet there before any of them begins."""

    def build(self, device: str = "cpu") -> WaitingTeacher:
        """The teacher, once all are there."""
        return WaitingTeacher(self)


class WaitingTeacher(LedgerTeacher):
    """See `WaitingTeacherConfig`."""

    def __init__(self, config: WaitingTeacherConfig) -> None:
        super().__init__(config)
        folder = Path(config.meeting)
        folder.mkdir(parents=True, exist_ok=True)
        self._notes = folder / f"{uuid.uuid4().hex}.txt"
        self._notes.touch()
        while len(list(folder.iterdir())) < config.num_teachers:
            time.sleep(_LOOK_EVERY_S)

    def forward(self, batch: Tensor) -> Tensor:
        """As the ledger's, with its times noted."""
        start_s = time.time()
        features = super().forward(batch)
        with self._notes.open("a") as file:
            file.write(f"{start_s} {time.time()} {len(batch)}\n")
        return features


@dataclass(frozen=True, slots=True)
class WorkedSpan:
    """One teacher, from the start of its first forward pass to the end of its last one."""

    start_s: float
    end_s: float
    num_images: int
    num_forwards: int
    forward_s: float
    """Of all its forward passes."""


def worked_spans(meeting: Path) -> list[WorkedSpan]:
    """What the teachers that met in a folder have done; those that did nothing are left out."""
    spans: list[WorkedSpan] = []
    for path in meeting.iterdir():
        lines = [line.split() for line in path.read_text().splitlines()]
        if lines:
            starts, ends = ([float(line[place]) for line in lines] for place in (0, 1))
            forward_s = sum(end_s - start_s for start_s, end_s in zip(starts, ends, strict=True))
            num_images = sum(int(line[2]) for line in lines)
            spans.append(WorkedSpan(min(starts), max(ends), num_images, len(lines), forward_s))
    return spans


class _Host:
    """Some of the pipeline's actors in one process."""

    def __init__(self, job: Job, observer: Observer, num_seats: int) -> None:
        self._actors = [pipeline._TeacherActor(job, observer) for _ in range(num_seats)]

    @ray.method(concurrency_group="watch")
    def steps(self, seat: int) -> dict[str, int]:
        """As the actor's own."""
        return self._actors[seat].steps()

    @ray.method(concurrency_group="shards")
    def run(self, seat: int, task: ShardTask) -> ShardResult:
        """As the actor's own."""
        return self._actors[seat].run(task)


class _Bound:
    """A method of a host for one of its seats."""

    def __init__(self, method: Any, seat: int) -> None:
        self._method, self._seat = method, seat

    def remote(self, *arguments: object) -> Any:
        """Calls it somewhere else."""
        return self._method.remote(self._seat, *arguments)


class _Seat:
    """What the pool takes for an actor."""

    def __init__(self, host: Any, seat: int) -> None:
        self.host, self.run, self.steps = host, _Bound(host.run, seat), _Bound(host.steps, seat)


def _card(config: WaitingTeacherConfig) -> TeacherCard:
    """What `teachers.registry.teacher_card` would say; nobody is waited for."""
    return TeacherCard(LedgerTeacher(config).fingerprint, config.num_channels)


@contextlib.contextmanager
def seats_in_processes(num_seats: int) -> Generator[None]:
    """Teaching knows the ledger's teachers, and puts so many of its actors into each process."""
    groups = {"shards": _SHARDS_PER_SEAT * num_seats, "watch": num_seats}
    host: Any = cast(Any, ray.remote)(concurrency_groups=groups)(_Host)

    class Pool(pipeline._RayPool):
        """The pipeline's own but for where its actors live."""

        def start(self, worker: int) -> None:
            if worker % num_seats == 0:
                self._host = host.options(**self._options).remote(self._job, self._observer, num_seats)
            self._actors[worker] = _Seat(self._host, worker % num_seats)
            self._ask(worker)

        def kill(self, worker: int) -> None:
            seat: _Seat | None = self._actors.pop(worker, None)
            if seat is not None and all(other.host is not seat.host for other in self._actors.values()):
                ray.kill(seat.host)

    with patch.object(pipeline, "_RayPool", Pool), patch("pipelines.distillation.teaching.teacher_card", _card):
        yield
