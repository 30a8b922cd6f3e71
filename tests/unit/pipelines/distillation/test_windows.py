"""Corpora that are taught window by window: the missing images, each once, and never more than a window in memory."""

from __future__ import annotations

import gc
import hashlib
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.distillation import missing as missing_module
from pipelines.distillation import teaching as teaching_module
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.forecast import ImageCounts
from pipelines.distillation.missing import find_missing
from pipelines.distillation.plan import ShardTask
from pipelines.distillation.teaching import Job, Teaching, teaching_of
from pipelines.distillation.wanted import KnownImages, WantedImages
from pipelines.distillation.windows import WantedWindows
from pipelines.distillation.worker import ShardResult
from pipelines.progress import NullProgress
from storage.codecs import codec_of
from storage.corpus import Corpus, write_images, write_samples
from storage.feature_index import open_part, read_rows, read_snapshot
from storage.features import FeatureRow, write_shard
from storage.leases import Leases
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Sample, Task
from tests.feature_parts import write_feature_part
from tests.ledger_teacher import LedgerTeacherConfig, ledger_card

TEACHER = LedgerTeacherConfig(num_channels=1, grid=(1, 1))
MAX_IMAGES = 30


@pytest.fixture(autouse=True, scope="module")
def known_teacher() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching_module, "teacher_card", ledger_card)
        patch.setattr(missing_module, "teacher_card", ledger_card)
        yield


def _image_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _record(image_id: str) -> ImageRecord:
    return ImageRecord(
        image_id=image_id,
        data=None,
        uri=f"s3://photographs/{image_id}.jpg",
        media_type="image/jpeg",
        height=8,
        width=8,
        coco_id=None,
        sources=(),
        difference_hash=0,
    )


def _sample(image_id: str, split: str) -> Sample:
    return Sample(
        sample_id=f"{split}-{image_id}",
        image_id=image_id,
        family="scenes",
        task=Task.UNLABELLED,
        split=split,
        source_file="",
        locator="",
    )


@dataclass
class World:
    """A corpus, parts that its store has before, and how it is taught."""

    files: list[list[str]]
    """Images of each file."""
    sample_files: list[list[tuple[str, str]]]
    """Image and split of each sample."""
    parts: list[dict[str, str | None]]
    """Images of each part; with a reason if it is a reject."""
    failing: set[str]
    """Images on which the teacher fails."""
    features: FeaturesConfig
    images_per_window: int
    computed: Counter[str] = field(default_factory=Counter)

    root: Objects = field(default_factory=lambda: Objects.open(f"memory://{uuid.uuid4().hex}"))

    @cached_property
    def corpus(self) -> Corpus:
        """Written when it is asked for."""
        objects = self.root.child("corpus")
        entries = [write_images(objects, str(n), map(_record, ids)) for n, ids in enumerate(self.files)]
        entries += [
            write_samples(objects, str(n), [_sample(*one) for one in some]) for n, some in enumerate(self.sample_files)
        ]
        publish(objects, Manifest("corpus", "c", SCHEMA_VERSION, {}, {}, tuple(entries)))
        return Corpus.open(objects)

    @cached_property
    def order(self) -> list[str]:
        """Images of the corpus in its order."""
        return self.corpus.image_table(["image_id"])["image_id"].to_pylist()

    def teaching(self, store: str = "store", sleep: Callable[[float], None] = lambda seconds: None) -> Teaching:
        output = self.root.child(store)
        codec = codec_of("raw16")
        found = teaching_of(
            self.corpus,
            TEACHER,  # type: ignore[arg-type]
            self.features,
            codec,
            output,
            images_per_window=self.images_per_window,
        )
        if read_snapshot(output) is None:
            for number, rows in enumerate(self.parts):
                write_feature_part(found, f"{number:x}", rows)
        return replace(found, sleep=sleep)

    def run(self, tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
        """Writes shards, and counts their images."""
        for task in tasks:
            ids = [row.image_id for row in task.shard.rows]
            assert [self.order[row] for row in task.corpus_rows] == ids
            rows = [self._row(image_id) for image_id in ids]
            written = write_shard(job.part, task.shard.array, task.shard.index, rows, job.codec)
            self.computed.update(ids)
            yield ShardResult(written, {})

    def _row(self, image_id: str) -> FeatureRow:
        values = None if image_id in self.failing else np.zeros((1, 1, 1), np.float32)
        return FeatureRow(image_id, 1, 1, values, "fails" if values is None else "")

    @property
    def wanted(self) -> list[str]:
        """Images of the splits, in the order of the corpus."""
        splits = self.features.splits
        named = {image_id for some in self.sample_files for image_id, split in some if split in splits}
        return [image_id for image_id in self.order if not splits or image_id in named]

    @property
    def missing(self) -> list[str]:
        """Wanted images that no part has."""
        known = {image_id for rows in self.parts for image_id in rows}
        return [image_id for image_id in self.wanted if image_id not in known]

    def expected_parts(self, free: set[str]) -> list[list[str]]:
        """What parts a run makes of some missing images: those of a window, some at a time."""
        per_part = self.features.images_per_part
        size = -(-self.images_per_window // per_part) * per_part
        windows = [set(self.order[start : start + size]) for start in range(0, len(self.order), size)]
        found: list[list[str]] = []
        for window in windows:
            mine = [image_id for image_id in self.missing if image_id in window and image_id in free]
            found += [mine[start : start + per_part] for start in range(0, len(mine), per_part)]
        return found


def parts_of(teaching: Teaching) -> list[list[str]]:
    """Images of each live part."""
    snapshot = read_snapshot(teaching.output)
    known = {teaching.codec.encoding: teaching.codec}
    return [
        read_rows(open_part(teaching.output, entry, known))["image_id"].to_pylist()
        for entry in (() if snapshot is None else snapshot.parts)
    ]


def everything(store: Objects) -> dict[str, bytes]:
    """Every object of a store but its leases."""
    return {info.key: store.read(info.key) for info in store.list() if not info.key.startswith("leases/")}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Corpora of several files, their samples in no order, stores whose parts overlap with anything."""
    ids = [_image_id(number) for number in range(draw(st.integers(0, MAX_IMAGES)))]
    strangers = [f"stranger {number}" for number in range(4)]
    sample = st.tuples(st.sampled_from(ids or [""]), st.sampled_from(["train", "val"]))
    reason = st.sampled_from([None, None, "torn", "black"])
    part = st.dictionaries(st.sampled_from([*ids, *strangers]), reason, min_size=1, max_size=12)
    return World(
        files=_cut(draw, draw(st.permutations(ids))),
        sample_files=_cut(draw, draw(st.lists(sample, unique=True)) if ids else []),
        parts=draw(st.lists(part, max_size=4)),
        failing=set(draw(st.lists(st.sampled_from(ids), max_size=5))) if ids else set(),
        features=FeaturesConfig(
            codec="raw16",
            batch_size=2,
            images_per_shard=draw(st.integers(1, 4)),
            images_per_part=draw(st.integers(1, 7)),
            splits=draw(st.sampled_from([(), ("train",), ("train", "val")])),
            lease_expires_after_s=1e6,
            max_reject_share=1.0,
            max_retries=0,
        ),
        images_per_window=draw(st.integers(1, MAX_IMAGES + 5)),
    )


def _cut(draw: st.DrawFn, items: Sequence[Any]) -> list[list[Any]]:
    cuts = sorted(draw(st.lists(st.integers(0, len(items)), max_size=5)))
    return [list(items[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(items)], strict=True)]


@settings(max_examples=40)
@given(worlds())
def test_what_is_missing_is_taught_once(world: World) -> None:
    teaching = world.teaching()
    told: list[ImageCounts] = []
    stated = teaching.complete(world.run, NullProgress(), lambda counts, plan: told.append(counts))
    assert world.computed == Counter(world.missing)
    assert [set(part) for part in parts_of(teaching)[len(world.parts) :]] == [
        set(part) for part in world.expected_parts(set(world.missing))
    ]
    assert [counts.wanted for counts in told] == [len(world.wanted)] * len(told)
    assert [counts.missing for counts in told[:1]] == [len(world.missing)] * len(told[:1])
    whole = replace(world.teaching("another"), images_per_window=MAX_IMAGES)
    assert whole.complete(world.run, NullProgress()) == stated
    assert not list(teaching.output.list("leases"))
    again = world.computed.copy()
    assert teaching.complete(world.run, NullProgress()) == stated
    assert world.computed == again


@settings(max_examples=30)
@given(worlds())
def test_a_forecast_adds_up_the_windows(world: World) -> None:
    teaching = world.teaching()
    found, expected = (
        find_missing(world.corpus, teaching.teacher, world.features, teaching.codec, teaching.output, size)
        for size in (world.images_per_window, MAX_IMAGES)
    )
    assert found.counts == expected.counts
    assert found.counts.missing == found.plans.num_images == len(world.missing)
    assert found.plans.num_parts == len(world.expected_parts(set(world.missing)))
    assert found.plans.num_cells == expected.plans.num_cells
    assert list(found.sizes) == list(expected.sizes)
    assert [image_id for image_id, _, _ in found.sizes] == (world.missing or world.wanted)


@settings(max_examples=30)
@given(worlds(), st.data())
def test_a_killed_run_makes_the_same_parts(world: World, data: st.DataObject) -> None:
    peace = world.teaching("peace")
    peace.complete(world.run, NullProgress())
    world.computed.clear()
    left = data.draw(st.lists(st.integers(0, 8), max_size=4))

    def run_some(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
        for result in world.run(tasks, job):
            yield result
            if not left:
                continue
            left[0] -= 1
            if left[0] < 0:
                left.pop(0)
                raise KeyboardInterrupt

    teaching = world.teaching()
    for _ in range(len(left) + 1):
        try:
            teaching.complete(run_some, NullProgress())
        except KeyboardInterrupt:
            continue
        break
    assert everything(teaching.output) == everything(peace.output)
    assert world.computed == Counter(world.missing)


@settings(max_examples=30)
@given(worlds(), st.data())
def test_what_others_compute_is_waited_for_last(world: World, data: st.DataObject) -> None:
    """Of two leases one is made good, and the holder of the other one dies."""
    leased = data.draw(st.lists(st.sampled_from(world.missing), unique=True)) if world.missing else []
    cut = data.draw(st.integers(0, len(leased)))
    others = [ids for ids in (leased[:cut], leased[cut:]) if ids]
    leases = [Leases(world.teaching().output).claim(f"other {n}", ids) for n, ids in enumerate(others)]
    waits: list[Counter[str]] = []

    def sleep(seconds: float) -> None:
        waits.append(world.computed.copy())
        lease = leases.pop()
        assert lease is not None
        if not leases:
            write_feature_part(teaching, "f", dict.fromkeys(others[0]))
        lease.close()

    teaching = world.teaching(sleep=sleep)
    teaching.complete(world.run, NullProgress())
    free = set(world.missing) - set(leased)
    assert len(waits) == len(others)
    assert waits[:1] == [Counter(free)] * len(waits[:1])
    assert world.computed == Counter(set(world.missing) - set(others[0] if others else ()))


@settings(max_examples=15)
@given(worlds())
def test_no_more_than_a_window_is_held(world: World) -> None:
    held: list[weakref.ref[WantedImages]] = []
    sizes: list[int] = []

    def wanted(self: WantedWindows, number: int) -> WantedImages:
        assert not [one for one in held if one() is not None], "the window before is still held"
        images = read(self, number)
        held.append(weakref.ref(images))
        sizes.append(len(images))
        return images

    read = WantedWindows.wanted
    teaching = world.teaching()
    gc.collect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WantedWindows, "wanted", wanted)
        teaching.complete(world.run, NullProgress())
        find_missing(world.corpus, teaching.teacher, world.features, None, None, world.images_per_window)
    assert max(sizes) <= world.images_per_window + world.features.images_per_part - 1


def test_a_part_is_fetched_once_and_looked_at_where_it_may_matter() -> None:
    """Of a store that was taught in the same windows, each part is looked at by the windows up to its own."""
    ids = [_image_id(number) for number in range(40)]
    features = FeaturesConfig(codec="raw16", batch_size=2, images_per_part=10, max_retries=0)
    world = World([ids], [], [], set(), features, images_per_window=10)
    fetched: Counter[str] = Counter()
    looked: Counter[str] = Counter()
    fetch, add = (getattr(KnownImages, name) for name in ("_fetch", "_add"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KnownImages, "_fetch", lambda self, entry: fetched.update([entry.part]) or fetch(self, entry))
        patch.setattr(KnownImages, "_add", lambda self, table: looked.update([str(table[0][0])]) or add(self, table))
        world.teaching().complete(world.run, NullProgress())
        assert (set(fetched.values()), set(looked.values())) == ({1}, {1})
        fetched.clear()
        looked.clear()
        world.teaching().complete(world.run, NullProgress())
    assert set(fetched.values()) == {1}
    assert sorted(looked.values()) == [1, 2, 3, 4]
    assert world.computed == Counter(ids)


def test_small_corpora_are_one_window() -> None:
    corpus = World([[_image_id(1)], [_image_id(0)]], [], [], set(), FeaturesConfig(), 1).corpus
    assert len(WantedWindows(corpus, FeaturesConfig())) == 1
    assert len(WantedWindows(corpus, FeaturesConfig(images_per_part=1), images_per_window=1)) == 2
    assert len(WantedWindows(corpus, FeaturesConfig(images_per_part=2), images_per_window=1)) == 1
    assert list(WantedWindows(corpus, FeaturesConfig(images_per_part=1), 1).ids()) == [_image_id(1), _image_id(0)]
