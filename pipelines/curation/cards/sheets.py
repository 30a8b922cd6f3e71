"""Contact sheets: a grid of samples of a family, each a picture with masks and prompts and its words below."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.curation.cards.drawing import (
    ACCENT,
    BACKGROUND,
    FAINT,
    GREY,
    INK,
    MASK_COLOURS,
    PROMPT,
    Colour,
    font,
    mask_at,
    png_bytes,
    tinted,
    wrapped,
)
from storage.masks import decode_masks
from storage.schema import PromptKind, Sample, Turn, VisualPrompt

__all__ = ["draw_sheet"]

_COLUMNS = 4
_CELL_PX, _PICTURE_PX, _GAP_PX = 380, 285, 28
"""Width of a cell, height of its picture, and what is between cells."""
_WORDS_PX, _NOTE_PX, _HEAD_PX = 22, 18, 26
_LEADING_PX = 7
_MAX_LINES = 4
_DOT_PX = 7
_SMALL_PX = 20
"""A mask of no more than its square is hard to find."""


@dataclass(frozen=True, slots=True)
class _Cell:
    picture: Image.Image | None
    lines: tuple[tuple[str, int, Colour], ...]

    @property
    def height_px(self) -> int:
        return _PICTURE_PX + 10 + sum(size + _LEADING_PX for _, size, _ in self.lines)


def draw_sheet(title: str, samples: Sequence[Sample], images: Mapping[str, bytes]) -> bytes:
    """A contact sheet.

    Targets are tinted, one colour for each `[SEG]`; prompts are yellow, with the number of their placeholder.

    Args:
        title: one line above it.
        samples: in the order in which they are shown.
        images: encoded images by their id, of all samples that have one.

    Returns:
        A PNG file; the same arguments give the same bytes.
    """
    cells = [_cell(sample, images) for sample in samples]
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    heights = [max(cell.height_px for cell in row) for row in rows]
    num_columns = min(_COLUMNS, max(len(cells), 2))  # two, so that the line above fits
    head_px = _HEAD_PX + 2 * _GAP_PX
    size = (_GAP_PX + num_columns * (_CELL_PX + _GAP_PX), head_px + sum(heights) + len(rows) * _GAP_PX)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    shown = wrapped(title, size[0] - 2 * _GAP_PX, _HEAD_PX, 1)
    draw.text((_GAP_PX, _GAP_PX - 4), "".join(shown), INK, font(_HEAD_PX))
    y = head_px
    for row, height in zip(rows, heights, strict=True):
        for place, cell in enumerate(row):
            _paste(sheet, draw, cell, _GAP_PX + place * (_CELL_PX + _GAP_PX), y)
        y += height + _GAP_PX
    return png_bytes(sheet)


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: _Cell, x: int, y: int) -> None:
    if cell.picture is None:
        draw.rectangle((x, y, x + _CELL_PX - 1, y + _PICTURE_PX - 1), outline=FAINT, width=2)
        draw.text((x + _CELL_PX // 2, y + _PICTURE_PX // 2), "text only", GREY, font(_WORDS_PX), anchor="mm")
    else:
        draw.rectangle((x, y, x + _CELL_PX - 1, y + _PICTURE_PX - 1), fill=(243, 244, 247))
        left, top = x + (_CELL_PX - cell.picture.width) // 2, y + (_PICTURE_PX - cell.picture.height) // 2
        sheet.paste(cell.picture, (left, top))
    line_y = y + _PICTURE_PX + 10
    for text, size, colour in cell.lines:
        draw.text((x, line_y), text, colour, font(size))
        line_y += size + _LEADING_PX


def _cell(sample: Sample, images: Mapping[str, bytes]) -> _Cell:
    picture = None if sample.image_id is None else _picture(sample, images[sample.image_id])
    is_without = bool(sample.turns) and () in sample.turns[0].targets
    note = f"{sample.task}, {sample.split}{', no target' if is_without else ''}"
    lines = [(note, _NOTE_PX, GREY)]
    if sample.turns:
        turn = sample.turns[0]
        words = [(turn.text, INK), (" / ".join(turn.options), GREY), (turn.answer or "", ACCENT)]
        for text, colour in words:
            lines += [(line, _WORDS_PX, colour) for line in wrapped(text, _CELL_PX, _WORDS_PX, _MAX_LINES)]
    if len(sample.turns) > 1:
        more = len(sample.turns) - 1
        lines.append((f"and {more} more turn{'s' if more > 1 else ''}", _NOTE_PX, GREY))
    return _Cell(picture, tuple(lines))


def _picture(sample: Sample, data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        size, shown = image.size, _fitted(image)
    pixels = np.array(shown)
    turn = sample.turns[0] if sample.turns else Turn(text="")
    bitmaps = decode_masks([region.mask for region in sample.regions])
    masks = [mask_at(bitmap, shown.height, shown.width) for bitmap in bitmaps]
    coloured = [
        (masks[prompt.region], PROMPT)
        for prompt in sample.prompts
        if prompt.region is not None and prompt.kind is PromptKind.MASK
    ]
    for number, target in enumerate(turn.targets):
        if target:
            whole = np.logical_or.reduce([masks[place] for place in target])
            coloured.append((whole, MASK_COLOURS[number % len(MASK_COLOURS)]))
    for mask, colour in coloured:
        pixels = tinted(pixels, mask, colour)
    drawn = Image.fromarray(pixels)
    for mask, colour in coloured:
        _ring(ImageDraw.Draw(drawn), mask, colour)
    scale = shown.width / size[0], shown.height / size[1]
    for number, prompt in enumerate(sample.prompts, start=1):
        # A single prompt needs no number.
        _draw_prompt(drawn, prompt, str(number) if len(sample.prompts) > 1 else "", scale, masks)
    return drawn


def _fitted(image: Image.Image) -> Image.Image:
    """The image in RGB, as large as the cell has room for."""
    share = min(_CELL_PX / image.width, _PICTURE_PX / image.height)
    size = (max(round(image.width * share), 1), max(round(image.height * share), 1))
    if share < 1:
        image.draft("RGB", (2 * size[0], 2 * size[1]))  # decodes a JPEG no larger than it takes
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


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
    width, height = font(_NOTE_PX).getlength(text) + 10, _NOTE_PX + 6
    x = min(max(place[0] - width / 2, 0), max(size[0] - width - 1, 0))
    y = min(max(place[1] - height / 2, 0), max(size[1] - height - 1, 0))
    draw.rounded_rectangle((x, y, x + width, y + height), 4, fill=INK)
    draw.text((x + width / 2, y + height / 2), text, PROMPT, font(_NOTE_PX), anchor="mm")
