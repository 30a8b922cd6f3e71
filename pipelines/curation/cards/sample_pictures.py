"""A sample drawn: its picture with targets tinted and prompts marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.curation.cards.drawing import INK, MASK_COLOURS, PROMPT, Colour, font, mask_at, tinted
from pipelines.image_files import fitted
from storage.masks import decode_masks
from storage.pictures import open_picture
from storage.schema import PromptKind, Sample, Turn, VisualPrompt

__all__ = ["sample_picture"]

_DOT_PX = 7
_NUMBER_PX = 18
_SMALL_PX = 20
"""A mask of no more than its square is hard to find."""


def sample_picture(
    sample: Sample, data: bytes, width_px: int, height_px: int, turn: int = 0, *, filled: bool = True
) -> Image.Image:
    """The picture of a sample, RGB, as large as a frame has room for.

    Targets are tinted, one colour for each `[SEG]`; prompts are yellow, with the number of their placeholder.

    Args:
        sample: on a picture.
        data: the picture's file.
        width_px: of the frame.
        height_px: of the frame.
        turn: whose targets are shown.
        filled: whether masks are tinted; else they are outlined alone.

    Raises:
        OSError: it is no picture that PIL can read.
    """
    with open_picture(data) as image:
        size, shown = image.size, fitted(image, width_px, height_px)
    pixels = np.array(shown)
    said = sample.turns[turn] if turn < len(sample.turns) else Turn(text="")
    bitmaps = decode_masks([region.mask for region in sample.regions])
    masks = [mask_at(bitmap, shown.height, shown.width) for bitmap in bitmaps]
    coloured = [
        (masks[prompt.region], PROMPT)
        for prompt in sample.prompts
        if prompt.region is not None and prompt.kind is PromptKind.MASK
    ]
    for number, target in enumerate(said.targets):
        if target:
            whole = np.logical_or.reduce([masks[place] for place in target])
            coloured.append((whole, MASK_COLOURS[number % len(MASK_COLOURS)]))
    for mask, colour in coloured:
        pixels = tinted(pixels, mask, colour, filled=filled)
    drawn = Image.fromarray(pixels)
    for mask, colour in coloured:
        _ring(ImageDraw.Draw(drawn), mask, colour)
    scale = shown.width / size[0], shown.height / size[1]
    for number, prompt in enumerate(sample.prompts, start=1):
        # A single prompt needs no number.
        _draw_prompt(drawn, prompt, str(number) if len(sample.prompts) > 1 else "", scale, masks)
    return drawn


def _draw_prompt(
    image: Image.Image,
    prompt: VisualPrompt,
    number: str,
    scale: tuple[float, float],
    masks: Sequence[NDArray[np.bool_]],
) -> None:
    """The outline or points of a prompt (a mask is tinted already), and its number."""
    draw = ImageDraw.Draw(image)
    points = [(x * scale[0], y * scale[1]) for x, y in prompt.points_xy_px]
    if prompt.kind is PromptKind.BOX and prompt.box_xyxy_px is not None:
        x0, y0, x1, y1 = prompt.box_xyxy_px
        box = (
            x0 * scale[0],
            y0 * scale[1],
            max(x1 * scale[0] - 1, x0 * scale[0]),
            max(y1 * scale[1] - 1, y0 * scale[1]),
        )
        draw.rectangle(box, outline=PROMPT, width=3)
        place = box[0], box[1]
    elif points:
        if prompt.kind is PromptKind.SCRIBBLE:
            draw.line(points, fill=INK, width=9, joint="curve")
            draw.line(points, fill=PROMPT, width=5, joint="curve")
        else:
            for point in points:
                draw.circle(point, _DOT_PX, fill=PROMPT, outline=INK, width=2)
        place = points[0][0] + _DOT_PX, points[0][1] - _DOT_PX
    elif prompt.region is not None and masks[prompt.region].any():
        place = _middle(masks[prompt.region])
    else:
        return
    if number:
        _label(draw, image.size, place, number)


def _ring(draw: ImageDraw.ImageDraw, mask: NDArray[np.bool_], colour: Colour) -> None:
    """A circle around a mask that would be overlooked."""
    rows, columns = mask.nonzero()
    if not 0 < rows.size < _SMALL_PX**2 or max(np.ptp(rows), np.ptp(columns)) > 3 * _SMALL_PX:
        return
    middle = float(columns.min() + columns.max() + 1) / 2, float(rows.min() + rows.max() + 1) / 2
    radius = max(_SMALL_PX, 8 + float(np.hypot(np.ptp(rows), np.ptp(columns))) / 2)
    draw.circle(middle, radius + 1, outline=INK, width=4)
    draw.circle(middle, radius, outline=colour, width=2)


def _middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Where the number of a prompt stands: within its mask, or above it if it would hide it."""
    rows, columns = mask.nonzero()
    if max(np.ptp(rows), np.ptp(columns)) < 2 * _SMALL_PX:
        return float(columns.mean()), float(rows.min()) - _SMALL_PX
    # The pixel nearest to the middle, which itself may lie outside, as in a ring.
    nearest = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
    return float(columns[nearest]), float(rows[nearest])


def _label(draw: ImageDraw.ImageDraw, size: tuple[int, int], place: tuple[float, float], text: str) -> None:
    """A number on a dark ground, near a place and inside the picture."""
    width, height = font(_NUMBER_PX).getlength(text) + 10, _NUMBER_PX + 6
    x = min(max(place[0] - width / 2, 0), max(size[0] - width - 1, 0))
    y = min(max(place[1] - height / 2, 0), max(size[1] - height - 1, 0))
    draw.rounded_rectangle((x, y, x + width, y + height), 4, fill=INK)
    draw.text((x + width / 2, y + height / 2), text, PROMPT, font(_NUMBER_PX), anchor="mm")
