"""Charts of several runs side by side, as SVG documents of their own: for files, not for the report's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from pipelines.charts import number

__all__ = ["Band", "Bar", "band_chart", "bar_panels"]

_WIDTH = 720
_LEFT, _RIGHT, _TOP = 56, 150, 44
_CURVES_HEIGHT = 400
_BAR_HEIGHT, _BAR_GAP, _PANEL_HEAD = 14, 6, 30
_COLOURS = ("#4c566a", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#8a6d00", "#56b4e9", "#000000")
"""Of Okabe and Ito, told apart by people who see colours otherwise; two are darkened for a white ground."""
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.title{font-size:15px;font-weight:600}.axis{fill:#666}"
    ".grid{stroke:#ddd}.whisker{stroke:#222;stroke-width:1.5;fill:none}"
)


@dataclass(frozen=True, slots=True)
class Band:
    """A curve with a range around it."""

    label: str
    steps: Sequence[float]
    """Horizontal positions, ascending."""
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A score with its interval; NaN ends: there is none."""

    label: str
    value: float
    low: float
    high: float


def band_chart(title: str, bands: Sequence[Band], caption: str) -> str:
    """Curves over training steps, each with its range.

    Args:
        title: what stands above it.
        bands: at least one, at most eight.
        caption: what the axes and ranges are, below the chart.
    """
    last = max(max(band.steps) for band in bands)
    top = max(max(band.high) for band in bands)
    top = math.ceil(top * 10 + 1e-9) / 10 if top > 0 else 1.0
    bottom = _CURVES_HEIGHT - 44

    def x(step: float) -> float:
        return _LEFT + step / max(last, 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return bottom - max(value, 0.0) / top * (bottom - _TOP)

    lines = [_title(title)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        lines += _horizontal(y(share * top), number(share * top))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        lines.append(_text(x(share * last), bottom + 18, f"{share * last:,.0f}", "middle", "axis"))
    lines.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 36, caption, "middle", "axis"))
    places = _apart([y(band.middle[-1]) for band in bands])
    for band, colour, place in zip(bands, _COLOURS, places, strict=False):
        around = [*zip(band.steps, band.high, strict=True), *reversed(list(zip(band.steps, band.low, strict=True)))]
        area, line = (
            " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
            for points in (around, list(zip(band.steps, band.middle, strict=True)))
        )
        lines.append(Markup('<polygon points="{}" fill="{}" opacity="0.15"/>').format(area, colour))
        lines.append(Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>').format(line, colour))
        lines.append(
            Markup('<text x="{:.1f}" y="{:.1f}" style="fill:{}">{}</text>').format(
                _WIDTH - _RIGHT + 8, place + 4, colour, band.label
            )
        )
    return _document(title, _CURVES_HEIGHT, lines)


def bar_panels(title: str, panels: Mapping[str, Sequence[Bar]]) -> str:
    """One group of bars per score, each from 0, with intervals.

    Args:
        title: what stands above it.
        panels: bars by the score that they show.
    """
    lines = [_title(title)]
    down = float(_TOP)
    for label, bars in panels.items():
        ends = [value for bar in bars for value in (bar.value, bar.high) if math.isfinite(value)]
        scale = (_WIDTH - _RIGHT - 110) / max(*ends, 1e-12)
        down += _PANEL_HEAD
        lines.append(_text(8, down - 8, label, "start", "axis"))
        for place, bar in enumerate(bars):
            lines += _bar(bar, down, scale, _COLOURS[place % len(_COLOURS)])
            down += _BAR_HEIGHT + _BAR_GAP
    return _document(title, math.ceil(down) + 16, lines)


def _bar(bar: Bar, top: float, scale: float, colour: str) -> list[Markup]:
    left, middle = 140.0, top + _BAR_HEIGHT / 2
    width = max(bar.value, 0.0) * scale
    lines = [
        _text(left - 8, middle + 4, bar.label, "end"),
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" fill="{}"/>').format(
            left, top, width, _BAR_HEIGHT, colour
        ),
    ]
    end = width
    if math.isfinite(bar.low):
        low, high = max(bar.low, 0.0) * scale, max(bar.high, 0.0) * scale
        end = max(width, high)
        path = f"M{left + low:.1f},{middle - 4:.1f}v8m0,-4H{left + high:.1f}m0,-4v8"
        lines.append(Markup('<path class="whisker" d="{}"/>').format(path))
    return [*lines, _text(left + end + 8, middle + 4, f"{bar.value:.3f}")]


def _apart(places: Sequence[float], least: float = 15.0) -> list[float]:
    """Vertical places of labels, moved down where two would overlap, and all up again if the last falls out."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, own in pairwise(order):
        moved[own] = max(moved[own], moved[before] + least)
    over = max(max(moved) - (_CURVES_HEIGHT - 44), 0.0)
    return [place - over for place in moved]


def _horizontal(y: float, label: str) -> list[Markup]:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    return [line.format(_LEFT, _WIDTH - _RIGHT, y, y), _text(_LEFT - 8, y + 4, label, "end", "axis")]


def _title(title: str) -> Markup:
    return _text(8, 22, title, "start", "title")


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, text)


def _document(title: str, height: float, lines: Sequence[Markup]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )
