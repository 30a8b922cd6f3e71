"""Visual prompts: regions in pixels become one prompt per patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["largest_first", "patch_prompts", "prompt_patches"]


def prompt_patches(prompt: NDArray[np.bool_], size_px: tuple[int, int], patch_size_px: int) -> NDArray[np.bool_]:
    """Patches (rows, columns) that belong to a prompt: those in which any pixel does.

    Args:
        prompt: bool (height, width) in pixels of the original image.
        size_px: (height, width) of the student's resized image, multiples of the patch size.
        patch_size_px: side of a patch.
    """
    height, width = size_px
    rows = (np.arange(height) * prompt.shape[0]) // height
    columns = (np.arange(width) * prompt.shape[1]) // width
    resized = prompt[rows[:, None], columns[None, :]]
    blocks = resized.reshape(height // patch_size_px, patch_size_px, width // patch_size_px, patch_size_px)
    patches = np.asarray(blocks.any((1, 3)))
    if not patches.any():
        # A region so thin that resizing drops it all: the patches that its pixels lie in.
        y, x = prompt.nonzero()
        patches[y * height // prompt.shape[0] // patch_size_px, x * width // prompt.shape[1] // patch_size_px] = True
    return patches


def largest_first(
    prompts: Sequence[tuple[int, NDArray[np.bool_]]],
) -> list[tuple[int, NDArray[np.bool_]]]:
    """Prompts from the largest region to the smallest, so that a small one stays visible on a large one."""
    return sorted(prompts, key=lambda prompt: -int(prompt[1].sum()))


def patch_prompts(
    prompts: Sequence[tuple[int, NDArray[np.bool_]]], size_px: tuple[int, int], patch_size_px: int
) -> Int[Tensor, " patches"]:
    """Number of the visual prompt on each patch, row-major, -1 where there is none.

    Args:
        prompts: (number, bool (height, width) mask) pairs, painted in this order: on a shared patch
            the later one wins. `largest_first` gives the order of training.
        size_px: (height, width) of the student's resized image.
        patch_size_px: side of a patch.

    Raises:
        ValueError: a prompt that covers no pixel at all.
    """
    painted = np.full((size_px[0] // patch_size_px, size_px[1] // patch_size_px), -1, np.int64)
    for number, mask in prompts:
        patches = prompt_patches(mask, size_px, patch_size_px)
        if not patches.any():
            raise ValueError(f"visual prompt {number}: expected at least one pixel inside the image, got none")
        painted[patches] = number
    return torch.from_numpy(painted.reshape(-1))
