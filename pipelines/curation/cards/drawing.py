"""What the pictures of a card have in common: colours, letters, masks over pictures, PNG files."""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from pipelines.image_files import image_file
from storage.masks import dilated

__all__ = [
    "ACCENT",
    "BACKGROUND",
    "FAINT",
    "GREY",
    "INK",
    "MASK_COLOURS",
    "PROMPT",
    "Colour",
    "font",
    "mask_at",
    "png_bytes",
    "tinted",
    "wrapped",
]

Colour: TypeAlias = tuple[int, int, int]
_Pixels: TypeAlias = NDArray[np.uint8]
_Bitmap: TypeAlias = NDArray[np.bool_]

BACKGROUND: Colour = (255, 255, 255)
INK: Colour = (28, 30, 36)
GREY: Colour = (104, 108, 120)
FAINT: Colour = (226, 228, 233)
ACCENT: Colour = (28, 110, 196)
"""Bars, and answers."""
PROMPT: Colour = (255, 196, 0)
"""What is pointed at."""
MASK_COLOURS: tuple[Colour, ...] = (
    (255, 45, 149),
    (38, 169, 255),
    (120, 210, 40),
    (188, 110, 255),
    (255, 122, 46),
)
"""Of the targets of one sample, in turn."""

_TINT = 0.42
_EDGE_PX = 2
_ELLIPSIS = "..."


@cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow, so that letters are the same on every machine."""
    found = ImageFont.load_default(size_px)
    assert isinstance(found, ImageFont.FreeTypeFont)  # a size was given
    return found


def png_bytes(image: Image.Image) -> bytes:
    """A PNG file of an image; the same pixels give the same bytes."""
    return image_file(image, compress_level=4)  # two thirds of the time of 6 for 1 to 6 % more bytes


def mask_at(mask: _Bitmap, height_px: int, width_px: int) -> _Bitmap:
    """A mask at another size, without losing what is smaller than one of its pixels.

    A mask that is reduced holds a pixel if it held any of those that fall into it.
    """
    if mask.shape == (height_px, width_px):
        return mask
    if height_px >= mask.shape[0] and width_px >= mask.shape[1]:
        rows, columns = (np.arange(height_px) * mask.shape[0]) // height_px, np.arange(width_px)
        return mask[rows[:, None], ((columns * mask.shape[1]) // width_px)[None, :]]
    shown = np.zeros((height_px, width_px), np.bool_)
    rows, columns = mask.nonzero()
    shown[rows * height_px // mask.shape[0], columns * width_px // mask.shape[1]] = True
    return shown


def tinted(pixels: _Pixels, mask: _Bitmap, colour: Colour, *, filled: bool = True) -> _Pixels:
    """A picture with a mask tinted, and outlined in the colour beside a dark line.

    Args:
        pixels: uint8 RGB (height, width, 3).
        mask: bool (height, width).
        colour: of tint and outline.
        filled: whether it is tinted, too.
    """
    shown = pixels.copy()
    if filled:
        shown[mask] = (shown[mask] * (1 - _TINT) + np.array(colour) * _TINT).astype(np.uint8)
    edge = mask & dilated(~_padded(mask), _EDGE_PX)[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX]
    around = dilated(_padded(mask), 1)[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX] & ~mask
    shown[around] //= 3
    shown[edge] = colour
    return shown


def wrapped(text: str, width_px: int, size_px: int, max_lines: int) -> list[str]:
    """A text in lines no wider than given; what needs more lines than allowed ends in dots.

    Args:
        text: may hold line breaks, which count as spaces.
        width_px: of a line.
        size_px: of the letters.
        max_lines: at least one.
    """
    measure = font(size_px).getlength
    lines: list[str] = []
    line = ""
    words = text.split()
    for place, word in enumerate(words):
        longer = f"{line} {word}" if line else word
        if line and measure(longer) > width_px:
            if len(lines) == max_lines - 1:
                return [*lines, _cut(" ".join([line, *words[place:]]), width_px, size_px)]
            lines.append(line)
            longer = word
        line = longer
    return [*lines, _cut(line, width_px, size_px)] if line else lines


def _cut(line: str, width_px: int, size_px: int) -> str:
    """The line, or its beginning and dots if it is too wide."""
    measure = font(size_px).getlength
    if measure(line) <= width_px:
        return line
    # Whoever writes a text of a megabyte in one word doesn't get it measured letter by letter.
    line = line[: max(1, width_px)]
    while line and measure(line + _ELLIPSIS) > width_px:
        line = line[:-1]
    return line.rstrip() + _ELLIPSIS


def _padded(mask: _Bitmap) -> _Bitmap:
    """The mask with a border of its own outermost pixels, so that the picture's border is no edge of it."""
    return np.pad(mask, _EDGE_PX, mode="edge")
