"""Regions in pixels as prompts on patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.visual_prompt import largest_first, patch_prompts, prompt_patches
from storage.masks import encode_mask
from storage.prompts import prompt_mask
from storage.schema import PromptKind, Region, VisualPrompt

SIZE = (32, 32)


def rectangle(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_patch_belongs_to_a_prompt_if_any_pixel_does() -> None:
    one_pixel = rectangle(15, 16, 16, 17)
    assert prompt_patches(one_pixel, SIZE, 8).tolist() == (np.arange(16).reshape(4, 4) == 6).tolist()
    crossing = rectangle(7, 9, 7, 9)
    assert prompt_patches(crossing, SIZE, 8)[:2, :2].all()
    assert prompt_patches(crossing, SIZE, 8).sum() == 4


@pytest.mark.parametrize("size_px", [(16, 24), (48, 40), (32, 32)])
def test_prompts_are_resized_to_the_nearest_pixel(size_px: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((30, 28)) < 0.02
    resized = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size=size_px, mode="nearest")
    patches = torch.nn.functional.max_pool2d(resized, 8)[0, 0].bool()
    assert prompt_patches(mask, size_px, 8).tolist() == patches.tolist()


KINDS = {
    PromptKind.MASK: VisualPrompt(kind=PromptKind.MASK, region=0),
    PromptKind.BOX: VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(9.0, 17.0, 15.0, 31.0)),
    PromptKind.POINT: VisualPrompt(kind=PromptKind.POINT, points_xy_px=((12.0, 20.0),)),
    PromptKind.SCRIBBLE: VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=((12.0, 20.0), (13.0, 28.0))),
}


@pytest.mark.parametrize("kind", PromptKind)
def test_every_kind_reaches_its_patches(kind: PromptKind) -> None:
    """The region lies in column 1, rows 2 and 3 of the patches; a point in its upper half alone."""
    region = Region(mask=encode_mask(rectangle(17, 31, 9, 15)))
    numbers = patch_prompts([(5, prompt_mask(KINDS[kind], [region], *SIZE))], SIZE, 8).view(4, 4)
    expected = torch.full((4, 4), -1)
    expected[2 : (3 if kind is PromptKind.POINT else 4), 1] = 5
    assert numbers.equal(expected)


def test_on_a_shared_patch_the_later_prompt_wins() -> None:
    large, small = rectangle(0, 32, 0, 32), rectangle(8, 16, 8, 16)
    numbers = patch_prompts([(0, large), (2, small)], SIZE, 8)
    assert numbers.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, *[0] * 8]
    assert patch_prompts([(2, small), (0, large)], SIZE, 8).tolist() == [0] * 16


def test_largest_first_keeps_equal_ones_in_order() -> None:
    prompts = [
        (3, rectangle(0, 2, 0, 2)),
        (1, rectangle(0, 9, 0, 9)),
        (2, rectangle(4, 6, 4, 6)),
        (0, rectangle(0, 5, 0, 5)),
    ]
    assert [number for number, _ in largest_first(prompts)] == [1, 0, 3, 2]


def test_no_prompts() -> None:
    assert patch_prompts([], SIZE, 8).tolist() == [-1] * 16


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="visual prompt 4: expected at least one pixel inside the image, got none"):
        patch_prompts([(1, rectangle(0, 4, 0, 4)), (4, rectangle(3, 3, 0, 9))], SIZE, 8)


@pytest.mark.parametrize("pixel", [(0, 0), (63, 99), (37, 61), (1, 1)])
def test_a_region_too_thin_to_survive_the_resize_keeps_its_patch(pixel: tuple[int, int]) -> None:
    """Nearest resizing drops most pixels of a large picture; the prompt must not vanish with them."""
    mask = np.zeros((64, 100), np.bool_)
    mask[pixel] = True
    numbers = patch_prompts([(7, mask)], (16, 24), 8).view(2, 3)
    assert (numbers == 7).nonzero().tolist() == [[pixel[0] * 2 // 64, pixel[1] * 3 // 100]]


def test_nearest_follows_the_pixels_of_pillow_for_whole_factors() -> None:
    mask = np.random.default_rng(1).random((16, 16)) < 0.1
    resized = np.asarray(Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST))
    assert prompt_patches(mask, (32, 32), 8).tolist() == resized.reshape(4, 8, 4, 8).any((1, 3)).tolist()
