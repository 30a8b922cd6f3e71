"""Teachers beside the student: the same batches and losses as from a store, and what is written back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import DistillationHead, StudentConfig
from model.feature_targets import FeatureTargets
from model.objective import LossWeights, TrainingBatch, compute_losses
from model.processor import Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.distillation.config import FeaturesConfig, StudentGrid
from pipelines.distillation.steps import decode_rgb
from pipelines.distillation.teaching import store_description, teaching_of
from pipelines.progress import NullProgress
from pipelines.training.config import TrainingConfig
from pipelines.training.feed import TrainingFeed
from pipelines.training.teacher_modes import TeacherBeside, TeachersBeside, teacher_beside
from pipelines.training.worker import Job, Seat, run_worker
from pipelines.training.write_back import StoreToFill
from storage.calibration import TIERS, CalibrationSample
from storage.codecs import Codec, codec_of
from storage.corpus import Corpus, image_bytes
from storage.errors import InfrastructureError, TooManyRejects, UsageError
from storage.features import FeatureStore
from storage.klt import KltCodec
from storage.objects import Objects
from storage.schema import ImageRecord
from teachers.base import BaseTeacherConfig
from teachers.mask2former import Mask2FormerTeacher, Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig
from tests.shards_here import run_shards_here
from tests.small_corpora import noise_picture

TEACHERS: tuple[BaseTeacherConfig, ...] = (
    Mask2FormerTeacherConfig(short_side_px=64, long_side_px=96),
    Sam2TeacherConfig(image_size_px=64),
)
GRIDS = ("native", "student", "stride:8")
STUDENT_GRID = StudentGrid(patch_size_px=8, mask_stride_px=4, max_side_px=64)
CPU = torch.device("cpu")
WEIGHTS = LossWeights().distillation


def features_config(grid: str = "native", **changes: object) -> FeaturesConfig:
    """Batches of one image, here as in `teach`: what else is in a batch can change the last bits."""
    student = STUDENT_GRID if grid == "student" else None
    return FeaturesConfig.model_validate(
        {"codec": "raw16", "batch_size": 1, "grid": grid, "student": student, "max_retries": 0, **changes}
    )


def training_config(mode: str, **changes: object) -> TrainingConfig:
    values = {"num_steps": 2, "batch_rows": 6, "micro_batch_rows": 6, "mask_points": None, "teacher_mode": mode}
    return TrainingConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def wide_student(student_config_of: Callable[..., StudentConfig]) -> StudentConfig:
    return student_config_of(
        distillation=(
            DistillationHead(teacher="mask2former", num_channels=32, source="mask_features"),
            DistillationHead(teacher="sam2", num_channels=32, source="patches"),
        )
    )


@pytest.fixture(scope="session")
def student_config_of(tokenizer: StudentTokenizer) -> Callable[..., StudentConfig]:
    def make(**changes: object) -> StudentConfig:
        values: dict[str, object] = {
            "vocab_size": tokenizer.vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "patch_size_px": 8,
            "max_side_px": 64,
            "mask_stride_px": 4,
            "mask_dim": 16,
            "num_visual_prompts": 5,
            "wordings": "short",
        }
        return StudentConfig.model_validate({**values, **changes})

    return make


@dataclass
class Bench:
    """A corpus on disk, its stores, and a student."""

    folder: Path
    corpus: Corpus
    config: StudentConfig
    tokenizer: StudentTokenizer

    def codec(self, teacher: BaseTeacherConfig, features: FeaturesConfig) -> Codec:
        if features.codec not in TIERS:
            return codec_of(features.codec)
        sample, built = CalibrationSample(), teacher.build()
        for number in range(6):
            picture = noise_picture(number, 32, 48)
            sample.add(built.forward(teacher.preprocess(decode_rgb(image_bytes(picture)))[None])[0].numpy())
        return KltCodec(sample.fit(TIERS[features.codec]))

    def taught(self, features: FeaturesConfig) -> dict[str, FeatureStore]:
        """Stores as `teach` fills them."""
        stores: dict[str, FeatureStore] = {}
        for teacher in TEACHERS:
            output = Objects.open(self.folder / f"taught-{teacher.kind}")
            codec = self.codec(teacher, features)
            teaching_of(self.corpus, teacher, features, codec, output).complete(run_shards_here, NullProgress())
            stores[teacher.kind] = FeatureStore.open(output)
        return stores

    def beside(
        self, features: FeaturesConfig, mode: str, part_images: int = 100, name: str = "filled"
    ) -> tuple[TeachersBeside, dict[str, FeatureStore]]:
        stores: dict[str, FeatureStore] = {}
        teachers = []
        for teacher in TEACHERS:
            target = None
            if mode == "hybrid":
                codec, url = self.codec(teacher, features), str(self.folder / f"{name}-{teacher.kind}")
                target = StoreToFill(url, "a" * 64, store_description(teacher, features, codec), codec)
                stores[teacher.kind] = FeatureStore.open(url, absent_ok=True)
            teachers.append(teacher_beside(teacher, features, target))
        return TeachersBeside(teachers, WEIGHTS, CPU, part_images), stores

    def batches(self, mode: str, stores: dict[str, FeatureStore], num_steps: int = 2) -> list[TrainingBatch]:
        feed = TrainingFeed(self.corpus, stores, Processor(self.config, self.tokenizer), training_config(mode))
        return [feed.step_batches(step).micro_batches[0] for step in range(num_steps)]


@pytest.fixture
def bench(
    tmp_path: Path,
    pictures: list[tuple[ImageRecord, dict[str, object]]],
    corpus: Corpus,
    wide_student: StudentConfig,
    tokenizer: StudentTokenizer,
) -> Bench:
    for info in corpus.objects.list():
        Objects.open(tmp_path / "corpus").put(info.key, corpus.objects.read(info.key))
    return Bench(tmp_path, Corpus.open(tmp_path / "corpus"), wide_student, tokenizer)


def losses(config: StudentConfig, batch: TrainingBatch) -> dict[str, Tensor]:
    student = PixelSail(config).init_weights(torch.Generator().manual_seed(0))
    found = compute_losses(student, batch, LossWeights())
    return {**found.terms, "total": found.total.detach()}


def assert_same_targets(one: TrainingBatch, other: TrainingBatch) -> None:
    """Groups of the same images in the same order, equal to the last bit."""
    assert one.features.keys() == other.features.keys()
    for teacher, maps in one.features.items():
        assert maps.keys() == other.features[teacher].keys()
        for grid, groups in maps.items():
            assert [numbers for numbers, _ in groups] == [numbers for numbers, _ in other.features[teacher][grid]]
            for (_, mine), (_, theirs) in zip(groups, other.features[teacher][grid], strict=True):
                _assert_equal(mine, theirs)


def _assert_equal(mine: FeatureTargets, theirs: FeatureTargets) -> None:
    for item in fields(mine):
        left, right = getattr(mine, item.name), getattr(theirs, item.name)
        assert (left is None) == (right is None), item.name
        assert left is None or left.equal(right), item.name


@pytest.mark.parametrize("grid", GRIDS)
def test_online_is_raw16_to_the_last_bit(bench: Bench, grid: str) -> None:
    features = features_config(grid)
    cached = bench.batches("cached", bench.taught(features))
    teachers, _ = bench.beside(features, "online")
    with teachers:
        online = [teachers.complete(batch) for batch in bench.batches("online", {})]
    assert all(len(batch.missing) == 0 for batch in online)
    for one, other in zip(cached, online, strict=True):
        assert_same_targets(one, other)
        expected, found = losses(bench.config, one), losses(bench.config, other)
        assert "distillation/mask2former" in found
        assert "distillation/sam2" in found
        assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("codec", ["raw16", "int8", "klt"])
def test_hybrid_equals_the_store_that_it_fills(bench: Bench, codec: str) -> None:
    features = features_config(codec=codec)
    teachers, stores = bench.beside(features, "hybrid")
    with teachers:
        hybrid = [teachers.complete(batch) for batch in bench.batches("hybrid", stores)]
    filled = {teacher.kind: FeatureStore.open(bench.folder / f"filled-{teacher.kind}") for teacher in TEACHERS}
    for store in filled.values():
        assert len(store) == 4
        store.verify()
    for first, second in zip(hybrid, bench.batches("cached", filled), strict=True):
        assert_same_targets(first, second)
        expected, found = losses(bench.config, second), losses(bench.config, first)
        assert all(found[name].equal(expected[name]) for name in expected)
    taught = bench.taught(features)
    for first, second in zip(hybrid, bench.batches("cached", taught), strict=True):
        assert_same_targets(first, second)


def test_modes_differ_by_the_error_of_coding_alone(bench: Bench) -> None:
    online, _ = bench.beside(features_config(), "online")
    hybrid, stores = bench.beside(features_config(codec="klt"), "hybrid")
    with online, hybrid:
        exact = losses(bench.config, online.complete(bench.batches("online", {})[0]))
        coded = losses(bench.config, hybrid.complete(bench.batches("hybrid", stores)[0]))
    for name in ("distillation/mask2former", "distillation/sam2"):
        assert not exact[name].equal(coded[name])
        # 30 dB: a thousandth of the features' variance, which a student that knows nothing has as its error.
        torch.testing.assert_close(coded[name], exact[name], rtol=2e-3, atol=0)
    assert coded["text"].equal(exact["text"])


def test_a_store_that_knows_some_images_is_completed(bench: Bench) -> None:
    features = features_config(codec="klt")
    first, stores = bench.beside(features, "hybrid")
    batch = bench.batches("hybrid", stores)[0]
    some = {kind: list(missing)[:2] for kind, missing in batch.missing.items()}
    with first:
        first.complete(replace(batch, missing=some))
    second, half_full = bench.beside(features, "hybrid")
    assert all(0 < len(store) < 4 for store in half_full.values())
    with second:
        mixed = [second.complete(batch) for batch in bench.batches("hybrid", half_full)]
    filled = {kind: FeatureStore.open(store.objects) for kind, store in half_full.items()}
    assert all(len(store.parts) == 2 and len(store) == 4 for store in filled.values())
    for one, other in zip(mixed, bench.batches("cached", filled), strict=True):
        assert_same_targets(one, other)


def test_nothing_is_computed_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    forward = Mask2FormerTeacher.forward

    def counted(self: Mask2FormerTeacher, batch: Tensor) -> Tensor:
        counts.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(Mask2FormerTeacher, "forward", counted)
    teachers, stores = bench.beside(features_config(), "hybrid", part_images=3)
    with teachers:
        # The feed keeps its snapshot, so that the same images are missing in both epochs.
        batches = bench.batches("hybrid", stores, 4)
        for batch in batches:
            teachers.complete(batch)
        teachers.write()
        for batch in batches:
            teachers.complete(batch)
    assert sum(counts) == 4
    again, _ = bench.beside(features_config(), "hybrid")
    with again:
        again.complete(batches[0])
    assert sum(counts) == 4


def test_two_workers_write_parts_of_their_own(bench: Bench) -> None:
    features = features_config(codec="int8")
    one, stores = bench.beside(features, "hybrid", part_images=1)
    other, _ = bench.beside(features, "hybrid", part_images=2)
    batch = bench.batches("hybrid", stores)[0]
    with one, other:
        results = [one.complete(batch), other.complete(batch)]
    assert_same_targets(*results)
    for kind in stores:
        store = FeatureStore.open(bench.folder / f"filled-{kind}")
        store.verify()
        assert {name for _, name, _ in batch.missing[kind]} == set(store)


def test_a_failed_run_loses_what_was_not_published(bench: Bench) -> None:
    teachers, stores = bench.beside(features_config(), "hybrid")
    batch = bench.batches("hybrid", stores)[0]
    teachers.complete(batch)
    failure = RuntimeError("the step failed")
    teachers.__exit__(RuntimeError, failure, None)
    assert not FeatureStore.open(bench.folder / "filled-sam2", absent_ok=True)
    again, stores = bench.beside(features_config(), "hybrid")
    with again:
        again.complete(batch)
    assert FeatureStore.open(bench.folder / "filled-sam2")


def failing(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[Tensor], bool]) -> None:
    forward = Mask2FormerTeacher.forward

    def poisoned(self: Mask2FormerTeacher, batch: Tensor) -> Tensor:
        if any(is_bad(image) for image in batch):
            raise ValueError("poison")
        return forward(self, batch)

    monkeypatch.setattr(Mask2FormerTeacher, "forward", poisoned)


@pytest.mark.parametrize("mode", ["online", "hybrid"])
def test_an_image_on_which_a_teacher_fails_stays_without(
    bench: Bench, mode: str, monkeypatch: pytest.MonkeyPatch, image_ids: list[str]
) -> None:
    # The third picture alone is upright.
    failing(monkeypatch, lambda image: image.shape[-2] > image.shape[-1] and bool(image.any()))
    teachers, stores = bench.beside(features_config(), mode)
    batches = bench.batches(mode, stores, 3)
    bad = {number for batch in batches for number, name, _ in batch.missing["mask2former"] if name == image_ids[2]}
    assert bad
    with teachers:
        completed = [teachers.complete(batch) for batch in batches]
    for before, batch in zip(batches, completed, strict=True):
        present = {n for groups in batch.features["mask2former"].values() for numbers, _ in groups for n in numbers}
        expected = {number for number, name, _ in before.missing["mask2former"] if name != image_ids[2]}
        assert present == expected
        assert len([n for groups in batch.features["sam2"].values() for numbers, _ in groups for n in numbers]) == len(
            before.missing["sam2"]
        )
    if mode == "hybrid":
        store = FeatureStore.open(bench.folder / "filled-mask2former")
        assert list(store.rejected) == [image_ids[2]]
        assert "poison" in store.rejected[image_ids[2]]
        # A run that finds the reject doesn't try again.
        again, stores = bench.beside(features_config(), "hybrid")
        with again:
            assert_same_targets(again.complete(bench.batches("hybrid", stores)[0]), completed[0])


def test_more_failures_than_allowed_end_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda image: bool(image.any()))
    teachers, _ = bench.beside(features_config(max_reject_share=0.01), "online")
    with pytest.raises(TooManyRejects, match=r"mask2former: failed on 2 of 4 images, allowed are 1\.0%"), teachers:
        teachers.complete(bench.batches("online", {})[0])


def test_values_beyond_float16_are_rejected(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Mask2FormerTeacher.forward
    monkeypatch.setattr(Mask2FormerTeacher, "forward", lambda self, batch: 1e6 * forward(self, batch))
    teachers, _ = bench.beside(features_config(max_reject_share=1.0), "online")
    with teachers:
        batch = teachers.complete(bench.batches("online", {})[0])
    assert batch.features["mask2former"] == {}
    assert batch.features["sam2"]


def test_a_teacher_without_weight_is_not_run(bench: Bench) -> None:
    features = features_config()
    teachers = [teacher_beside(teacher, features) for teacher in TEACHERS]
    beside = TeachersBeside(teachers, {"sam2": 0.5, "mask2former": 0.0}, CPU, 10)
    with beside:
        batch = beside.complete(bench.batches("online", {})[0])
    assert not batch.features["mask2former"]
    assert batch.features["sam2"]


def test_another_teacher_on_the_node_is_told(bench: Bench) -> None:
    beside = replace(teacher_beside(TEACHERS[1], features_config()), fingerprint="f" * 64)
    with pytest.raises(InfrastructureError, match="teacher sam2: expected the fingerprint ffffffffffffffff"):
        TeachersBeside([beside], WEIGHTS, CPU, 10)


def test_a_store_of_another_encoding_is_refused(bench: Bench) -> None:
    teachers, stores = bench.beside(features_config(codec="int8"), "hybrid")
    with teachers:
        teachers.complete(bench.batches("hybrid", stores)[0])
    with pytest.raises(UsageError, match="give each teacher, grid and encoding its own store"):
        bench.beside(features_config(codec="raw16"), "hybrid")


def test_batches_of_several_images_agree_to_rounding(bench: Bench) -> None:
    one, _ = bench.beside(features_config(), "online")
    many, _ = bench.beside(features_config(batch_size=4), "online")
    batch = bench.batches("online", {})[0]
    with one, many:
        single, together = one.complete(batch), many.complete(batch)
    for kind, maps in single.features.items():
        for grid, groups in maps.items():
            for (_, mine), (_, theirs) in zip(groups, together.features[kind][grid], strict=True):
                # Measured: at most 1 unit in the last place of float16, 0.001 relative.
                np.testing.assert_allclose(mine.values.float(), theirs.values.float(), rtol=2e-3, atol=2e-3)


def test_whole_runs_in_the_three_modes(bench: Bench) -> None:
    """One worker from the first step to the checkpoint; 3 images per part, so that one is written on the way."""
    features = features_config()
    rows: dict[str, list[dict[str, float]]] = {}
    # In this order, so that `cached` reads what `hybrid` has written.
    for mode in ("online", "hybrid", "cached"):
        beside: tuple[TeacherBeside, ...] = ()
        stores = {teacher.kind: str(bench.folder / f"run-{teacher.kind}") for teacher in TEACHERS}
        if mode != "cached":
            targets = {
                teacher.kind: StoreToFill(
                    stores[teacher.kind],
                    "a" * 64,
                    store_description(teacher, features, codec_of("raw16")),
                    codec_of("raw16"),
                )
                for teacher in TEACHERS
            }
            beside = tuple(
                teacher_beside(teacher, features, targets[teacher.kind] if mode == "hybrid" else None)
                for teacher in TEACHERS
            )
        config = training_config(mode, hybrid_part_images=3, num_steps=3, log_every=1)
        job = Job(
            bench.corpus.objects.url,
            {} if mode == "online" else stores,
            bench.config,
            config,
            str(bench.folder / f"output-{mode}"),
            {"corpus": "c"},
            beside,
        )
        assert run_worker(job, Seat(), lambda row: None)
        metrics = Objects.open(job.output).read("metrics.jsonl").decode().splitlines()
        rows[mode] = [json.loads(line) for line in metrics]
    assert len(FeatureStore.open(bench.folder / "run-sam2").parts) == 2
    assert {"distillation/mask2former", "distillation/sam2"} <= rows["cached"][0].keys()
    assert rows["online"] == rows["hybrid"] == rows["cached"]
