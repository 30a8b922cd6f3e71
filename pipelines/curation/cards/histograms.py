"""Histograms of a family as one picture: words of its expressions and answers, areas of its masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipelines.curation.cards.drawing import ACCENT, BACKGROUND, FAINT, GREY, INK, font, png_bytes
from pipelines.curation.cards.statistics import Bins, Quantity, Statistics

__all__ = ["draw_histograms"]

# A page shows three panels at about half this size: text of 24 px is then as large as the page's own.
_WIDTH_PX, _HEIGHT_PX, _GAP_PX = 540, 380, 36
_LEFT_PX, _TOP_PX, _BOTTOM_PX = 70, 92, 48
_TITLE_PX, _TEXT_PX = 26, 21
_MIN_BARS, _MAX_BARS = 8, 30
_LEAST_DECADE = 0.01
"""The axis of areas begins here or below, so that it has some numbers."""
_SHOWN_SHARE = 0.995
"""Share of the counts that bars of their own are drawn for; what is larger is added to the last bar."""


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    about: str
    counts: tuple[int, ...]
    """Of bars of equal width."""
    ticks: tuple[tuple[float, str], ...]
    """Place in bars from the left edge, and what stands there."""


def draw_histograms(statistics: Statistics, family: str) -> bytes | None:
    """The histograms of one family, side by side; None if it has neither words nor masks.

    Returns:
        A PNG file.
    """
    panels: list[_Panel] = []
    for quantity, title in (
        (Quantity.WORDS_PER_EXPRESSION, "Words per expression"),
        (Quantity.WORDS_PER_ANSWER, "Words per answer"),
    ):
        bins = statistics.bins(family, quantity)
        if bins:
            panels.append(_words_panel(title, bins))
    areas = statistics.bins(family, Quantity.MASK_AREA_SHARE)
    if areas:
        panels.append(_area_panel(areas))
    if not panels:
        return None
    sheet = Image.new("RGB", (len(panels) * (_WIDTH_PX + _GAP_PX) + _GAP_PX, _HEIGHT_PX + _GAP_PX), BACKGROUND)
    for place, panel in enumerate(panels):
        _draw(ImageDraw.Draw(sheet), panel, _GAP_PX + place * (_WIDTH_PX + _GAP_PX), _GAP_PX // 2)
    return png_bytes(sheet)


def _words_panel(title: str, bins: Bins) -> _Panel:
    counts = {int(start): count for (start, _), count in bins.items()}
    total, seen, limit = sum(counts.values()), 0, 0
    for limit, count in counts.items():  # noqa: B007 (the last one reached is wanted)
        seen += count
        if seen >= _SHOWN_SHARE * total:
            break
    step = _nice(limit / _MAX_BARS)
    first = 0 if step > 1 else 1  # a text without words isn't counted
    num_bars = max((limit - first) // step + 1, _MIN_BARS)
    bars = [0] * num_bars
    for words, count in counts.items():
        bars[min((words - first) // step, num_bars - 1)] += count
    more = "+" if max(counts) >= first + num_bars * step else ""
    every = max(1, math.ceil(num_bars / 8))
    shown = [place for place in range(num_bars) if place % every == 0 and num_bars - 1 - place >= every]
    if step == 1:  # a bar is one number, which stands below its middle
        ticks = [(place + 0.5, f"{first + place}") for place in shown]
        ticks.append((num_bars - 0.5, f"{first + num_bars - 1}{more}"))
    else:
        ticks = [(float(place), f"{first + place * step:,}") for place in shown]
        ticks.append((float(num_bars), f"{first + num_bars * step:,}{more}"))
    return _Panel(title, f"{total:,} texts, median {_median(counts):,}", tuple(bars), tuple(ticks))


def _area_panel(bins: Bins) -> _Panel:
    edges = sorted({edge for span in Statistics.area_bins() for edge in span})
    lowest = min(start for start, _ in bins)
    begin = max((edge for edge in edges if edge <= min(lowest, _LEAST_DECADE) and _is_decade(edge)), default=0.0)
    edges = [edge for edge in edges if edge >= begin]
    by_start = {start: count for (start, _), count in bins.items()}
    counts = tuple(by_start.get(edge, 0) for edge in edges[:-1])
    ticks = tuple((float(place), f"{100 * edge:g} %") for place, edge in enumerate(edges) if _is_decade(edge))
    half, seen, end = sum(counts) / 2, 0, 1.0
    for count, end in zip(counts, edges[1:], strict=True):  # noqa: B007 (the last one reached is wanted)
        seen += count
        if seen >= half:
            break
    about = f"{sum(counts):,} masks, half of them below {100 * end:.2g} %"
    return _Panel("Mask area, share of the image", about, counts, ticks)


def _is_decade(edge: float) -> bool:
    """Whether an edge of the bins is 1, 0.1, 0.01, ..., and so has its number on the axis."""
    return edge > 0 and math.isclose(math.log10(edge), round(math.log10(edge)), abs_tol=1e-9)


def _draw(draw: ImageDraw.ImageDraw, panel: _Panel, x: int, y: int) -> None:
    left, right = x + _LEFT_PX, x + _WIDTH_PX
    top, bottom = y + _TOP_PX, y + _HEIGHT_PX - _BOTTOM_PX
    draw.text((x, y), panel.title, INK, font(_TITLE_PX))
    draw.text((x, y + _TITLE_PX + 10), panel.about, GREY, font(_TEXT_PX))
    step = _nice(max(panel.counts) / 5)
    height = (bottom - top) / max(max(panel.counts), step)
    for level in range(0, max(panel.counts) + 1, step):
        place = round(bottom - level * height)
        draw.line([(left, place), (right, place)], FAINT, 2)
        draw.text((left - 10, place), _short(level), GREY, font(_TEXT_PX), anchor="rm")
    width = (right - left) / len(panel.counts)
    gap = 2 if width >= 8 else 1
    for place, count in enumerate(panel.counts):
        if count:
            # The least count is still seen.
            upper = min(round(bottom - count * height), bottom - 2)
            draw.rectangle(
                (round(left + place * width) + gap, upper, round(left + (place + 1) * width) - gap, bottom), fill=ACCENT
            )
    draw.line([(left, bottom), (right, bottom)], GREY, 2)
    for place, text in panel.ticks:
        middle = left + place * width
        draw.line([(middle, bottom), (middle, bottom + 6)], GREY, 2)
        anchor = "ra" if middle + font(_TEXT_PX).getlength(text) / 2 > right + _GAP_PX / 2 else "ma"
        draw.text((middle, bottom + 12), text, GREY, font(_TEXT_PX), anchor=anchor)


def _median(counts: dict[int, int]) -> int:
    """The least value that half of all don't exceed."""
    half, seen = sum(counts.values()) / 2, 0
    for value, count in counts.items():
        seen += count
        if seen >= half:
            return value
    return 0


def _nice(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is no less.

    >>> [_nice(value) for value in (0.2, 1.1, 4, 17, 60)]
    [1, 2, 5, 20, 100]
    """
    scale = 1
    while True:
        for digit in (1, 2, 5):
            if digit * scale >= least:
                return digit * scale
        scale *= 10


def _short(count: int) -> str:
    """A count in few characters.

    >>> [_short(count) for count in (0, 950, 1500, 20000, 2500000)]
    ['0', '950', '1.5k', '20k', '2.5M']
    """
    for unit, suffix in ((10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:g}{suffix}"
    return str(count)
