"""Regions drawn: into the picture for a captioner, beside it as a transparent layer for reviewers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.drawing import draw_masks
from storage.masks import decode_mask, dilated
from storage.pictures import open_picture
from storage.schema import Mask

__all__ = ["PROMPT_COLOUR", "TARGET_COLOUR", "decoded", "mask_layer", "with_regions"]

PROMPT_COLOUR = (255, 196, 0)
"""Of what is pointed at; `model.drawing.PROMPT`."""
TARGET_COLOUR = (22, 199, 132)
"""Of what is to be found; `model.drawing.TRUTH`."""
_TINT_ALPHA, _DARK_ALPHA = 96, 170


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Pixels, uint8 RGB (height, width, 3), of a picture's file, as stored (EXIF orientation not applied).

    Raises:
        OSError: it is no picture that PIL can read.
    """
    with open_picture(data) as image:
        return np.asarray(image.convert("RGB"))


def with_regions(pixels: NDArray[np.uint8], masks: Sequence[Mask], side_px: int) -> Image.Image:
    """The picture with the regions outlined, and numbered if there are several.

    Args:
        pixels: uint8 RGB (height, width, 3).
        masks: of the whole picture.
        side_px: upper bound of the longer side.
    """
    side = min(side_px, max(pixels.shape[:2]))
    return draw_masks(pixels, (), [decode_mask(mask) for mask in masks], side_px=side)


def mask_layer(prompts: Sequence[Mask], targets: Sequence[Mask]) -> Image.Image:
    """Regions tinted and outlined on a transparent ground, of the picture's size; prompts lie above targets.

    Args:
        prompts: in yellow.
        targets: in green.

    Raises:
        ValueError: no region.
    """
    masks = [(mask, TARGET_COLOUR) for mask in targets] + [(mask, PROMPT_COLOUR) for mask in prompts]
    if not masks:
        raise ValueError("mask layer: expected a region, got none")
    height, width = masks[0][0].height, masks[0][0].width
    layer = np.zeros((height, width, 4), np.uint8)
    edge_px = max(2, round(max(height, width) / 320))
    for mask, colour in masks:
        bitmap = decode_mask(mask)
        inner = bitmap & ~_eroded(bitmap, edge_px)
        around = dilated(bitmap, max(1, edge_px // 2)) & ~bitmap
        layer[bitmap] = (*colour, _TINT_ALPHA)
        layer[around] = (10, 14, 14, _DARK_ALPHA)
        layer[inner] = (*colour, 255)
    return Image.fromarray(layer)


def _eroded(bitmap: NDArray[np.bool_], by_px: int) -> NDArray[np.bool_]:
    """Without its rim; the picture's border is no rim."""
    return ~dilated(~bitmap, by_px)
