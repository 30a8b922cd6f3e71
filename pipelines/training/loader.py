"""Makes the batches of the next steps while one trains: in order, and at most so many ahead.

Threads of this process, processes beside it, or workers that somebody else runs (Ray's actors, see
`pipelines.training.pipeline`). Since a step's batches depend on its number alone, all of them give the same.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from model.config import StudentConfig
from model.processor import Processor
from model.tokenizer import StudentTokenizer
from pipelines.training.config import LoaderConfig, TrainingConfig
from pipelines.training.feed import StepBatches, TrainingFeed
from pipelines.training.packed_step import PackedStep, pack_step, unpack_step
from storage.corpus import Corpus
from storage.errors import InfrastructureError, SailloftError, UsageError
from storage.features import FeatureStore

__all__ = ["FailedStep", "FeedSpec", "StepPool", "StepWorker", "iterate"]

_Ticket = TypeVar("_Ticket")


@dataclass(frozen=True)
class FeedSpec:
    """All that a feed is made of, fit to be sent to another process; `spec()` makes it."""

    corpus: Corpus
    features: dict[str, FeatureStore]
    """A pickled store reopens the same snapshot, so that every process reads the same."""
    student: StudentConfig
    tokenizer: str
    """Content of `tokenizer.json`."""
    config: TrainingConfig
    rank: int = 0
    world_size: int = 1

    def __call__(self) -> TrainingFeed:
        """The feed."""
        tokenizer = StudentTokenizer.from_json(self.tokenizer, self.student.num_visual_prompts)
        processor = Processor(self.student, tokenizer)
        return TrainingFeed(self.corpus, self.features, processor, self.config, self.rank, self.world_size)


@dataclass(frozen=True)
class FailedStep:
    """An error of another process, to be raised here."""

    kind: type[SailloftError]
    message: str

    def error(self) -> SailloftError:
        """The error, with the message it had, whatever its class makes messages of."""
        return self.kind.__new__(self.kind, self.message)


class StepWorker:
    """Makes packed steps in another process; the feed is made when the first is wanted."""

    def __init__(self, feed_factory: Callable[[], TrainingFeed], *, shared: bool = False) -> None:
        self._feed_factory, self._shared = feed_factory, shared
        self._feed: TrainingFeed | None = None

    def make(self, step: int) -> PackedStep | FailedStep:
        """The batches of a step, or why there are none."""
        try:
            if self._feed is None:
                self._feed = self._feed_factory()
            return pack_step(self._feed.step_batches(step), shared=self._shared)
        except SailloftError as error:
            return FailedStep(type(error), str(error))


class StepPool(Protocol, Generic[_Ticket]):
    """Somebody who makes steps beside this thread."""

    def submit(self, step: int) -> _Ticket:
        """Begins a step."""
        ...

    def result(self, ticket: _Ticket) -> StepBatches | PackedStep | FailedStep:
        """Waits for it."""
        ...

    def close(self) -> None:
        """Ends what goes on."""
        ...


def iterate(
    feed_factory: Callable[[], TrainingFeed],
    config: LoaderConfig,
    first_step: int,
    last_step: int,
    device: torch.device | None = None,
    pool: Callable[[], StepPool[_Ticket]] | None = None,
) -> Generator[StepBatches]:
    """The batches of each step from a position on; closing the generator ends whoever makes them.

    Args:
        feed_factory: makes the feed, where it is needed; a `FeedSpec` for other processes.
        config: who makes the batches.
        first_step: the first step wanted.
        last_step: the step before which it ends.
        device: where the batches are wanted; on CUDA the next step is copied while one trains. None: the CPU.
        pool: makes the pool of the kind `ray`.

    Raises:
        SailloftError: what the feed raised, behind the batches that came before.
        InfrastructureError: a process that made batches died.
    """
    steps = range(first_step, last_step)
    depth = max(config.prefetch_steps, config.num_workers)
    on_cuda = device is not None and device.type == "cuda"
    made: Generator[StepBatches | PackedStep]
    if config.kind == "threads":
        made = _in_order(_Threads(feed_factory(), config.num_workers), steps, depth)
    elif config.kind == "processes":
        made = _from_processes(feed_factory, config.num_workers, steps, depth, pinned=on_cuda)
    elif pool is None:
        raise UsageError("training.loader.kind: expected a Ray session for `ray`; use `threads` or `processes`")
    else:
        made = _in_order(pool(), steps, depth)
    with closing(made):
        if device is not None and on_cuda:
            yield from _ahead_on(device, made)
        else:
            for step in made:
                yield unpack_step(step) if isinstance(step, PackedStep) else step


class _Threads:
    """Threads of this process, which share one feed."""

    def __init__(self, feed: TrainingFeed, num_workers: int) -> None:
        self._feed = feed
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="training-feed")

    def submit(self, step: int) -> Future[StepBatches]:
        return self._pool.submit(self._feed.step_batches, step)

    def result(self, ticket: Future[StepBatches]) -> StepBatches:
        return ticket.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: StepPool[_Ticket], steps: range, depth: int) -> Generator[StepBatches | PackedStep]:
    """Results by their number; each that is taken makes room for one more."""
    waiting = iter(steps)
    ahead: deque[_Ticket] = deque()
    try:
        ahead.extend(pool.submit(step) for step in islice(waiting, depth))
        while ahead:
            found = pool.result(ahead.popleft())
            if isinstance(found, FailedStep):
                raise found.error()
            ahead.extend(pool.submit(step) for step in islice(waiting, 1))
            yield found
    finally:
        pool.close()


class _Steps(Dataset[PackedStep | FailedStep]):
    """Steps by their number, as PyTorch's loader wants them."""

    def __init__(self, feed_factory: Callable[[], TrainingFeed]) -> None:
        self._worker = StepWorker(feed_factory, shared=True)

    def __getitem__(self, index: int) -> PackedStep | FailedStep:
        return self._worker.make(index)


def _as_it_is(item: Any) -> Any:
    return item


def _begin_worker(worker: int) -> None:
    """In a new process, before its first step."""
    del worker
    # Memory is found by its name: to hand over a file descriptor takes several answers of a process that is busy.
    torch.multiprocessing.set_sharing_strategy("file_system")
    # The loader's own watch begins later, and never ends a process whose parent was killed before.
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _from_processes(
    feed_factory: Callable[[], TrainingFeed], num_workers: int, steps: range, depth: int, *, pinned: bool
) -> Generator[PackedStep]:
    """Processes are spawned: forked ones would hang in the object store's threads, which a fork leaves behind."""
    loader: DataLoader[PackedStep | FailedStep] = DataLoader(
        _Steps(feed_factory),
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        prefetch_factor=-(-depth // num_workers),
        multiprocessing_context="spawn",
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # its own, so that the process's isn't drawn from
    )
    made: Iterator[PackedStep | FailedStep] = iter(loader)
    while True:
        try:
            found = next(made, None)
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise InfrastructureError(
                f"training.loader: a process that makes batches ended: {error}; it may have run out of memory "
                "(lower loader.num_workers), or of shared memory in /dev/shm; run the same command again to go on"
            ) from error
        if found is None:
            return
        if isinstance(found, FailedStep):
            raise found.error()
        yield found


def _ahead_on(device: torch.device, made: Iterator[StepBatches | PackedStep]) -> Generator[StepBatches]:
    """Copies each step to a CUDA device in a stream of its own while the one before it trains."""
    stream = torch.cuda.Stream(device)

    def copied(step: StepBatches | PackedStep) -> _OnItsWay:
        packed = step if isinstance(step, PackedStep) else pack_step(step)
        if not packed.memory.is_pinned():
            packed = packed._replace(memory=packed.memory.pin_memory())
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(stream):
            started.record(stream)
            memory = packed.memory.to(device, non_blocking=True)
            ended.record(stream)
        return _OnItsWay(packed, memory, started, ended)

    coming: _OnItsWay | None = None
    for step in made:
        before, coming = coming, copied(step)
        if before is not None:
            yield before.arrived(device)
    if coming is not None:
        yield coming.arrived(device)


@dataclass(frozen=True)
class _OnItsWay:
    """A step that is being copied; holds the host's memory until the copy is done."""

    packed: PackedStep
    memory: torch.Tensor
    started: torch.cuda.Event
    ended: torch.cuda.Event

    def arrived(self, device: torch.device) -> StepBatches:
        """The step on the device, with the seconds that the copy took."""
        self.ended.synchronize()
        # What trains is another stream than the one whose memory this is: it mustn't be given away before.
        self.memory.record_stream(torch.cuda.current_stream(device))
        step = unpack_step(self.packed._replace(memory=self.memory))
        return replace(step, seconds={**step.seconds, "host_to_device": self.started.elapsed_time(self.ended) / 1000})
