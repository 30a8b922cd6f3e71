"""Teaching on Ray: decoding tasks feed a pool of teachers, each of which writes whole shards.

Plain actors rather than Ray Data: the unit of work is a planned shard, which one actor must own from
its first batch to the one put that writes it; Ray Data would have to carry the features, or the
decoded images of a whole shard, as one row through its blocks. Only batches in flight and metadata
travel through Ray. Ray restarts nothing by itself: `dispatch` decides what is begun again, and where.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.dispatch import Died, Dispatcher, Done, Event, Failed, Limits, Stirred
from pipelines.distillation.forecast import EXPECTED_BITS_PER_VALUE
from pipelines.distillation.plan import Batch, ExpectedSize, ImageSize, ShardTask, plan_teaching
from pipelines.distillation.probe import FeedSample, Probe, probe_feed, probe_teacher
from pipelines.distillation.steps import prepare_batch
from pipelines.distillation.teaching import Job, OnPlan, teaching_of
from pipelines.distillation.verify import Comparison, VerifyReport, recompute, sample_images
from pipelines.distillation.windows import WantedWindows
from pipelines.distillation.worker import Inputs, ShardResult, ShardWorker
from pipelines.observer import Metrics, Observer, current_observer
from pipelines.progress import NullProgress, Progress
from storage.corpus import Corpus
from storage.errors import CorruptObject, InfrastructureError, MissingFeature, SailloftError, UsageError
from storage.features import FeatureStore
from storage.manifest import Manifest
from storage.objects import Objects
from storage.stored_features import Codec
from teachers.base import Geometry
from teachers.registry import TeacherConfig

__all__ = ["measure", "teach", "verify"]

logger = logging.getLogger(__name__)

_Pixels: TypeAlias = tuple[npt.NDArray[np.float32], dict[int, str]]
"""A batch's inputs, and what is wrong with the images that are zeros in it."""

_SHARDS_PER_ACTOR = 2
_POLL_S = 1.0
_ASK_EVERY_S = 5.0


def teach(
    corpus: Corpus,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    codec: Codec,
    output: Objects,
    progress: Progress | None = None,
    on_plan: OnPlan | None = None,
) -> Manifest:
    """Brings a feature store up to date with a corpus: what it holds is kept, what it lacks is computed.

    A killed run is continued by calling this again: finished shards are found by one listing. Of two
    runs at once each computes what the other one doesn't, see `storage.leases`.

    Args:
        corpus: its images are taught; a local one must be reachable from every node under the same path.
        teacher: whose features.
        features: splits, grid, layout and pool sizes.
        codec: how features are encoded; see `pipelines.calibration.steps.codec_for`.
        output: prefix of the feature store; see `store_key` for the address that belongs to it.
        progress: told the number of finished images.
        on_plan: told what is missing before any of it is computed.

    Returns:
        The statement that the store holds this corpus; it lies at `coverage_path` below the store,
        its `facts` hold counts, and its files the images on which the teacher failed.

    Raises:
        UsageError: the store belongs to another teacher, grid or encoding, or lies in memory.
        TooManyRejects: the teacher fails on more images than allowed.
        InfrastructureError: a shard fails again and again, or a store can't be reached.
    """
    for objects in (corpus.objects, output):
        if objects.url.startswith("memory:"):
            raise UsageError(f"{objects.url}: Ray's processes can't share memory://; use a folder or an object store")
    teaching = teaching_of(corpus, teacher, features, codec, output, current_observer())
    return teaching.published() or teaching.complete(_run_shards, progress or NullProgress(), on_plan)


def measure(
    corpus: Corpus,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    codec: Codec | None,
    images: Sequence[ImageSize],
    num_channels: int,
    scratch: Objects,
) -> Probe:
    """Measures every phase on a few images, with the resources that the pool's processes get.

    Args:
        corpus: holds the images.
        teacher: whose features.
        features: grid, encoding and pool.
        codec: of the store; None: one is fitted to these very images.
        images: which, see `probe_images`.
        num_channels: of the features.
        scratch: prefix below which shards are written and removed again.
    """
    features = features.resolved(teacher)
    size = codec or ExpectedSize(EXPECTED_BITS_PER_VALUE[features.codec])
    plan = plan_teaching(images, features, teacher, teacher.student_source, num_channels, size, "probe")
    task: Any = ray.remote(_measure)
    options = {**features.process_options(teacher), "max_retries": 0}
    return _get(
        task.options(**options).remote(
            corpus.objects.url, corpus.manifest.key, teacher, features, codec, list(plan.tasks()), scratch
        )
    )


def verify(
    corpus: Corpus, teacher: TeacherConfig, features: FeaturesConfig, output: Objects, num_images: int, seed: int = 0
) -> VerifyReport:
    """Recomputes some stored images and compares, see `recompute`; nothing is written.

    Args:
        corpus: holds the images; of those that it shares with the store some are drawn.
        teacher: whose features.
        features: grid and pool.
        output: prefix of the store.
        num_images: how many.
        seed: of the draw.

    Raises:
        MissingFeature: the store holds none of the images.
    """
    store, windows = FeatureStore.open(output), WantedWindows(corpus, features)
    chosen = sample_images((image_id for image_id in windows.ids() if image_id in store), num_images, seed)
    if not chosen:
        raise MissingFeature(f"{output.url}: holds none of the images of {corpus.objects.url}; run teach first")
    task: Any = ray.remote(_recompute)
    options = features.process_options(teacher)
    pieces = [chosen[start :: features.num_actors] for start in range(min(features.num_actors, len(chosen)))]
    running = [
        task.options(**options).remote(corpus.objects.url, corpus.manifest.key, teacher, features, store, piece)
        for piece in pieces
    ]
    return VerifyReport(tuple(one for piece in running for one in _get(piece)))


def _run_shards(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
    """Results as they come, from an explicit number of actors."""
    features = job.features
    limits = Limits(features.num_actors, features.max_retries, features.stuck_after_s, _SHARDS_PER_ACTOR)
    _warn_if_starved(min(features.num_actors, len(tasks)), features)
    observer = current_observer()
    dispatcher = Dispatcher(_RayPool(job), limits, time.monotonic, observer)
    for result in dispatcher.run(tasks):
        _count(observer, result)
        yield result
    if dispatcher.counts:
        logger.info("shards begun again and processes lost: %s", dict(dispatcher.counts))


def _count(metrics: Metrics, result: ShardResult) -> None:
    """What a shard adds to the figures."""
    num_rejected = len(result.written.rejected)
    metrics.count("sailloft_images_total", len(result.written.rows) - num_rejected, outcome="taught")
    metrics.count("sailloft_images_total", num_rejected, outcome="rejected")
    metrics.count("sailloft_feature_bytes_total", result.written.entry.size_bytes)
    for phase, seconds in result.seconds.items():
        metrics.count("sailloft_teacher_seconds_total", seconds, phase=phase)


class _RayPool:
    """Teachers as Ray actors, by the numbers that `Dispatcher` gives them."""

    def __init__(self, job: Job) -> None:
        features = job.features
        # Neither Ray's restarts nor its retries: they would hide a death, and which shard it befell.
        self._options = {**features.process_options(job.teacher), "max_restarts": 0, "max_task_retries": 0}
        self._job, self._observer = job, current_observer()
        self._ask_every_s = min(_ASK_EVERY_S, features.stuck_after_s / 4)
        self._ask_at_s = 0.0
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, tuple[int, str]] = {}
        self._asked: dict[Any, int] = {}

    def start(self, worker: int) -> None:
        """Asks Ray for an actor, which may wait for resources."""
        self._actors[worker] = _ACTOR.options(**self._options).remote(self._job, self._observer)
        self._ask(worker)

    def submit(self, worker: int, task: ShardTask) -> None:
        """Queues a shard at an actor."""
        self._running[self._actors[worker].run.remote(task)] = worker, task.shard.key

    def kill(self, worker: int) -> None:
        """Ends an actor's process; nothing more is heard of it."""
        actor = self._actors.pop(worker, None)
        if actor is not None:
            ray.kill(actor)

    def poll(self) -> Sequence[Event[ShardResult]]:
        """What became of shards and actors since."""
        now_s = time.monotonic()
        if now_s >= self._ask_at_s:
            self._ask_at_s = now_s + self._ask_every_s
            for worker in self._actors.keys() - set(self._asked.values()):
                self._ask(worker)
        references = [*self._running, *self._asked]
        ready, _ = ray.wait(references, num_returns=1, timeout=_POLL_S)
        if ready:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [event for reference in ready for event in self._events(reference)]

    def _ask(self, worker: int) -> None:
        self._asked[self._actors[worker].steps.remote()] = worker

    def _events(self, reference: Any) -> Iterator[Event[ShardResult]]:
        worker, key = self._running.pop(reference, None) or (self._asked.pop(reference), "")
        if worker not in self._actors:
            return
        try:
            value: Any = ray.get(reference)
        except RayTaskError as error:
            yield Failed(worker, key, _reason_to_retry(error))
        except RayActorError as error:
            self.kill(worker)
            yield Died(worker, _first_line(error))
        except RayError as error:
            yield Failed(worker, key, _first_line(error))
        else:
            yield Done(worker, key, value) if key else Stirred(worker, value)


def _reason_to_retry(error: RayTaskError) -> str:
    """Why a shard failed, if it may be tried again; else raises what no retry can mend."""
    cause: BaseException | None = error.cause
    if isinstance(cause, InfrastructureError):
        return str(cause)
    if isinstance(cause, SailloftError):
        raise cause from error
    raise error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0]


def _warn_if_starved(num_actors: int, features: FeaturesConfig) -> None:
    num_cpus = float(ray.cluster_resources().get("CPU", 0))
    needed = num_actors * features.num_cpus_per_actor + features.num_cpus_per_decoder
    if num_cpus < needed:
        logger.warning(
            "%g CPUs in the cluster, but %d teachers and a decoder take %g: unless it grows, fewer teachers run; "
            "lower features.num_actors or features.num_cpus_per_actor",
            num_cpus,
            num_actors,
            needed,
        )


class _TeacherActor:
    """A teacher with its weights; computes, encodes and writes whole shards."""

    def __init__(self, job: Job, observer: Observer) -> None:
        features = job.features
        self._job, self._observer = job, observer
        self._stack = ExitStack()
        self._stack.enter_context(observer.here("teacher"))  # until the process ends
        self._threads = ThreadPoolExecutor(features.num_batches_ahead, thread_name_prefix="decode")
        self._worker = ShardWorker(
            lambda: job.teacher.build(features.device),
            job.part,
            job.codec,
            self._start,
            features.num_batches_ahead,
            num_encoders=max(1, int(features.num_cpus_per_actor)),
            antialias=features.grid_stride_px is not None,
        )

    @ray.method(concurrency_group="watch")
    def steps(self) -> dict[str, int]:
        """Steps done of the shards in hand."""
        return self._worker.steps()

    @ray.method(concurrency_group="shards")
    def run(self, task: ShardTask) -> ShardResult:
        """Computes one shard and writes it by a single put."""
        with self._observer.here("teacher"):
            return self._worker.run(task)

    def _start(self, task: ShardTask, batch: Batch) -> Callable[[], Inputs]:
        """Starts to decode a batch; the returned function waits for it."""
        job = self._job
        images = [(task.corpus_rows[place], task.shard.rows[place].image_id) for place in batch.positions]
        arguments = (self._observer, job.corpus_url, job.corpus_key, job.teacher, images, batch.input_size)
        if job.features.num_cpus_per_decoder == 0:
            decoded = self._threads.submit(_decode_batch, *arguments)
            return lambda: _as_inputs(decoded.result())
        decoder = _DECODER.options(num_cpus=job.features.num_cpus_per_decoder, max_retries=job.features.max_retries)
        reference = decoder.remote(*arguments)
        return lambda: _as_inputs(_get(reference))


# Two threads for shards, so that one is written while the next one runs; one that answers meanwhile.
_ACTOR: Any = cast(Any, ray.remote)(concurrency_groups={"shards": _SHARDS_PER_ACTOR, "watch": 1})(_TeacherActor)


def _measure(
    corpus_url: str,
    corpus_key: str,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    codec: Codec | None,
    tasks: Sequence[ShardTask],
    scratch: Objects,
) -> Probe:
    def feed(task: ShardTask, batch: Batch) -> FeedSample:
        image_ids = [task.shard.rows[position].image_id for position in batch.positions]
        arguments = (corpus_url, corpus_key, teacher, image_ids, batch.input_size)
        if features.num_cpus_per_decoder == 0:
            return _feed(*arguments)
        decoder: Any = ray.remote(_feed)
        return _get(decoder.options(num_cpus=features.num_cpus_per_decoder).remote(*arguments))

    return probe_teacher(lambda: teacher.build(features.device), tasks, feed, features, codec, scratch)


def _feed(
    corpus_url: str, corpus_key: str, geometry: Geometry, image_ids: Sequence[str], input_size: tuple[int, int]
) -> FeedSample:
    return probe_feed(_open_corpus(corpus_url, corpus_key), geometry, image_ids, input_size)


def _recompute(
    corpus_url: str,
    corpus_key: str,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    store: FeatureStore,
    image_ids: Sequence[str],
) -> list[Comparison]:
    corpus, built = _open_corpus(corpus_url, corpus_key), teacher.build(features.device)
    antialias = features.grid_stride_px is not None
    return list(recompute(built, teacher, corpus, store, image_ids, teacher.dtype, antialias))


def _as_inputs(pixels: _Pixels) -> Inputs:
    # Arrays from Ray are read-only views, which torch does not take.
    array, failures = pixels
    return torch.from_numpy(array if array.flags.writeable else array.copy()), failures


def _get(reference: Any) -> Any:
    """A task's result; trouble of Ray's own is one of the infrastructure.

    Raises:
        SailloftError: what the task raised.
        InfrastructureError: its process or node is gone, more often than it is begun again.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, SailloftError):
            raise error.cause from error
        raise
    except RayError as error:
        raise InfrastructureError(f"decoding images: {_first_line(error)}; check the memory of the nodes") from error


def _decode_batch(
    observer: Observer,
    corpus_url: str,
    corpus_key: str,
    geometry: Geometry,
    images: Sequence[tuple[int, str]],
    input_size: tuple[int, int],
) -> _Pixels:
    """Reads and decodes one batch of images, by row and id; on any CPU of the cluster."""
    with observer.here("decoder"):
        records = _open_corpus(corpus_url, corpus_key).images_at([row for row, _ in images])
        for record, (row, image_id) in zip(records, images, strict=True):
            if record.image_id != image_id:
                raise CorruptObject(
                    f"{corpus_url}: row {row} holds image {record.image_id}, planned was {image_id}; curate again"
                )
        batch, failures = prepare_batch(geometry, records, input_size)
    return batch.numpy(), failures


_DECODER: Any = ray.remote(_decode_batch)


@lru_cache(maxsize=2)
def _open_corpus(url: str, key: str) -> Corpus:
    """Opened once per process, with what it keeps of footers and row groups."""
    corpus = Corpus.open(url)
    if corpus.manifest.key != key:
        raise InfrastructureError(f"{url}: expected the corpus {key}, found {corpus.manifest.key}; start teach again")
    return corpus
