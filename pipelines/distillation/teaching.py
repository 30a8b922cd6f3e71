"""Brings a feature store up to date with a corpus: what it holds is kept, what it lacks is computed, once.

The driver's part, which knows nothing of Ray: whatever runs shards is given.

    missing = wanted - known;   mine = missing - images in others' live leases, at most those of one part
    mine: lease, plan, shards, publication; then look again
    none is mine but some are missing: wait for who computes them; when they vanish or die, go on

A large corpus is gone through in windows, so that only some of its images are in memory: all are looked at once, then
those that lack something are completed one after another; where others are at all that is missing, last.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipelines.distillation.census import Census
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.coverage import publish_coverage
from pipelines.distillation.forecast import ImageCounts
from pipelines.distillation.plan import (
    ShardTask,
    TeachPlan,
    coverage_key,
    coverage_path,
    feature_fingerprint,
    plan_teaching,
    store_key,
)
from pipelines.distillation.retries import persistently
from pipelines.distillation.wanted import KnownImages, WantedImages
from pipelines.distillation.windows import IMAGES_PER_WINDOW, WantedWindows
from pipelines.distillation.worker import ShardResult
from pipelines.observer import NULL_OBSERVER, Metrics
from pipelines.progress import Progress
from storage.corpus import Corpus
from storage.errors import TooManyRejects, UsageError
from storage.feature_index import PartDescription, part_objects, read_snapshot
from storage.feature_plan import ShardPlan
from storage.feature_writer import WrittenShard, publish_part, read_shard, write_part_metadata, written_shards
from storage.keys import Json
from storage.leases import HeldLease, Leases, LeaseTimes, uncovered
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects
from storage.stored_features import Codec
from teachers.registry import TeacherConfig, teacher_card

__all__ = ["Job", "OnPlan", "RunShards", "Teaching", "store_description", "teaching_of"]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_NUM_READERS = 4
_BEATS_PER_EXPIRY = 6
_LOOK_AGAIN_S = 2.0

RunShards = Callable[[Sequence[ShardTask], "Job"], Iterator[ShardResult]]
"""Computes and writes shards somewhere; results as they come."""


class OnPlan(Protocol):
    """Told what is about to be computed, before any of it is."""

    def __call__(self, images: ImageCounts, plan: TeachPlan) -> None:
        """Takes the counts of all images and the plan of those that this run computes next."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What every process that takes part has to know."""

    corpus_url: str
    corpus_key: str
    part: Objects
    codec: Codec
    teacher: TeacherConfig
    features: FeaturesConfig


@dataclass(frozen=True)
class Teaching:
    """One corpus, one teacher, one store.

    Args:
        corpus: its images are taught.
        teacher: whose features.
        features: splits, grid, encoding, layout and pool sizes, with a batch size.
        output: prefix of the store.
        codec: of the store.
        description: of all parts of the store.
        address: key of the store.
        fingerprint: of the teacher.
        images_per_window: how many of the corpus are in memory at a time, see `WantedWindows`.
        sleep: waits for seconds.
        metrics: told what is tried again.
    """

    corpus: Corpus
    teacher: TeacherConfig
    features: FeaturesConfig
    output: Objects
    codec: Codec
    description: PartDescription
    address: str
    fingerprint: str
    images_per_window: int = IMAGES_PER_WINDOW
    sleep: Callable[[float], None] = time.sleep
    metrics: Metrics = NULL_OBSERVER

    def complete(self, run: RunShards, progress: Progress, on_plan: OnPlan | None = None) -> Manifest:
        """Computes what is missing until nothing is, and states it.

        Raises:
            UsageError: the store belongs to another teacher, grid or encoding.
            TooManyRejects: the teacher fails on more images than allowed.
            InfrastructureError: a shard failed too often, or storage stays out of reach.
        """
        census, tally = self.census(), _Tally(progress)
        expires_s = self.features.lease_expires_after_s
        leases = Leases(self.output, LeaseTimes(expires_s / _BEATS_PER_EXPIRY, expires_s), sleep=self.sleep)
        work = _Run(census, leases, run, tally, on_plan)
        lacking = census.visit_all(lambda known: bool(known.unknown.any()))
        queue = deque((number, False) for number, lacks in enumerate(lacking) if lacks)
        while queue:
            number, was_left = queue.popleft()
            may_wait = was_left or not queue
            if not census.visit(number, partial(self._complete, run=work, may_wait=may_wait)):
                queue.append((number, True))
        return self._persistently(
            "the statement on the corpus",
            lambda: publish_coverage(
                self.output,
                self.corpus.manifest.key,
                census,
                self.description,
                self.teacher,
                self.features,
                self.address,
            ),
        )

    def census(self) -> Census:
        """What the store holds of the corpus; nothing is looked at yet."""
        windows = WantedWindows(self.corpus, self.features, self.images_per_window)

        def read(number: int) -> WantedImages:
            return self._persistently("listing images", lambda: windows.wanted(number))

        return Census(windows, self.output, self.codec, self.look, read)

    def published(self) -> Manifest | None:
        """The statement on the corpus, if it stands already."""
        key = coverage_key(self.address, self.corpus.manifest.key, self.features)
        return read_manifest(self.output.child(coverage_path(key)))

    def look(self, known: KnownImages) -> None:
        """Learns what the store holds now.

        Raises:
            UsageError: the store belongs to another teacher, grid or encoding.
        """
        snapshot = self._persistently("looking at the index", lambda: read_snapshot(self.output))
        # Publication checks this too, but then everything would have been computed already.
        if snapshot is not None and snapshot.description.to_json() != self.description.to_json():
            raise UsageError(
                f"{self.output.url}: holds {snapshot.description.to_json()}, expected {self.description.to_json()}; "
                "give each teacher, grid and encoding its own store"
            )
        self._persistently("opening the store", lambda: known.update(snapshot))

    def plan(self, wanted: WantedImages, places: npt.NDArray[Any]) -> TeachPlan:
        """The part that holds some of the images, by positions or a mask."""
        return plan_teaching(
            wanted.select(places),
            self.features,
            self.teacher,
            self.teacher.student_source,
            self.description.num_channels,
            self.codec,
            self.address,
            wanted.corpus_rows(places),
        )

    def _complete(self, known: KnownImages, run: _Run, may_wait: bool) -> bool:
        """Completes a window; False, unless it may wait, where others compute all that is missing."""
        while known.unknown.any():
            others = self._persistently("looking at leases", run.leases.others)
            mine = self._free(known, others)
            if len(mine):
                run.tally.expect(run.census.counts().missing)
                self._compute(mine, known, run)
            elif may_wait:
                self._wait(others, run)
            else:
                return False
            self.look(known)
        return True

    def _free(self, known: KnownImages, others: Sequence[HeldLease]) -> npt.NDArray[np.int64]:
        """Unknown images that nobody else is at, of one part."""
        free, num_free = list[npt.NDArray[np.int64]](), 0
        for places, image_ids in known.wanted.chunks(known.unknown):
            free.append(places[uncovered(image_ids, others)] if others else places)
            num_free += len(free[-1])
            if num_free >= self.features.images_per_part:
                break
        return np.concatenate(free)[: self.features.images_per_part]

    def _wait(self, others: Sequence[HeldLease], run: _Run) -> None:
        holders = "; ".join(sorted({str(lease.holder) for lease in others}))
        counts = run.census.counts()
        logger.info("the %d images that are missing are being computed by %s", counts.missing, holders)
        run.tally.wait(counts, holders)
        self.sleep(_LOOK_AGAIN_S)

    def _compute(self, mine: npt.NDArray[np.int64], known: KnownImages, run: _Run) -> None:
        """Computes one part under a lease and publishes it; does nothing if somebody else comes first."""
        plan = self.plan(known.wanted, mine)
        lease = self._persistently("claiming a lease", lambda: run.leases.claim(plan.key, plan.images))
        if lease is None:
            self.sleep(_LOOK_AGAIN_S)
            return
        with lease:
            self.look(known)
            if not known.unknown[mine].all():
                return  # published between the look at the store and the claim
            if run.on_plan is not None:
                run.on_plan(run.census.counts(), plan)
            self._compute_part(plan, run.shards, run.tally)

    def _compute_part(self, plan: TeachPlan, run: RunShards, tally: _Tally) -> None:
        part = part_objects(self.output, plan.key)
        self._persistently(
            "metadata of the part", lambda: write_part_metadata(part, plan.part, self.description, self.codec)
        )
        written = self._persistently("shards of an earlier run", lambda: self._earlier_shards(part, plan))
        job = Job(self.corpus.objects.url, self.corpus.manifest.key, part, self.codec, self.teacher, self.features)
        tally.add(written.values())
        for result in run(list(plan.tasks(written)), job):
            written[result.written.entry.path] = result.written
            tally.add([result.written], result.seconds)
        rejected = {image_id: reason for shard in written.values() for image_id, reason in shard.rejected.items()}
        self._check_rejects(rejected, plan.part.num_images)
        layout = {name: getattr(self.features, name) for name in ("batch_size", "images_per_shard", "shard_mib")}
        self._persistently(
            "publishing the part",
            lambda: publish_part(
                self.output,
                plan.key,
                plan.part,
                self.description,
                self.codec,
                recipe=layout,
                inputs={"teacher": self.fingerprint},
                written=written,
            ),
        )

    def _earlier_shards(self, part: Objects, plan: TeachPlan) -> dict[str, WrittenShard]:
        """Shards that an interrupted run left, each read and verified."""
        finished = written_shards(part)
        shards = [shard for shard in plan.part.shards() if shard.key in finished]

        def read(shard: ShardPlan) -> WrittenShard:
            return read_shard(part, shard.array, shard.index, self.codec)

        with ThreadPoolExecutor(_NUM_READERS) as pool:
            return {found.entry.path: found for found in pool.map(read, shards)}

    def _check_rejects(self, rejected: Mapping[str, str], num_images: int) -> None:
        if len(rejected) > self.features.max_reject_share * num_images:
            image_id, reason = min(rejected.items())
            raise TooManyRejects(
                f"teacher {self.teacher.kind}: failed on {len(rejected)} of {num_images} images, allowed are "
                f"{self.features.max_reject_share:.1%}; the first is {image_id}: {reason}; "
                "mend the images and curate again, or raise features.max_reject_share"
            )

    def _persistently(self, what: str, step: Callable[[], _Result]) -> _Result:
        return persistently(what, step, self.features.max_retries, self.sleep, self.metrics)


def teaching_of(
    corpus: Corpus,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    codec: Codec,
    output: Objects,
    metrics: Metrics = NULL_OBSERVER,
    images_per_window: int = IMAGES_PER_WINDOW,
) -> Teaching:
    """One corpus, one teacher, one store, with the keys that follow from them; see `Teaching`."""
    description = store_description(teacher, features, codec)
    return Teaching(
        corpus,
        teacher,
        features.resolved(teacher),
        output,
        codec,
        description,
        store_key(description.fingerprint, description.encoding),
        teacher_card(teacher).fingerprint,
        images_per_window,
        metrics=metrics,
    )


def store_description(teacher: TeacherConfig, features: FeaturesConfig, codec: Codec) -> PartDescription:
    """What all parts of a store have in common, that holds this teacher in this encoding."""
    card = teacher_card(teacher)
    # Neither paths nor pool sizes: the same for everybody who computes these features.
    geometry: dict[str, Json] = {"teacher": teacher.kind, "grid": features.grid}
    if features.grid == "student" and features.student is not None:
        geometry |= {
            "source": teacher.student_source,
            "student": cast("dict[str, Json]", features.student.hashed_fields()),
        }
    fingerprint = feature_fingerprint(card.fingerprint, features, teacher.student_source)
    return PartDescription(fingerprint, codec.encoding, card.num_channels, geometry)


@dataclass(frozen=True, eq=False)
class _Run:
    """What one call of `Teaching.complete` works with."""

    census: Census
    leases: Leases
    shards: RunShards
    tally: _Tally
    on_plan: OnPlan | None


class _Tally:
    """What is done of a run, told to whoever watches."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._num_done, self._total, self._num_rejected = progress, 0, 0, 0
        self._seconds: dict[str, float] = {}

    def expect(self, num_images: int) -> None:
        """So many images are still missing, before those of the next part are computed."""
        self._total = self._num_done + num_images

    def wait(self, counts: ImageCounts, holders: str) -> None:
        """All that is missing is at others."""
        self._progress.update(counts.wanted - counts.missing, counts.wanted, unit="images", waiting_for=holders)

    def add(self, shards: Iterable[WrittenShard], seconds: Mapping[str, float] | None = None) -> None:
        """Counts finished shards, with the seconds of their phases."""
        for shard in shards:
            self._num_done += len(shard.rows)
            self._num_rejected += len(shard.rejected)
        for phase, phase_s in (seconds or {}).items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + phase_s
        self._progress.update(self._num_done, self._total, unit="images", rejects=self._num_rejected, **self._shares())

    def _shares(self) -> dict[str, str]:
        """How the teachers' time goes; what waits for input would be saved by more decoding."""
        at_teacher = {name: self._seconds.get(name, 0.0) for name in ("wait", "forward")}
        total = sum(at_teacher.values())
        return {} if total <= 0 else {"waiting": f"{at_teacher['wait'] / total:.0%}"}
