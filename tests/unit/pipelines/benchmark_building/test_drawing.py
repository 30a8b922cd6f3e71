"""Regions drawn over pictures."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.benchmark_building.drawing import PROMPT_COLOUR, TARGET_COLOUR, mask_layer, with_regions
from tests.small_corpora import box_region


def test_the_layer_is_tinted_inside_and_clear_outside() -> None:
    prompt, target = (box_region(box, 96, 128).mask for box in ((10, 10, 40, 40), (60, 50, 100, 90)))
    layer = np.asarray(mask_layer([prompt], [target]))
    assert layer.shape == (96, 128, 4)
    assert layer[25, 25].tolist() == [*PROMPT_COLOUR, 96]
    assert layer[70, 80].tolist() == [*TARGET_COLOUR, 96]
    assert layer[10, 25].tolist() == [*PROMPT_COLOUR, 255]
    assert layer[2, 2].tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="expected a region, got none"):
        mask_layer([], [])


def test_a_picture_for_a_captioner_is_no_larger_than_asked_for() -> None:
    pixels = np.full((96, 128, 3), 90, np.uint8)
    mask = box_region((10, 10, 40, 40), 96, 128).mask
    assert with_regions(pixels, [mask], 64).size == (64, 48)
    whole = np.asarray(with_regions(pixels, [mask], 1024))
    assert whole.shape == pixels.shape
    assert (whole != pixels).any()
