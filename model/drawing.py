"""Masks and regions drawn over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.pictures import as_rgb
from model.regions import region_mask
from storage.masks import dilated

__all__ = [
    "ANSWER",
    "MASK_COLOURS",
    "PROMPT",
    "TRUTH",
    "Colour",
    "draw_masks",
    "fit",
    "outlined",
    "side_by_side",
    "spotlit",
]

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Bitmap = NDArray[np.bool_]

TRUTH: Colour = (22, 199, 132)
"""Outline of what is right."""
ANSWER: Colour = (255, 45, 149)
"""Outline of what the student says."""
PROMPT: Colour = (255, 196, 0)
"""Outline of what is pointed at."""
MASK_COLOURS: tuple[Colour, ...] = (ANSWER, (38, 169, 255), (160, 230, 50), (188, 110, 255), (255, 122, 46))
"""Of the masks of one answer, in turn."""

_MIN_LABELLED_PX = 150
"""On a smaller picture numbers would hide what they stand on."""


def draw_masks(
    image: object,
    masks: Sequence[Bitmap],
    prompts: Sequence[object] = (),
    *,
    side_px: int | None = None,
) -> Image.Image:
    """A picture with masks lit and outlined, the rest darkened, and prompts outlined.

    Without masks nothing is darkened; with empty ones (nothing was found) everything is. Several masks or prompts are
    numbered.

    Args:
        image: a picture, see `model.pictures.as_rgb`.
        masks: bool (height, width) of the picture.
        prompts: regions, see `model.regions.region_mask`.
        side_px: longer side of the result, see `fit`; None: the picture's own.

    Raises:
        ValueError: a picture, mask or region that can't be used.
        TypeError: likewise.
    """
    pixels = as_rgb(image)
    height, width = pixels.shape[:2]
    for number, mask in enumerate(masks, 1):
        if mask.shape != (height, width) or mask.dtype != np.bool_:
            raise ValueError(
                f"mask {number}: expected bool (height, width) = {(height, width)}, the picture's size, "
                f"got {mask.dtype} {mask.shape}"
            )
    regions = [region_mask(prompt, height, width) for prompt in prompts]
    if side_px is not None:
        pixels = fit(Image.fromarray(pixels), side_px)
    edge_px = _edge_px(pixels)
    if masks:
        inside = np.logical_or.reduce([_resized(mask, pixels.shape[:2]) for mask in masks])
        pixels = spotlit(pixels, inside, ANSWER, edge_px=0)
    for number, mask in enumerate(masks):
        edge = _edge(_resized(mask, pixels.shape[:2]), edge_px)
        pixels[edge] = MASK_COLOURS[number % len(MASK_COLOURS)]
    for region in regions:
        pixels = outlined(pixels, region, PROMPT, edge_px)
    shown = Image.fromarray(pixels)
    if len(masks) > 1:
        _number(shown, masks, MASK_COLOURS)
    if len(regions) > 1:
        _number(shown, regions, [PROMPT])
    return shown


def fit(image: Image.Image, side_px: int) -> Pixels:
    """An image at the size that is shown: small ones enlarged by a whole factor, large ones reduced.

    Args:
        image: in any mode.
        side_px: the longer side, or, of an enlarged image, its upper bound.

    Returns:
        uint8 RGB (height, width, 3).
    """
    longer = max(image.size)
    if longer <= side_px:
        factor = max(side_px // longer, 1)
        shown = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        share = side_px / longer
        size = (max(round(image.width * share), 1), max(round(image.height * share), 1))
        shown = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(shown.convert("RGB"))


def spotlit(pixels: Pixels, mask: Bitmap | None, colour: Colour, edge_px: int = 2) -> Pixels:
    """The picture with everything outside a mask darkened and drained of colour, and the mask's edge drawn.

    Args:
        pixels: uint8 RGB (height, width, 3) at any size.
        mask: bool mask of the whole picture, at any size; None or empty: all is darkened.
        colour: of the edge.
        edge_px: width of the edge.
    """
    inside = np.zeros(pixels.shape[:2], bool) if mask is None else _resized(mask, pixels.shape[:2])
    grey = pixels.astype(np.float32).mean(-1, keepdims=True)
    dimmed = (grey * 0.32 + pixels * 0.08 + 18).astype(np.uint8)
    shown = np.where(inside[..., None], pixels, dimmed)
    shown[_edge(inside, edge_px)] = colour
    return shown


def outlined(pixels: Pixels, mask: Bitmap, colour: Colour, edge_px: int = 2) -> Pixels:
    """The picture with a mask's edge drawn in colour between two dark lines, and nothing else changed."""
    inside = _resized(mask, pixels.shape[:2])
    edge = _edge(inside, edge_px)
    shown = pixels.copy()
    shown[dilated(edge, edge_px) & ~edge] //= 3
    shown[edge] = colour
    return shown


def side_by_side(panels: Sequence[tuple[str, Pixels]], caption: str) -> Image.Image:
    """Pictures in a row, each under its name, all under a caption.

    Args:
        panels: (name, uint8 RGB (height, width, 3)) pairs of one height.
        caption: one line; what doesn't fit is cut off.
    """
    gap_px, line_px = 6, 20
    font = ImageFont.load_default(13)
    height = max(pixels.shape[0] for _, pixels in panels)
    width = sum(pixels.shape[1] for _, pixels in panels) + gap_px * (len(panels) + 1)
    sheet = Image.new("RGB", (width, height + 2 * line_px + gap_px), (20, 20, 24))
    draw = ImageDraw.Draw(sheet)
    draw.text((gap_px, 3), caption, fill=(236, 236, 240), font=font)
    x = gap_px
    for name, pixels in panels:
        draw.text((x, line_px + 2), name, fill=(160, 160, 170), font=font)
        sheet.paste(Image.fromarray(pixels), (x, 2 * line_px))
        x += pixels.shape[1] + gap_px
    return sheet


def _edge_px(pixels: Pixels) -> int:
    """Width of an edge that is seen on a picture of any size."""
    longer = max(pixels.shape[:2])
    return 1 if longer < _MIN_LABELLED_PX else max(2, longer // 300)


def _number(shown: Image.Image, masks: Sequence[Bitmap], colours: Sequence[Colour]) -> None:
    """Writes its number on each mask that has a pixel."""
    longer = max(shown.size)
    if longer < _MIN_LABELLED_PX:
        return
    draw, font = ImageDraw.Draw(shown), ImageFont.load_default(max(12, longer // 28))
    for number, mask in enumerate(masks):
        if mask.any():
            rows, columns = mask.nonzero()
            # The pixel nearest to the middle, which itself may lie outside, as in a ring.
            nearest = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
            x, y = (
                (columns[nearest] + 0.5) * shown.width / mask.shape[1],
                (rows[nearest] + 0.5) * shown.height / mask.shape[0],
            )
            left, top, right, bottom = draw.textbbox((x, y), str(number + 1), font=font, anchor="mm")
            pad = longer // 100 + 1
            draw.rounded_rectangle(
                (left - 2 * pad, top - pad, right + 2 * pad, bottom + pad), 2 * pad, fill=(20, 20, 24)
            )
            draw.text((x, y), str(number + 1), fill=colours[number % len(colours)], font=font, anchor="mm")


def _resized(mask: Bitmap, size: tuple[int, ...]) -> Bitmap:
    rows = (np.arange(size[0]) * mask.shape[0]) // size[0]
    columns = (np.arange(size[1]) * mask.shape[1]) // size[1]
    return mask[rows[:, None], columns[None, :]]


def _edge(inside: Bitmap, edge_px: int) -> Bitmap:
    """A line on the inner side of a mask's border."""
    return inside & dilated(~inside, edge_px)
