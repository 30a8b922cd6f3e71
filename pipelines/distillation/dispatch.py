"""Hands shards to a pool of workers until all are done, through deaths, refusals and standstills.

Pure of Ray and of clocks: the pool and the time are given, so that every turn of it can be tested. A
shard gives the same bytes whoever computes it, so it may be begun again at any time and elsewhere.

    waiting ──▶ a worker that has started, at most `shards_per_worker` each ──▶ done
       ▲                │ died, standing still, or a fault of storage or cluster
       └── after a pause┘ at most `max_retries` times per shard; then the run fails and names the shard
"""

from __future__ import annotations

import heapq
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

from pipelines.distillation.plan import ShardTask
from pipelines.observer import NULL_OBSERVER, Metrics
from storage.errors import InfrastructureError

__all__ = ["Died", "Dispatcher", "Done", "Event", "Failed", "Limits", "Pool", "Stirred", "retry_pause_s"]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_LOOK_FOR_STUCK_SHARE = 0.02
"""Of the patience, between two looks at all workers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and patience of a run."""

    num_workers: int
    max_retries: int
    """Of one shard."""
    stuck_after_s: float
    """Without a step of a shard that has begun, until its worker is killed."""
    shards_per_worker: int = 2
    """One in work, one whose images are read meanwhile."""
    pause_s: float = 1.0
    """Before the first retry of a shard; doubled for each further one, give or take a half."""
    max_pause_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Stirred:
    """A worker lives: it has started, or says how far its shards are."""

    worker: int
    steps: Mapping[str, int]
    """Steps done, by the keys of the shards that have begun; any change counts as progress."""


@dataclass(frozen=True, slots=True)
class Done(Generic[_Result]):
    """A shard is written."""

    worker: int
    key: str
    result: _Result


@dataclass(frozen=True, slots=True)
class Failed:
    """A shard failed by a fault of storage or cluster; the worker lives."""

    worker: int
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone with the shards that it had."""

    worker: int
    reason: str


Event: TypeAlias = Stirred | Done[_Result] | Failed | Died


class Pool(Protocol[_Result]):
    """Workers that run somewhere; errors that no retry can mend come out of `poll` as exceptions."""

    def start(self, worker: int) -> None:
        """Begins to start a worker; `Stirred` says when it lives, which may be never."""
        ...

    def submit(self, worker: int, task: ShardTask) -> None:
        """Gives a worker that lives one more shard."""
        ...

    def kill(self, worker: int) -> None:
        """Ends a worker at once; nothing more is heard of it."""
        ...

    def poll(self) -> Sequence[Event[_Result]]:
        """What has happened since; waits for a moment if nothing has."""
        ...


@dataclass(slots=True)
class _Worker:
    lives: bool = False
    tasks: dict[str, ShardTask] = field(default_factory=dict[str, ShardTask])
    """In the order in which they were given."""
    steps: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    """Of shards that have begun: steps, and when they last changed."""


class Dispatcher(Generic[_Result]):
    """One run over some shards.

    Args:
        pool: the workers.
        limits: sizes and patience.
        clock: seconds, monotonic.
        metrics: told what is begun again, and why.
    """

    def __init__(
        self, pool: Pool[_Result], limits: Limits, clock: Callable[[], float], metrics: Metrics = NULL_OBSERVER
    ) -> None:
        self._pool, self._limits, self._clock, self._metrics = pool, limits, clock, metrics
        self._workers: dict[int, _Worker] = {}
        self._with_room: set[int] = set()
        """Workers that live and may take another shard: few of many, once all are at work."""
        self._look_for_stuck_at_s = 0.0
        self._next_worker = 0
        self._num_stillborn = 0
        self._waiting: list[tuple[float, int, ShardTask]] = []
        self._num_waited = 0
        self.counts: Counter[str] = Counter()
        """Shards begun again (`retries`), and the workers that `died` or were `stuck`."""
        self._retries: Counter[str] = Counter()

    def run(self, tasks: Iterable[ShardTask]) -> Iterator[_Result]:
        """Results as they come; every worker is ended at the end, however it comes.

        Raises:
            InfrastructureError: a shard failed more often than it may; the message names it and why.
        """
        for task in tasks:
            self._wait(task, self._clock())
        num_left = len(self._waiting)
        try:
            for _ in range(min(self._limits.num_workers, num_left)):
                self._start()
            while num_left:
                self._assign()
                for event in self._pool.poll():
                    if isinstance(event, Done):
                        if self._take(event.worker, event.key) is not None:
                            num_left -= 1
                            yield event.result
                    else:
                        self._on_event(event)
                self._end_the_stuck()
        finally:
            for worker in self._workers:
                self._pool.kill(worker)

    def _start(self) -> None:
        self._workers[self._next_worker] = _Worker()
        self._pool.start(self._next_worker)
        self._next_worker += 1

    def _wait(self, task: ShardTask, until_s: float) -> None:
        self._num_waited += 1
        heapq.heappush(self._waiting, (until_s, self._num_waited, task))

    def _assign(self) -> None:
        """One shard for each worker before anybody gets a second one."""
        now_s, most = self._clock(), self._limits.shards_per_worker
        for depth in range(most):
            for number in sorted(self._with_room) if self._waiting else ():
                if not self._waiting or self._waiting[0][0] > now_s:
                    return
                worker = self._workers[number]
                if len(worker.tasks) <= depth:
                    task = heapq.heappop(self._waiting)[2]
                    worker.tasks[task.shard.key] = task
                    self._pool.submit(number, task)
                    if len(worker.tasks) == most:
                        self._with_room.remove(number)

    def _on_event(self, event: Stirred | Failed | Died) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return  # heard of late: it was killed meanwhile
        if isinstance(event, Stirred):
            if not worker.lives:
                worker.lives = True
                self._with_room.add(event.worker)
            self._num_stillborn = 0
            for key, steps in event.steps.items():
                if key in worker.tasks and worker.steps.get(key, (-1, 0.0))[0] != steps:
                    worker.steps[key] = steps, self._clock()
        elif isinstance(event, Failed):
            task = self._take(event.worker, event.key)
            if task is not None:
                self._retry(task, event.reason)
        else:
            self._count("died")
            logger.warning("a teacher's process is gone, another one is started: %s", event.reason)
            self._num_stillborn += not worker.lives
            if self._num_stillborn > self._limits.max_retries:
                raise InfrastructureError(
                    f"{self._num_stillborn} processes in a row died before they lived, the last one: {event.reason}; "
                    "check the memory of the nodes, their environment, and that the teacher's package is there"
                )
            self._replace(event.worker, next(iter(worker.tasks), None), event.reason)

    def _take(self, number: int, key: str) -> ShardTask | None:
        worker = self._workers.get(number)
        if worker is None:
            return None
        worker.steps.pop(key, None)
        task = worker.tasks.pop(key, None)
        if task is not None:
            self._with_room.add(number)
        return task

    def _end_the_stuck(self) -> None:
        now_s, patience_s = self._clock(), self._limits.stuck_after_s
        if now_s < self._look_for_stuck_at_s:
            return
        self._look_for_stuck_at_s = now_s + patience_s * _LOOK_FOR_STUCK_SHARE
        for number, worker in list(self._workers.items()):
            stuck = [key for key, (_, since_s) in worker.steps.items() if now_s - since_s > patience_s]
            if stuck:
                self._count("stuck")
                reason = f"no step for {patience_s:g} s"
                logger.warning("shard %s: %s, its teacher's process is ended and replaced", stuck[0], reason)
                self._pool.kill(number)
                self._replace(number, stuck[0], reason)

    def _replace(self, number: int, culprit: str | None, reason: str) -> None:
        """A new worker for one that is gone; the shard that it was at pays for it, the others are merely put back."""
        self._with_room.discard(number)
        for key, task in self._workers.pop(number).tasks.items():
            if key == culprit:
                self._retry(task, reason)
            else:
                self._wait(task, self._clock())
        self._start()

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        self._metrics.count("sailloft_retries_total", cause={"retries": "shard"}.get(what, what))

    def _retry(self, task: ShardTask, reason: str) -> None:
        key, limits = task.shard.key, self._limits
        self._retries[key] += 1
        self._count("retries")
        if self._retries[key] > limits.max_retries:
            raise InfrastructureError(
                f"shard {key}: failed {self._retries[key]} times, the last time: {reason}; "
                "run teach again, which goes on from here; or raise features.max_retries"
            )
        pause_s = retry_pause_s(key, self._retries[key], limits.pause_s, limits.max_pause_s)
        logger.info("shard %s: %s; again in %.1f s", key, reason, pause_s)
        self._wait(task, self._clock() + pause_s)


def retry_pause_s(key: str, attempt: int, first_s: float, max_s: float) -> float:
    """Seconds before a retry: doubled each time, with jitter that depends on the key and the attempt alone.

    >>> [round(retry_pause_s("l64/c/0/0/0", attempt, 1.0, 8.0), 1) for attempt in (1, 2, 3, 9)]
    [1.2, 1.5, 3.3, 6.7]
    """
    jitter = random.Random(f"{key} {attempt}").uniform(0.5, 1.5)
    return min(max_s, first_s * 2.0 ** (attempt - 1)) * jitter
