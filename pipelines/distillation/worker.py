"""A teacher at work: shard after shard, with reading before and encoding and writing behind the forward pass.

Of the shards that a worker has in hand one runs through the teacher; the next one's images are read
meanwhile, and the last one's rows are encoded and written. Knows nothing of Ray.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from pipelines.distillation.plan import Batch, ShardTask
from pipelines.distillation.steps import compute_features, feature_rows
from storage.errors import InfrastructureError, ObjectNotFound
from storage.feature_writer import ShardWriter, WrittenShard, read_shard
from storage.objects import Objects
from storage.shards import EncodedRow
from storage.stored_features import Codec
from teachers.base import Teacher

__all__ = ["Inputs", "ShardResult", "ShardWorker", "Start"]

Inputs: TypeAlias = tuple[Tensor, dict[int, str]]
"""A batch [batch, 3, height, width], and what is wrong with the images that are zeros in it."""

Start: TypeAlias = Callable[[ShardTask, Batch], Callable[[], Inputs]]
"""Begins to read a batch; what it returns waits for it."""

_MAX_WAITING_BATCHES = 2
"""Batches of features that wait to be encoded: what the teacher's process holds beside the shard."""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """All that travels back from a shard."""

    written: WrittenShard
    seconds: Mapping[str, float]
    """By phase, of the shard's own threads: `wait` for input, `forward`, `encode`, `write`."""


@dataclass(slots=True)
class _Seconds:
    phases: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - start_s


class ShardWorker:
    """Computes, encodes and writes whole shards; `run` may be called by several threads.

    Args:
        build: makes the teacher; called once, by the first shard.
        part: prefix of the part.
        codec: of the store.
        start: begins to read a batch.
        num_batches_ahead: batches that are read ahead, for each shard in hand.
        num_encoders: threads that encode.
        antialias: how a coarser grid than the teacher's is reached.
    """

    def __init__(
        self,
        build: Callable[[], Teacher],
        part: Objects,
        codec: Codec,
        start: Start,
        num_batches_ahead: int,
        num_encoders: int = 1,
        antialias: bool = False,
    ) -> None:
        self._build, self._part, self._codec, self._start = build, part, codec, start
        self._num_batches_ahead, self._antialias = num_batches_ahead, antialias
        self._encoders = ThreadPoolExecutor(num_encoders, thread_name_prefix="encode")
        self._device = threading.Lock()
        self._teacher: Teacher | None = None
        self._steps: dict[str, int] = {}

    def steps(self) -> dict[str, int]:
        """Steps done of each shard that has begun; one that waits for the teacher has not."""
        return dict(self._steps)

    def run(self, task: ShardTask) -> ShardResult:
        """Computes one shard and writes it by a single put; one that is written already is read and stays.

        Raises:
            InfrastructureError: storage, device or memory; the shard may be tried again.
            DataError: the corpus is damaged.
        """
        key, seconds = task.shard.key, _Seconds()
        # A process may have died between its put and its answer, or another run was at the same plan.
        written = self._written(task)
        if written is not None:
            return ShardResult(written, {})
        writer = ShardWriter(self._part, task.shard.array, task.shard.index, self._codec)
        inputs = self._inputs(task)
        try:
            with self._device:
                waiting = self._compute(task, inputs, writer, seconds)
            with seconds.phase("encode"):
                for batch in waiting:
                    self._collect(key, batch, writer)
            with seconds.phase("write"):
                written = writer.write()
        except torch.OutOfMemoryError as error:
            raise InfrastructureError(
                f"shard {key}: out of memory on the device: {error}; lower features.batch_size"
            ) from error
        finally:
            self._steps.pop(key, None)
        return ShardResult(written, {name: round(value, 4) for name, value in seconds.phases.items()})

    def _written(self, task: ShardTask) -> WrittenShard | None:
        try:
            return read_shard(self._part, task.shard.array, task.shard.index, self._codec)
        except ObjectNotFound:
            return None

    def _compute(
        self, task: ShardTask, inputs: Iterator[Inputs], writer: ShardWriter, seconds: _Seconds
    ) -> deque[_Encoding]:
        """Runs all batches through the teacher; what is returned is still being encoded."""
        key = task.shard.key
        self._steps[key] = 0
        if self._teacher is None:
            with seconds.phase("start"):
                self._teacher = self._build()
        waiting: deque[_Encoding] = deque()
        for batch in task.batches:
            with seconds.phase("wait"):
                tensor, failures = next(inputs)
            with seconds.phase("forward"):
                features, failed = compute_features(self._teacher, tensor, failures)
            self._steps[key] += 1
            planned = [task.shard.rows[position] for position in batch.positions]
            rows = feature_rows(planned, features, failed, self._antialias)
            futures = [self._encoders.submit(writer.encode, row) for row in rows]
            waiting.append(_Encoding(batch, futures))
            if len(waiting) > _MAX_WAITING_BATCHES:
                with seconds.phase("encode"):
                    self._collect(key, waiting.popleft(), writer)
        return waiting

    def _collect(self, key: str, batch: _Encoding, writer: ShardWriter) -> None:
        for position, future in zip(batch.batch.positions, batch.rows, strict=True):
            writer.add(position, future.result())
        self._steps[key] += 1

    def _inputs(self, task: ShardTask) -> Iterator[Inputs]:
        """Batches in order, a few of them being read ahead; the first of them at once."""
        batches = iter(task.batches)
        ahead = deque(self._start(task, batch) for batch in islice(batches, self._num_batches_ahead))

        def read() -> Iterator[Inputs]:
            while ahead:
                inputs = ahead.popleft()()
                ahead.extend(self._start(task, batch) for batch in islice(batches, 1))
                yield inputs

        return read()


@dataclass(frozen=True, slots=True)
class _Encoding:
    batch: Batch
    rows: list[Future[EncodedRow]]
