from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.distillation.config import FeaturesConfig, StudentGrid
from pipelines.distillation.plan import ExpectedSize, plan_teaching
from teachers.device import default_batch_size
from teachers.sam2 import Sam2TeacherConfig


def test_defaults_are_the_simplest_case() -> None:
    config = FeaturesConfig()
    assert (config.codec, config.grid, config.student) == ("klt", "native", None)


def test_students_grid_needs_the_student() -> None:
    with pytest.raises(ValidationError, match="expected the student's grids"):
        FeaturesConfig(grid="student")
    assert FeaturesConfig(grid="student", student=StudentGrid()).student == StudentGrid()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size_px": 16, "mask_stride_px": 6}, "expected a divisor of patch_size_px 16, got 6"),
        ({"patch_size_px": 32, "max_side_px": 1000}, "expected a multiple of patch_size_px 32, got 1000"),
    ],
)
def test_grids_must_divide(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudentGrid.model_validate(fields)


def test_pool_sizes_stay_out_of_content_keys() -> None:
    pools = FeaturesConfig(num_actors=9, num_cpus_per_actor=4, num_gpus_per_actor=1, num_batches_ahead=7, max_retries=0)
    assert pools.hashed_fields() == FeaturesConfig().hashed_fields()
    assert FeaturesConfig(batch_size=3).hashed_fields() != FeaturesConfig().hashed_fields()


def test_strides_are_whole_px() -> None:
    assert FeaturesConfig(grid="stride:8").grid_stride_px == 8
    assert FeaturesConfig().grid_stride_px is None
    for grid in ("stride:0", "stride:", "stride:-4", "stride:1.5", "coarse"):
        with pytest.raises(ValidationError, match="grid"):
            FeaturesConfig(grid=grid)


def test_auto_becomes_the_batch_size_of_teacher_and_device() -> None:
    auto, teacher = FeaturesConfig(batch_size="auto"), Sam2TeacherConfig()
    assert auto.resolved(teacher).batch_size == default_batch_size(teacher, "cpu")
    on_gpu = auto.model_copy(update={"num_gpus_per_actor": 1.0}).resolved(teacher)
    assert on_gpu.batch_size == default_batch_size(teacher, "cuda") == 16
    assert FeaturesConfig(batch_size=3).resolved(teacher).batch_size == 3
    with pytest.raises(ValidationError, match="batch_size"):
        FeaturesConfig.model_validate({"batch_size": 0})
    with pytest.raises(ValueError, match="expected a number, got auto"):
        plan_teaching([], auto, teacher, "patches", 8, ExpectedSize(8.0), "s")
