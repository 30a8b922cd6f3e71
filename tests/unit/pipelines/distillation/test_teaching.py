"""The driver's part, with shards computed in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pipelines.distillation import teaching as teaching_module
from pipelines.distillation import wanted as wanted_module
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.forecast import ImageCounts
from pipelines.distillation.missing import find_missing
from pipelines.distillation.plan import ShardTask, TeachPlan
from pipelines.distillation.teaching import Job, Teaching, teaching_of
from pipelines.distillation.wanted import KnownImages
from pipelines.distillation.windows import WantedWindows
from pipelines.distillation.worker import ShardResult
from pipelines.progress import NullProgress
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.feature_index import read_snapshot, replace_parts
from storage.features import open_features
from storage.leases import Leases
from storage.manifest import Manifest
from storage.objects import Objects
from storage.schema import ImageRecord
from tests.feature_parts import write_feature_part
from tests.ledger_teacher import LedgerTeacherConfig, computations, ledger_card
from tests.shards_here import run_shards_here
from tests.small_corpora import noise_picture, write_corpus

FEATURES = FeaturesConfig(codec="raw16", batch_size=2, images_per_shard=2, lease_expires_after_s=1e6, max_retries=0)


@pytest.fixture(autouse=True)
def known_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching_module, "teacher_card", ledger_card)


@pytest.fixture(scope="module")
def images() -> list[ImageRecord]:
    return [noise_picture(number, 16, 24 if number % 3 else 16) for number in range(12)]


def _corpus(folder: Path, images: Sequence[ImageRecord], key: str) -> Corpus:
    return write_corpus(Objects.open(folder / f"corpus-{key}"), images, key)


def _teaching(
    folder: Path,
    corpus: Corpus,
    features: FeaturesConfig = FEATURES,
    sleep: Callable[[float], None] = lambda seconds: None,
) -> Teaching:
    teacher = LedgerTeacherConfig(ledger=str(folder / "ledger"))
    found = teaching_of(corpus, teacher, features, codec_of("raw16"), Objects.open(folder / "store"))  # type: ignore[arg-type]
    return Teaching(**{name: getattr(found, name) for name in found.__dataclass_fields__} | {"sleep": sleep})


def _complete(teaching: Teaching) -> Manifest:
    return teaching.complete(run_shards_here, NullProgress())


def test_what_is_there_is_never_computed_again(tmp_path: Path, images: list[ImageRecord]) -> None:
    first = _complete(_teaching(tmp_path, _corpus(tmp_path, images[:7], "a")))
    assert first.facts["num_images"] == 7
    teaching = _teaching(tmp_path, _corpus(tmp_path, images, "b"))
    assert teaching.published() is None
    again = _complete(teaching)
    assert teaching.published() == again
    assert again.facts["num_images"] == 12
    assert set(computations(tmp_path / "ledger").values()) == {1}
    assert len(open_features(tmp_path / "store")) == 12
    assert not list(Objects.open(tmp_path / "store").list("leases"))


def test_the_plan_is_told_before_anything_runs(tmp_path: Path, images: list[ImageRecord]) -> None:
    _complete(_teaching(tmp_path, _corpus(tmp_path, images[:7], "a")))
    told: list[tuple[ImageCounts, int]] = []

    def on_plan(counts: ImageCounts, plan: TeachPlan) -> None:
        assert len(computations(tmp_path / "ledger")) == 7
        told.append((counts, plan.part.num_images))

    _teaching(tmp_path, _corpus(tmp_path, images, "b")).complete(run_shards_here, NullProgress(), on_plan)
    assert told == [(ImageCounts(wanted=12, present=7, rejected=0, missing=5), 5)]


def test_an_interrupted_run_goes_on_with_what_is_missing(tmp_path: Path, images: list[ImageRecord]) -> None:
    teaching = _teaching(tmp_path, _corpus(tmp_path, images, "a"))

    def run_some(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
        results = run_shards_here(tasks, job)
        yield next(results)
        yield next(results)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teaching.complete(run_some, NullProgress())
    assert not list(teaching.output.list("leases"))
    _complete(teaching)
    assert set(computations(tmp_path / "ledger").values()) == {1}
    assert len(computations(tmp_path / "ledger")) == 12


def test_two_overlapping_runs_at_once_compute_each_image_once(tmp_path: Path, images: list[ImageRecord]) -> None:
    one = _teaching(tmp_path, _corpus(tmp_path, images[:8], "a"))
    waits = threading.Event()
    other = _teaching(tmp_path, _corpus(tmp_path, images[4:], "b"), sleep=lambda seconds: waits.set())
    began = threading.Event()

    def run_slowly(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
        began.set()
        assert waits.wait(30)  # until the other one has done its own images and waits for ours
        yield from run_shards_here(tasks, job)

    thread = threading.Thread(target=lambda: one.complete(run_slowly, NullProgress()))
    thread.start()
    assert began.wait(30)
    _complete(other)
    thread.join(30)
    assert set(computations(tmp_path / "ledger").values()) == {1}
    assert len(computations(tmp_path / "ledger")) == 12
    snapshot = read_snapshot(one.output)
    assert snapshot is not None
    assert sorted(part.num_images for part in snapshot.parts) == [4, 8]


def test_who_waits_is_told_for_whom(tmp_path: Path, images: list[ImageRecord]) -> None:
    teaching = _teaching(tmp_path, _corpus(tmp_path, images, "a"))
    lease = Leases(teaching.output).claim("other", [image.image_id for image in images])
    assert lease is not None
    told: list[dict[str, object]] = []

    class Watcher:
        def update(self, done: int, total: int, **facts: object) -> None:
            told.append(facts)
            lease.close()

    teaching.complete(run_shards_here, Watcher())
    assert "process" in str(told[0]["waiting_for"])
    assert set(computations(tmp_path / "ledger").values()) == {1}


def test_of_two_parts_with_an_image_the_one_listed_first_counts(tmp_path: Path, images: list[ImageRecord]) -> None:
    """Leases lost: both computed everything, and the index resolves the double."""
    one, other = (_teaching(tmp_path, _corpus(tmp_path, images[start:], str(start))) for start in (0, 2))
    plans: list[str] = []

    def run_while_the_other_does(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
        yield from run_shards_here(tasks, job)
        for info in list(one.output.list("leases")):
            one.output.delete(info.key)
        other.complete(run_shards_here, NullProgress(), lambda counts, plan: plans.append(plan.key))

    one.complete(run_while_the_other_does, NullProgress(), lambda counts, plan: plans.append(plan.key))
    counts = computations(tmp_path / "ledger")
    assert sorted(counts.values()) == [1] * 2 + [2] * 10
    store = open_features(tmp_path / "store")
    assert store.snapshot is not None
    assert [part.part for part in store.snapshot.parts] == [plans[1], plans[0]]
    assert len(store) == 12
    assert {ref.part for image_id, ref in store.refs.items() if image_id in other_ids(images)} == {plans[1]}


def other_ids(images: list[ImageRecord]) -> set[str]:
    return {image.image_id for image in images[2:]}


def test_large_sets_are_computed_part_by_part(tmp_path: Path, images: list[ImageRecord]) -> None:
    corpus = _corpus(tmp_path, images, "a")
    teaching = _teaching(tmp_path, corpus, FEATURES.model_copy(update={"images_per_part": 5}))
    reads: list[str] = []
    told: list[tuple[int, int]] = []
    planned: list[ImageCounts] = []

    def run_and_note(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
        (lease,) = Leases(teaching.output).others()
        assert len(lease.digests) == sum(len(task.shard.rows) for task in tasks)
        yield from run_shards_here(tasks, job)

    class Watcher:
        def update(self, done: int, total: int, **facts: object) -> None:
            told.append((done, total))

    read_rows = wanted_module.read_rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wanted_module, "read_rows", lambda part: reads.append(part.key) or read_rows(part))
        published = teaching.complete(run_and_note, Watcher(), lambda counts, plan: planned.append(counts))
    assert published.facts["num_images"] == 12
    assert [(counts.present, counts.missing) for counts in planned] == [(0, 12), (5, 7), (10, 2)]
    assert told[-1] == (12, 12)
    assert {total for _, total in told} == {12}
    snapshot = read_snapshot(teaching.output)
    assert snapshot is not None
    assert [part.num_images for part in snapshot.parts] == [5, 5, 2]
    assert reads == [part.part for part in snapshot.parts]  # each of them once
    assert set(computations(tmp_path / "ledger").values()) == {1}
    assert _complete(_teaching(tmp_path, corpus)) == published


def test_a_forecast_adds_up_the_parts(tmp_path: Path, images: list[ImageRecord]) -> None:
    teaching = _teaching(tmp_path, _corpus(tmp_path, images[:5], "a"))
    _complete(teaching)
    whole, parted = (
        find_missing(
            _corpus(tmp_path, images, "b"),
            teaching.teacher,
            FEATURES.model_copy(update={"images_per_part": size}),
            teaching.codec,
            teaching.output,
        )
        for size in (7, 3)
    )
    assert whole.counts == parted.counts == ImageCounts(wanted=12, present=5, rejected=0, missing=7)
    assert (whole.plans.num_parts, parted.plans.num_parts) == (1, 3)
    assert whole.plans.num_images == parted.plans.num_images == 7
    assert whole.plans.num_cells == parted.plans.num_cells
    assert sorted(parted.sizes) == sorted((image.image_id, image.height, image.width) for image in images[5:])


def test_a_probe_draws_pictures_while_another_run_writes_them(tmp_path: Path, images: list[ImageRecord]) -> None:
    corpus, few = _corpus(tmp_path, images, "a"), FEATURES.model_copy(update={"images_per_part": 4})
    teaching = _teaching(tmp_path, corpus, few)
    drawn = find_missing(corpus, teaching.teacher, few, teaching.codec, teaching.output, 4).sizes
    _complete(_teaching(tmp_path, _corpus(tmp_path, images[:9], "b")))
    known = {(image.image_id, image.height, image.width) for image in images}
    assert len(drawn) == 12
    assert {drawn[number] for number in range(12)} <= known


def test_two_runs_share_what_is_missing_by_parts(tmp_path: Path, images: list[ImageRecord]) -> None:
    corpus, few = _corpus(tmp_path, images, "a"), FEATURES.model_copy(update={"images_per_part": 4})
    one, other = _teaching(tmp_path, corpus, few), _teaching(tmp_path, corpus, few)
    parts: dict[str, list[int]] = {"one": [], "other": []}
    first = True

    def run_while_the_other_begins(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
        nonlocal first
        if first:
            first = False

            def one_part_only(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
                if parts["other"]:
                    raise KeyboardInterrupt
                parts["other"].append(len(tasks))
                return run_shards_here(tasks, job)

            with pytest.raises(KeyboardInterrupt):
                other.complete(one_part_only, NullProgress())
        parts["one"].append(len(tasks))
        yield from run_shards_here(tasks, job)

    one.complete(run_while_the_other_begins, NullProgress())
    assert {name: len(found) for name, found in parts.items()} == {"one": 2, "other": 1}
    assert set(computations(tmp_path / "ledger").values()) == {1}
    assert len(open_features(tmp_path / "store")) == 12


def test_what_a_store_knows_follows_its_snapshots(tmp_path: Path, images: list[ImageRecord]) -> None:
    """Rejects give way to features, and a part that was retired counts no more."""
    teaching = _teaching(tmp_path, _corpus(tmp_path, images, "a"))
    wanted = WantedWindows(teaching.corpus, FEATURES).wanted(0)
    ids = wanted.ids()
    known = KnownImages(wanted, teaching.output, teaching.codec)
    teaching.look(known)
    assert known.unknown.all()
    assert known.counts() == ImageCounts(12, 0, 0, 12)
    failing = write_feature_part(teaching, "a", {ids[0]: "torn", ids[1]: "black"})
    teaching.look(known)
    assert known.rejected == {ids[0]: "torn", ids[1]: "black"}
    assert known.counts() == ImageCounts(12, 0, 2, 10)
    write_feature_part(teaching, "b", {ids[0]: "late", ids[1]: None, ids[2]: None, "stranger": None})
    teaching.look(known)
    assert known.rejected == {ids[0]: "torn"}
    assert known.counts() == ImageCounts(12, 2, 1, 9)
    assert known.unknown.tolist() == [False] * 3 + [True] * 9
    replace_parts(teaching.output, teaching.description, [failing], None)
    teaching.look(known)
    assert known.rejected == {ids[0]: "late"}
    fresh = KnownImages(wanted, teaching.output, teaching.codec)
    teaching.look(fresh)
    assert (fresh.rejected, fresh.counts()) == (known.rejected, known.counts())
