"""Teaching on Ray: decoding tasks feed a pool of teachers, each of which writes whole shards.

Plain actors rather than Ray Data: the unit of work is a planned shard, which one actor must own from
its first batch to the one put that writes it; Ray Data would have to carry the features, or the
decoded images of a whole shard, as one row through its blocks. Only batches in flight and metadata
travel through Ray.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from torch import Tensor

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import (
    Batch,
    ImageSize,
    ShardTask,
    TeachPlan,
    coverage_key,
    coverage_path,
    feature_fingerprint,
    plan_teaching,
    store_key,
)
from pipelines.distillation.steps import compute_shard, prepare_batch
from pipelines.progress import NullProgress, Progress
from storage.codecs import Codec
from storage.corpus import Corpus, write_rejects
from storage.errors import InfrastructureError, SailloftError, TooManyRejects, UsageError
from storage.feature_index import PartDescription, part_objects
from storage.feature_plan import ShardPlan
from storage.feature_writer import WrittenShard, publish_part, write_part_metadata, write_shard, written_shards
from storage.features import FeatureStore
from storage.keys import Json
from storage.manifest import Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Reject, RejectReason
from storage.shards import RowStatus, read_tail
from teachers.base import Geometry
from teachers.registry import TeacherConfig, teacher_card

__all__ = ["teach"]

logger = logging.getLogger(__name__)

_Pixels: TypeAlias = tuple[npt.NDArray[np.float32], dict[int, str]]
"""A batch's inputs, and what is wrong with the images that are zeros in it."""

_SHARDS_PER_ACTOR = 2  # one in work, one queued, so that an actor never waits for the driver


def teach(
    corpus: Corpus,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    codec: Codec,
    output: Objects,
    progress: Progress | None = None,
) -> Manifest:
    """Brings a feature store up to date with a corpus: what it holds is kept, what it lacks is computed.

    A killed run is continued by calling this again: finished shards are found by one listing.

    Args:
        corpus: its images are taught; a local one must be reachable from every node under the same path.
        teacher: whose features.
        features: splits, grid, layout and pool sizes.
        codec: how features are encoded; see `pipelines.calibration.steps.codec_for`.
        output: prefix of the feature store; see `store_key` for the address that belongs to it.
        progress: told the number of finished images.

    Returns:
        The statement that the store holds this corpus; it lies at `coverage_path` below the store,
        its `facts` hold counts, and its files the images on which the teacher failed.

    Raises:
        UsageError: the store belongs to another teacher, grid or encoding, or lies in memory.
        TooManyRejects: the teacher fails on more images than allowed.
        InfrastructureError: actors keep dying, or a store can't be reached.
    """
    for objects in (corpus.objects, output):
        if objects.url.startswith("memory:"):
            raise UsageError(f"{objects.url}: Ray's processes can't share memory://; use a folder or an object store")
    card = teacher_card(teacher)
    fingerprint = feature_fingerprint(card.fingerprint, features, teacher.student_source)
    store = store_key(fingerprint, codec.encoding)
    key = coverage_key(store, corpus.manifest.key, features)
    coverage = output.child(coverage_path(key))
    published = read_manifest(coverage)
    if published is not None:
        return published
    description = _describe(fingerprint, card.num_channels, codec, teacher, features)
    known = FeatureStore.open(output, absent_ok=True)
    _check_store(known, description)
    wanted = _wanted_images(corpus, features)
    missing = [image for image in wanted if image[0] not in known and image[0] not in known.rejected]
    if missing:
        plan = plan_teaching(missing, features, teacher, teacher.student_source, card.num_channels, codec, store)
        job = _Job(corpus.objects.url, corpus.manifest.key, part_objects(output, plan.key), teacher, features, codec)
        _teach_part(plan, job, description, output, card.fingerprint, progress or NullProgress())
        known = FeatureStore.open(output)
    return _publish_coverage(coverage, key, corpus, wanted, known, teacher, features, store)


@dataclass(frozen=True)
class _Job:
    """What every actor and decoding task of a run has to know."""

    corpus_url: str
    corpus_key: str
    part: Objects
    teacher: TeacherConfig
    features: FeaturesConfig
    codec: Codec


def _describe(
    fingerprint: str, num_channels: int, codec: Codec, teacher: TeacherConfig, features: FeaturesConfig
) -> PartDescription:
    # Neither paths nor pool sizes: the same for everybody who computes these features.
    geometry: dict[str, Json] = {"teacher": teacher.kind, "grid": features.grid}
    if features.grid == "student" and features.student is not None:
        geometry |= {
            "source": teacher.student_source,
            "student": cast("dict[str, Json]", features.student.hashed_fields()),
        }
    return PartDescription(fingerprint, codec.encoding, num_channels, geometry)


def _check_store(store: FeatureStore, description: PartDescription) -> None:
    # Publication checks this too, but then everything would have been computed already.
    if store.description is not None and store.description.to_json() != description.to_json():
        raise UsageError(
            f"{store.objects.url}: holds {store.description.to_json()}, expected {description.to_json()}; "
            "give each teacher, grid and encoding its own store"
        )


def _wanted_images(corpus: Corpus, features: FeaturesConfig) -> list[ImageSize]:
    table = corpus.image_table(["image_id", "height", "width"])
    columns = (table[name].to_pylist() for name in ("image_id", "height", "width"))
    images = cast("list[ImageSize]", list(zip(*columns, strict=True)))
    if not features.splits:
        return images
    samples = corpus.sample_table(["image_id", "split"])
    pairs = zip(samples["image_id"].to_pylist(), samples["split"].to_pylist(), strict=True)
    named = {image_id for image_id, split in pairs if split in features.splits}
    return [image for image in images if image[0] in named]


def _teach_part(
    plan: TeachPlan, job: _Job, description: PartDescription, store: Objects, teacher: str, progress: Progress
) -> None:
    """Computes what is missing of a part, then publishes it."""
    write_part_metadata(job.part, plan.part, description, job.codec)
    finished = written_shards(job.part)
    earlier = [shard for shard in plan.part.shards() if shard.key in finished]
    rejected = _rejected_earlier(job.part, earlier, job.codec)
    num_done, total = sum(len(shard.rows) for shard in earlier), plan.part.num_images
    progress.update(num_done, total, unit="images", rejects=len(rejected))
    written: dict[str, WrittenShard] = {}
    for result in _run_pool(list(plan.tasks(finished)), job):
        written[result.entry.path] = result
        rejected.update(result.rejected)
        num_done += len(result.rows)
        progress.update(num_done, total, unit="images", rejects=len(rejected))
    if len(rejected) > job.features.max_reject_share * total:
        image_id, reason = min(rejected.items())
        raise TooManyRejects(
            f"teacher {job.teacher.kind}: failed on {len(rejected)} of {total} images, allowed are "
            f"{job.features.max_reject_share:.1%}; the first is {image_id}: {reason}; "
            "mend the images and curate again, or raise features.max_reject_share"
        )
    layout = {name: getattr(job.features, name) for name in ("batch_size", "images_per_shard", "shard_mib")}
    inputs = {"teacher": teacher}
    publish_part(store, plan.key, plan.part, description, job.codec, recipe=layout, inputs=inputs, written=written)


def _rejected_earlier(part: Objects, shards: Sequence[ShardPlan], codec: Codec) -> dict[str, str]:
    """Rejected images of the shards that an interrupted run left, as the shards themselves say."""

    def read(shard: ShardPlan) -> list[tuple[str, str]]:
        tail = read_tail(part, shard.array, shard.index, codec)
        return [(row.image_id, row.detail) for row in tail.rows if row.status is RowStatus.REJECTED]

    with ThreadPoolExecutor(8) as pool:
        return dict(pair for pairs in pool.map(read, shards) for pair in pairs)


def _run_pool(tasks: Sequence[ShardTask], job: _Job) -> Iterator[WrittenShard]:
    """Results as they come, from an explicit number of actors with two shards at hand each."""
    features = job.features
    num_actors = min(features.num_actors, len(tasks))
    _warn_if_starved(num_actors, features)
    options: dict[str, Any] = {
        "num_cpus": features.num_cpus_per_actor,
        "num_gpus": features.num_gpus_per_actor,
        # A shard begun again gives the same bytes, so that Ray may restart and repeat on its own.
        "max_restarts": features.max_retries,
        "max_task_retries": features.max_retries,
    }
    actors: list[Any] = [_TeacherActor.options(**options).remote(job) for _ in range(num_actors)]
    waiting = deque(tasks)
    running: dict[Any, Any] = {}
    try:
        for actor in actors * _SHARDS_PER_ACTOR:
            if waiting:
                running[actor.run.remote(waiting.popleft())] = actor
        while running:
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(ready)
            result = _result_of(ready)
            if waiting:
                running[actor.run.remote(waiting.popleft())] = actor
            yield result
    finally:
        for actor in actors:
            ray.kill(actor)


def _result_of(reference: Any) -> WrittenShard:
    try:
        return ray.get(reference)
    except RayActorError as error:
        raise InfrastructureError(
            f"a teacher's process died more often than features.max_retries allows: {error}; "
            "check its memory, or lower features.batch_size"
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, SailloftError):
            raise error.cause from error
        raise


def _warn_if_starved(num_actors: int, features: FeaturesConfig) -> None:
    num_cpus = float(ray.cluster_resources().get("CPU", 0))
    needed = num_actors * features.num_cpus_per_actor + features.num_cpus_per_decoder
    if num_cpus < needed:
        logger.warning(
            "%g CPUs in the cluster, but %d teachers and a decoder take %g: unless it grows, this run waits for ever; "
            "lower features.num_actors or features.num_cpus_per_actor",
            num_cpus,
            num_actors,
            needed,
        )


@ray.remote
class _TeacherActor:
    """A teacher with its weights; computes, encodes and writes whole shards."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._threads = ThreadPoolExecutor(job.features.num_batches_ahead, thread_name_prefix="decode")
        self._teacher = job.teacher.build("cuda" if job.features.num_gpus_per_actor > 0 else "cpu")

    def run(self, task: ShardTask) -> WrittenShard:
        """Computes one shard and writes it by a single put."""
        rows = compute_shard(self._teacher, task, self._inputs(task))
        return write_shard(self._job.part, task.shard.array, task.shard.index, rows, self._job.codec)

    def _inputs(self, task: ShardTask) -> Iterator[tuple[Tensor, dict[int, str]]]:
        """Decoded batches in order, a few of them in the making ahead of the teacher."""
        batches = iter(task.batches)
        ahead = deque(self._begin(task, batch) for batch in islice(batches, self._job.features.num_batches_ahead))
        while ahead:
            pixels, failures = ahead.popleft()()
            ahead.extend(self._begin(task, batch) for batch in islice(batches, 1))
            # Arrays from Ray are read-only views, which torch does not take.
            yield torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()), failures

    def _begin(self, task: ShardTask, batch: Batch) -> Callable[[], _Pixels]:
        """Starts to decode a batch; the returned function waits for it."""
        job = self._job
        image_ids = [task.shard.rows[position].image_id for position in batch.positions]
        arguments = (job.corpus_url, job.corpus_key, job.teacher, image_ids, batch.input_size)
        if job.features.num_cpus_per_decoder == 0:
            return self._threads.submit(_decode_batch, *arguments).result
        decoder = _DECODER.options(num_cpus=job.features.num_cpus_per_decoder, max_retries=job.features.max_retries)
        reference = decoder.remote(*arguments)
        return lambda: ray.get(reference)


def _decode_batch(
    corpus_url: str, corpus_key: str, geometry: Geometry, image_ids: Sequence[str], input_size: tuple[int, int]
) -> _Pixels:
    """Reads and decodes one batch; on any CPU of the cluster."""
    corpus = _open_corpus(corpus_url, corpus_key)
    batch, failures = prepare_batch(geometry, [corpus.image(image_id) for image_id in image_ids], input_size)
    return batch.numpy(), failures


_DECODER: Any = ray.remote(_decode_batch)


@lru_cache(maxsize=2)
def _open_corpus(url: str, key: str) -> Corpus:
    """Opened once per process: finding an image by its id takes a table of all of them."""
    corpus = Corpus.open(url)
    if corpus.manifest.key != key:
        raise InfrastructureError(f"{url}: expected the corpus {key}, found {corpus.manifest.key}; start teach again")
    return corpus


def _publish_coverage(
    coverage: Objects,
    key: str,
    corpus: Corpus,
    wanted: Sequence[ImageSize],
    store: FeatureStore,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    store_address: str,
) -> Manifest:
    """States what the store holds of the corpus; nothing in it depends on when which image was taught."""
    reasons: Mapping[str, str] = store.rejected
    rejects = [
        Reject(
            family=f"teacher {teacher.kind}",
            source_file="images",
            locator=image_id,
            reason=RejectReason.TEACHER_FAILED,
            detail=reasons[image_id],
        )
        for image_id, _, _ in wanted
        if image_id in reasons
    ]
    facts: dict[str, Json] = {
        "num_images": len(wanted) - len(rejects),
        "num_rejected": len(rejects),
        "rejects": {str(RejectReason.TEACHER_FAILED): len(rejects)} if rejects else {},
        "description": store.description.to_json() if store.description is not None else None,
    }
    manifest = Manifest(
        kind="teach",
        key=key,
        schema_version=SCHEMA_VERSION,
        recipe=cast("dict[str, Json]", {"teacher": teacher.hashed_fields(), "features": features.hashed_fields()}),
        inputs={"corpus": corpus.manifest.key, "store": store_address},
        files=(write_rejects(coverage, "rejects", rejects),),
        facts=facts,
    )
    return publish(coverage, manifest)
