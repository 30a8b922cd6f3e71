"""Training examples: exact masks at every size, the same for the same seed, held-out ones apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.scenes.config import ScenesConfig
from pipelines.teacher_training.data import (
    BACKGROUND_CLASS,
    CLASS_NAMES,
    SceneSource,
    draw_batch,
    draw_example,
    draw_held_out,
)
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig

SCENES = ScenesConfig(size_px=64, expressions_per_image=1)
SAME = SceneSource(name="same", scenes=SCENES, input_px=64, batch_size=3)
LARGER = SceneSource(name="larger", scenes=SCENES, input_px=128, batch_size=2, weight=3)


def mask2former(input_px: int) -> Mask2FormerTeacherConfig:
    return Mask2FormerTeacherConfig(short_side_px=input_px, long_side_px=input_px)


def sam2(input_px: int) -> Sam2TeacherConfig:
    return Sam2TeacherConfig(image_size_px=input_px)


def test_masks_are_disjoint_and_named() -> None:
    example = draw_example(SAME, mask2former(64), "train", 0)
    assert example.pixels.shape == (3, 64, 64)
    assert example.masks.shape == (len(example.classes), 64, 64)
    assert example.masks.sum(axis=0).max() == 1
    assert (example.background ^ example.masks.any(axis=0)).all()
    assert set(example.classes) <= set(range(BACKGROUND_CLASS))
    assert CLASS_NAMES[BACKGROUND_CLASS] == "background"


def test_larger_inputs_have_masks_drawn_anew() -> None:
    small, large = draw_example(SAME, sam2(64), "val", 3), draw_example(LARGER, sam2(128), "val", 3)
    assert small.classes == large.classes
    assert large.masks.shape == (len(small.classes), 128, 128)
    blown_up = small.masks.repeat(2, axis=1).repeat(2, axis=2)
    assert (blown_up != large.masks).any()
    assert (blown_up & large.masks).sum() > 0.85 * (blown_up | large.masks).sum()


def test_the_same_step_gives_the_same_batch() -> None:
    for step in range(6):
        one = draw_batch([SAME, LARGER], mask2former, 5, step)
        other = draw_batch([SAME, LARGER], mask2former, 5, step)
        for first, second in zip(one, other, strict=True):
            assert torch.equal(first.pixels, second.pixels)
            assert np.array_equal(first.masks, second.masks)


def test_sources_come_by_weight_and_pictures_once() -> None:
    batches = [draw_batch([SAME, LARGER], sam2, 5, step) for step in range(40)]
    assert all(len(batch) == (3 if batch[0].pixels.shape[1] == 64 else 2) for batch in batches)
    num_larger = sum(batch[0].pixels.shape[1] == 128 for batch in batches)
    assert 20 < num_larger < 38  # 30 are expected, with a deviation of 2.7
    pictures = {example.pixels.numpy().tobytes() for batch in batches for example in batch}
    assert len(pictures) == sum(map(len, batches))


def test_held_out_pictures_are_others() -> None:
    trained = {example.pixels.numpy().tobytes() for step in range(5) for example in draw_batch([SAME], sam2, 0, step)}
    assert not trained & {example.pixels.numpy().tobytes() for example in draw_held_out(SAME, sam2, 15)}


def test_pictures_are_not_shrunk() -> None:
    with pytest.raises(ValidationError, match="expected at least the side of the scenes, 96 px"):
        SceneSource(name="small", scenes=SCENES.model_copy(update={"size_px": 96}), input_px=64, batch_size=1)
