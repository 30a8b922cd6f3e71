"""Masks and regions drawn over pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model.drawing import ANSWER, MASK_COLOURS, PROMPT, draw_masks, fit, outlined, side_by_side, spotlit


def square(top: int, left: int, side: int, size: tuple[int, int] = (40, 40)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_spotlight_keeps_the_inside_and_darkens_the_rest() -> None:
    pixels = np.full((40, 40, 3), 200, np.uint8)
    shown = spotlit(pixels, square(5, 5, 10, (20, 20)), ANSWER)
    assert (shown[20, 20] == 200).all()
    assert (shown[0, 0] < 110).all()
    assert (shown[10, 20] == ANSWER).all()
    assert (spotlit(pixels, None, ANSWER) < 110).all()


def test_outline_leaves_everything_else() -> None:
    pixels = np.full((40, 40, 3), 90, np.uint8)
    shown = outlined(pixels, square(10, 10, 20), ANSWER)
    assert (shown[20, 20] == 90).all()
    assert (shown[0, 0] == 90).all()
    assert (shown[10, 20] == ANSWER).all()
    assert (pixels == 90).all()


@pytest.mark.parametrize(("size", "shown"), [((96, 96), (288, 288)), ((640, 480), (288, 216)), ((3, 900), (1, 288))])
def test_pictures_are_shown_at_one_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert fit(Image.new("RGB", size), 288).shape == (shown[1], shown[0], 3)


def test_each_mask_has_a_colour_and_prompts_have_theirs() -> None:
    picture = Image.new("RGB", (40, 40), (90, 90, 90))
    shown = np.asarray(draw_masks(picture, [square(2, 2, 8), square(2, 20, 8)], [{"box": (10, 20, 30, 38)}]))
    assert shown.shape == (40, 40, 3)
    assert tuple(shown[2, 5]) == MASK_COLOURS[0]
    assert tuple(shown[2, 24]) == MASK_COLOURS[1]
    assert tuple(shown[20, 20]) == PROMPT
    assert (shown[5, 5] == 90).all()
    assert (shown[39, 39] < 70).all()


def test_the_picture_is_left_as_it_is_without_masks_and_darkened_by_empty_ones() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    before = pixels.copy()
    assert (np.asarray(draw_masks(pixels, [])) == pixels).all()
    assert (np.asarray(draw_masks(pixels, [np.zeros((30, 50), bool)])) < 130).all()
    assert (pixels == before).all()


def test_masks_are_drawn_at_the_size_that_is_shown() -> None:
    shown = np.asarray(draw_masks(Image.new("RGB", (40, 20)), [square(0, 0, 10, (20, 40))], side_px=200))
    assert shown.shape == (100, 200, 3)
    assert (shown[49, :50] == ANSWER).all()
    assert not (shown[:, 50:] == ANSWER).all(-1).any()


@pytest.mark.parametrize("num", [1, 2])
def test_several_are_numbered(num: int) -> None:
    masks = [square(20, 20, 100, (200, 300)), square(60, 180, 90, (200, 300))][:num]
    shown = np.asarray(draw_masks(Image.new("RGB", (300, 200), (90, 90, 90)), masks))
    assert bool((shown[62:78, 62:78] == (20, 20, 24)).all(-1).any()) is (num == 2)


def test_numbers_would_hide_small_pictures() -> None:
    masks = [square(2, 2, 8), square(20, 20, 8)]
    assert not (np.asarray(draw_masks(Image.new("RGB", (40, 40), "white"), masks)) == (20, 20, 24)).all(-1).any()


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask 2: expected bool \(height, width\) = \(40, 40\), the picture's size"):
        draw_masks(Image.new("RGB", (40, 40)), [square(0, 0, 9), np.zeros((20, 20), bool)])


def test_panels_stand_side_by_side_under_names_and_a_caption() -> None:
    panel = np.full((30, 50, 3), 200, np.uint8)
    sheet = side_by_side((("picture", panel), ("answer", panel), ("truth", panel)), "red ring")
    pixels = np.asarray(sheet)
    assert sheet.width == 3 * 50 + 4 * 6
    columns = (pixels[45:65] == 200).all((0, 2))
    assert np.flatnonzero(np.diff(columns.astype(int)) == 1).tolist() == [5, 61, 117]
    assert (pixels[:20] > 150).any()
