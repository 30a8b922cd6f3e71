"""Contact sheets: a grid of samples of a family, each a picture with masks and prompts and its words below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipelines.curation.cards.drawing import ACCENT, BACKGROUND, FAINT, GREY, INK, Colour, font, png_bytes, wrapped
from pipelines.curation.cards.sample_pictures import sample_picture
from storage.schema import Sample

__all__ = ["draw_sheet"]

_COLUMNS = 4
_CELL_PX, _PICTURE_PX, _GAP_PX = 380, 285, 28
"""Width of a cell, height of its picture, and what is between cells."""
_WORDS_PX, _NOTE_PX, _HEAD_PX = 22, 18, 26
_LEADING_PX = 7
_MAX_LINES = 4


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
    picture = None
    if sample.image_id is not None:
        picture = sample_picture(sample, images[sample.image_id], _CELL_PX, _PICTURE_PX)
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
