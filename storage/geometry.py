"""Resize rules shared by the student and the feature plans; pure integer geometry, sizes in px."""

from __future__ import annotations

import math

__all__ = ["student_grid", "student_size"]


def student_size(height_px: int, width_px: int, patch_size_px: int, max_side_px: int = 1024) -> tuple[int, int]:
    """Size to which the student's image is stretched (bilinear) before it is cut into patches.

    The long side becomes the next multiple of the patch size, at most `max_side_px`; the short side
    keeps the aspect ratio and is then rounded up to a multiple too (`long' =
    min(ceil(long/p)*p, 1024)`, `short' = ceil(int(long'*short/long)/p)*p` in the released code).

    Returns:
        (height, width), both multiples of `patch_size_px`.

    Raises:
        ValueError: a size below one pixel, or `max_side_px` that is no multiple of the patch size.

    >>> student_size(480, 640, 16)
    (480, 640)
    >>> student_size(427, 1300, 32)
    (352, 1024)
    """
    if height_px < 1 or width_px < 1:
        raise ValueError(f"image size: expected at least 1 x 1 px, got {height_px} x {width_px}")
    if max_side_px % patch_size_px:
        raise ValueError(f"max_side_px: expected a multiple of the patch size {patch_size_px}, got {max_side_px}")
    long, short = max(height_px, width_px), min(height_px, width_px)
    long_out = min(math.ceil(long / patch_size_px) * patch_size_px, max_side_px)
    short_out = max(math.ceil(int(long_out * short / long) / patch_size_px), 1) * patch_size_px
    return (long_out, short_out) if height_px >= width_px else (short_out, long_out)


def student_grid(height_px: int, width_px: int, patch_size_px: int, max_side_px: int = 1024) -> tuple[int, int]:
    """Rows and columns of patches of an image, see `student_size`."""
    height, width = student_size(height_px, width_px, patch_size_px, max_side_px)
    return height // patch_size_px, width // patch_size_px
