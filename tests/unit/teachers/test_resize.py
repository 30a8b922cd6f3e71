from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from storage.errors import UsageError
from teachers.resize import (
    lookup_normalised,
    nearest_short_side_size,
    pad_to,
    require_rgb,
    resize_antialiased,
    round_up,
    short_side_size,
    subtract_and_divide,
)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),
        ((640, 480), (1066, 800)),
        ((800, 1200), (800, 1200)),
        ((300, 1200), (333, 1333)),
        ((1200, 300), (1333, 333)),
        ((500, 500), (800, 800)),
        ((1, 9000), (1, 1333)),
    ],
)
def test_short_side_is_reached_unless_the_long_side_forbids_it(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert short_side_size(*size, 800, 1333) == expected


def test_sizes_agree_with_transformers_over_many_shapes() -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    rng = np.random.default_rng(0)
    for height, width in rng.integers(32, 2000, (2000, 2)).tolist():
        assert short_side_size(height, width, 800, 1333) == get_size_with_aspect_ratio((height, width), 800, 1333)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="expected at least 1 x 1 px, got 0 x 5"):
        short_side_size(0, 5, 800, 1333)


def test_round_up() -> None:
    assert [round_up(size, 32) for size in (1, 32, 33, 1066)] == [32, 32, 64, 1088]


def test_normalised_values_are_those_of_the_definition() -> None:
    image = Image.fromarray(np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3))
    expected = (np.asarray(image, np.float64) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    for result in (lookup_normalised(image), resize_antialiased(image, 16, 16)):
        assert result.dtype == torch.float32
        np.testing.assert_allclose(result.numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_antialiased_downscale_averages() -> None:
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, 1::2] = checks[1::2, ::2] = 255
    small = resize_antialiased(Image.fromarray(checks), 8, 8)
    middle = (0.5 - 0.485) / 0.229
    assert float((small[0, 1:-1, 1:-1] - middle).abs().max()) < 1e-3


def test_other_modes_are_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r'got mode RGBA; use image\.convert\("RGB"\)'):
        require_rgb(Image.new("RGBA", (4, 4)))


@pytest.mark.parametrize(
    ("size", "expected"),
    # What ResizeShortestEdge(800, 1333) of detectron2 at 02b5c4e gives.
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((427, 640), (800, 1199)),
        ((300, 1200), (333, 1333)),
        ((333, 500), (800, 1201)),
        ((500, 500), (800, 800)),
        ((1, 9000), (1, 1333)),
    ],
)
def test_detectron2s_rule_rounds_to_the_nearest(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert nearest_short_side_size(*size, 800, 1333) == expected


def test_padding_is_zero_on_the_right_and_below() -> None:
    padded = pad_to(torch.ones(3, 5, 7), 8, 9)
    assert tuple(padded.shape) == (3, 8, 9)
    assert bool((padded[:, :5, :7] == 1).all())
    assert float(padded.sum()) == 3 * 5 * 7


def test_the_0_255_scale_gives_the_same_values() -> None:
    image = Image.fromarray(np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3))
    torch.testing.assert_close(subtract_and_divide(image), lookup_normalised(image), atol=1e-6, rtol=0)
