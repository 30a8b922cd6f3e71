"""Visual prompts as masks: what the student is shown of a box, a point or a scribble."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from storage.masks import decode_mask
from storage.schema import PromptKind, Region, VisualPrompt

__all__ = ["prompt_mask"]

_POINT_RADIUS_SHARE = 0.015
"""Radius of the disc that a point is painted with, as a share of the image's longer side."""
_SHOWN_POINTS = 4
"""Points of a scribble that a message lists."""


def prompt_mask(prompt: VisualPrompt, regions: Sequence[Region], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The pixels that a visual prompt points at.

    A box is filled, a point becomes a small disc, a scribble a line of such discs.

    Args:
        prompt: the prompt, in pixels of the image.
        regions: the sample's regions, which a mask prompt refers to.
        height_px: height of the image.
        width_px: width of the image.

    Returns:
        bool (height, width).

    Raises:
        ValueError: a prompt without the coordinates that its kind needs, or wholly outside the image.
    """
    if prompt.kind is PromptKind.MASK:
        if prompt.region is None:
            raise ValueError("mask prompt: expected the index of a region, got none")
        mask = decode_mask(regions[prompt.region].mask)
    elif prompt.kind is PromptKind.BOX:
        if prompt.box_xyxy_px is None:
            raise ValueError("box prompt: expected box_xyxy_px, got none")
        x0, y0, x1, y1 = prompt.box_xyxy_px
        mask = np.zeros((height_px, width_px), np.bool_)
        mask[max(int(y0), 0) : max(int(np.ceil(y1)), 0), max(int(x0), 0) : max(int(np.ceil(x1)), 0)] = True
    else:
        mask = _discs(prompt.points_xy_px, height_px, width_px)
    if not mask.any():
        raise ValueError(
            f"{prompt.kind} prompt: expected pixels inside {width_px} x {height_px}, got none in {_place(prompt)}; "
            "coordinates are pixels of the picture as stored, x to the right and y down"
        )
    return mask


def _place(prompt: VisualPrompt) -> str:
    """What a prompt points at, for a message; many points are cut."""
    if prompt.kind is PromptKind.MASK:
        return f"the mask of region {prompt.region}"
    if prompt.kind is PromptKind.BOX:
        return f"box_xyxy_px {prompt.box_xyxy_px}"
    points = prompt.points_xy_px[:_SHOWN_POINTS]
    more = len(prompt.points_xy_px) - len(points)
    return f"points_xy_px {points}" + (f" and {more} more" if more else "")


def _discs(points_xy_px: Sequence[tuple[float, float]], height_px: int, width_px: int) -> NDArray[np.bool_]:
    radius = max(1.0, _POINT_RADIUS_SHARE * max(height_px, width_px))
    mask = np.zeros((height_px, width_px), np.bool_)
    for px, py in _along(points_xy_px, radius):
        if not (-radius < px < width_px + radius and -radius < py < height_px + radius):
            continue
        # The disc's own window: on the whole grid, a scribble on a large picture takes seconds.
        top, bottom = max(int(py - radius), 0), min(int(np.ceil(py + radius)), height_px)
        left, right = max(int(px - radius), 0), min(int(np.ceil(px + radius)), width_px)
        y, x = np.ogrid[top:bottom, left:right]
        mask[top:bottom, left:right] |= (x + 0.5 - px) ** 2 + (y + 0.5 - py) ** 2 <= radius**2
    return mask


def _along(points_xy: Sequence[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    """Points with others between them, so that neighbours are at most `step` apart."""
    dense = list(points_xy[:1])
    for (x0, y0), (x1, y1) in itertools.pairwise(points_xy):
        num = max(1, int(np.ceil(np.hypot(x1 - x0, y1 - y0) / step)))
        dense += [(x0 + (x1 - x0) * i / num, y0 + (y1 - y0) * i / num) for i in range(1, num + 1)]
    return dense
