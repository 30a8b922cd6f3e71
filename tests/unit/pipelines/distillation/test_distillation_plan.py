from __future__ import annotations

import numpy as np
import pytest

from pipelines.distillation.config import FeaturesConfig, StudentGrid
from pipelines.distillation.plan import (
    ImageSize,
    coverage_key,
    feature_fingerprint,
    feature_grid,
    input_batches,
    plan_teaching,
    store_key,
)
from storage.codecs import codec_of
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig

TEACHER = Mask2FormerTeacherConfig(short_side_px=64, long_side_px=128)
INT8 = codec_of("int8")
STUDENT = FeaturesConfig(grid="student", student=StudentGrid(patch_size_px=16, mask_stride_px=4, max_side_px=256))


def _images(num_images: int, seed: int = 0) -> list[ImageSize]:
    rng = np.random.default_rng(seed)
    sizes = [(64, 64), (48, 64), (64, 48), (40, 100), (33, 77)]
    return [(f"{number:064x}", *sizes[rng.integers(len(sizes))]) for number in range(num_images)]


def test_every_image_is_in_one_row_and_one_batch_of_its_input_size() -> None:
    images = _images(200)
    plan = plan_teaching(
        images, FeaturesConfig(images_per_shard=16, batch_size=5), TEACHER, "mask_features", 8, INT8, "s"
    )
    seen: list[str] = []
    for task in plan.tasks():
        assert len(task.shard.rows) <= 16
        positions = [position for batch in task.batches for position in batch.positions]
        assert sorted(positions) == list(range(len(task.shard.rows)))
        for batch in task.batches:
            assert len(batch.positions) <= 5
            rows = [task.shard.rows[position] for position in batch.positions]
            assert {TEACHER.input_size(*plan.images[row.image_id][:2]) for row in rows} == {batch.input_size}
            assert all((row.height, row.width) == TEACHER.output_grid(*plan.images[row.image_id][:2]) for row in rows)
        seen += [row.image_id for row in task.shard.rows]
    assert sorted(seen) == [image_id for image_id, _, _ in images]


def test_tasks_know_where_their_images_lie_in_the_corpus() -> None:
    images, config = _images(50), FeaturesConfig(images_per_shard=16)
    rows = [3 * number + 1 for number in range(50)]
    without = plan_teaching(images, config, TEACHER, "mask_features", 8, INT8, "s")
    plan = plan_teaching(images, config, TEACHER, "mask_features", 8, INT8, "s", rows)
    assert plan.key == without.key
    assert all(task.corpus_rows == () for task in without.tasks())
    for task in plan.tasks():
        assert task.corpus_rows == tuple(3 * int(row.image_id, 16) + 1 for row in task.shard.rows)


def test_plan_is_a_function_of_its_inputs() -> None:
    config = FeaturesConfig(images_per_shard=16, batch_size=5)
    first, second = (plan_teaching(_images(50), config, TEACHER, "mask_features", 8, INT8, "s") for _ in range(2))
    assert first.key == second.key
    assert list(first.tasks()) == list(second.tasks())
    others = [
        plan_teaching(_images(49), config, TEACHER, "mask_features", 8, INT8, "s"),
        plan_teaching(_images(50), config, TEACHER, "mask_features", 8, INT8, "t"),
        plan_teaching(_images(50), config.model_copy(update={"batch_size": 4}), TEACHER, "mask_features", 8, INT8, "s"),
        plan_teaching(
            _images(50), config.model_copy(update={"images_per_shard": 8}), TEACHER, "mask_features", 8, INT8, "s"
        ),
        plan_teaching(
            _images(50), config.model_copy(update={"shard_mib": 1.0}), TEACHER, "mask_features", 8, INT8, "s"
        ),
    ]
    assert len({first.key} | {plan.key for plan in others}) == 6
    pools = config.model_copy(update={"num_actors": 7, "splits": ("train",)})
    assert plan_teaching(_images(50), pools, TEACHER, "mask_features", 8, INT8, "s").key == first.key


def test_finished_shards_are_left_out() -> None:
    plan = plan_teaching(_images(60), FeaturesConfig(images_per_shard=8), TEACHER, "mask_features", 8, INT8, "s")
    tasks = list(plan.tasks())
    assert len(tasks) > 4
    finished = {tasks[0].shard.key, tasks[3].shard.key}
    assert [task.shard.key for task in plan.tasks(finished)] == [
        task.shard.key for task in tasks if task.shard.key not in finished
    ]


def test_shards_stay_below_their_size_and_are_even() -> None:
    images = [(f"{number:064x}", 64, 64) for number in range(100)]
    config = FeaturesConfig(images_per_shard=30)
    plan = plan_teaching(images, config, TEACHER, "mask_features", 32, codec_of("raw16"), "s")
    assert [len(task.shard.rows) for task in plan.tasks()] == [25, 25, 25, 25]
    small = config.model_copy(update={"shard_mib": 2 * 32 * 256 * 10 / 2**20})
    by_size = plan_teaching(images, small, TEACHER, "mask_features", 32, codec_of("raw16"), "s")
    assert {len(task.shard.rows) for task in by_size.tasks()} == {10}


def test_batches_mix_no_input_sizes_even_where_the_stored_grid_is_the_same() -> None:
    # Both become 16 x 16 patches of the student, but 64 x 64 and 64 x 96 px of the teacher.
    images = [("a" * 64, 256, 256), ("b" * 64, 241, 256), ("c" * 64, 256, 256)]
    grids = {feature_grid(STUDENT, TEACHER, "patches", height, width) for _, height, width in images}
    assert grids == {(16, 16)}
    (task,) = plan_teaching(images, STUDENT, TEACHER, "patches", 8, INT8, "s").tasks()
    assert [batch.positions for batch in task.batches] == [(0, 2), (1,)]
    assert len({batch.input_size for batch in task.batches}) == 2


def test_native_grid_is_the_teachers() -> None:
    assert feature_grid(FeaturesConfig(), TEACHER, "mask_features", 100, 200) == TEACHER.output_grid(100, 200)


def test_a_stride_counts_px_of_the_teachers_input() -> None:
    config = FeaturesConfig(grid="stride:24")
    height_px, width_px = TEACHER.input_size(100, 200)
    expected = -(-height_px // 24), -(-width_px // 24)
    assert feature_grid(config, TEACHER, "mask_features", 100, 200) == expected
    keys = {
        feature_fingerprint("t", FeaturesConfig(grid=grid), "patches") for grid in ("native", "stride:4", "stride:8")
    }
    assert len(keys) == 3


def test_students_grids_are_those_of_the_loss() -> None:
    # 100 x 200 px: the student's image is 112 x 208 px, in patches of 16 px.
    assert feature_grid(STUDENT, TEACHER, "patches", 100, 200) == (7, 13)
    assert feature_grid(STUDENT, TEACHER, "mask_features", 100, 200) == (28, 52)
    assert feature_grid(STUDENT, Sam2TeacherConfig(image_size_px=64), "patches", 100, 200) == (7, 13)


def test_an_image_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        plan_teaching([("a" * 64, 8, 8)] * 2, FeaturesConfig(), TEACHER, "mask_features", 8, INT8, "s")


def test_batches_follow_the_first_image_of_a_size() -> None:
    batches = input_batches([(1, 1), (2, 2), (1, 1), (1, 1)], 2)
    assert [(batch.positions, batch.input_size) for batch in batches] == [
        ((0, 2), (1, 1)),
        ((3,), (1, 1)),
        ((1,), (2, 2)),
    ]


def test_fingerprint_covers_teacher_and_grid_but_not_the_encoding() -> None:
    native = FeaturesConfig()
    base = feature_fingerprint("t", native, "patches")
    assert feature_fingerprint("t", native.model_copy(update={"codec": "raw16"}), "patches") == base
    assert feature_fingerprint("t", native, "mask_features") == base
    others = {
        feature_fingerprint("u", native, "patches"),
        feature_fingerprint("t", STUDENT, "patches"),
        feature_fingerprint("t", STUDENT, "mask_features"),
        feature_fingerprint(
            "t", STUDENT.model_copy(update={"student": StudentGrid(patch_size_px=32, max_side_px=256)}), "patches"
        ),
    }
    assert len(others | {base}) == 5


def test_store_and_coverage_keys() -> None:
    config = FeaturesConfig()
    layout = config.model_copy(update={"batch_size": 2, "images_per_shard": 3, "splits": ("train",)})
    assert store_key("f", "int8") == store_key("f", "int8")
    assert len({store_key("f", "int8"), store_key("f", "raw16"), store_key("g", "int8"), store_key("f", "klt:0")}) == 4
    assert coverage_key("s", "c", config) != coverage_key("s", "d", config)
    assert coverage_key("s", "c", config) != coverage_key("s", "c", layout)
