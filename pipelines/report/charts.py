"""Line charts and bars as inline SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

__all__ = ["interval_bar", "line_chart", "number"]

_WIDTH, _HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 22
_MAX_POINTS = 240
_WINDOW = 0.06
"""Width of the running mean, as a share of the curve."""


def line_chart(steps: Sequence[float], values: Sequence[float], label: str) -> Markup:
    """One curve: the values thin, their running mean bold, with the range on the axes.

    Args:
        steps: horizontal positions, ascending.
        values: the curve; what isn't finite is left out.
        label: read out by screen readers.
    """
    x, y = np.asarray(steps, float), np.asarray(values, float)
    x, y = _thinned(x[np.isfinite(y)], y[np.isfinite(y)])
    if len(y) < 2:
        return Markup("")
    smooth = _running_mean(y)
    low, high = _range(y, smooth)
    across = _LEFT + (x - x[0]) / max(x[-1] - x[0], 1e-12) * (_WIDTH - _LEFT - _RIGHT)
    span = _HEIGHT - _TOP - _BOTTOM

    def down(values: np.ndarray) -> np.ndarray:
        return _TOP + (high - values.clip(low, high)) / max(high - low, 1e-12) * span

    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_TOP + share * span:.1f}" '
        f'y2="{_TOP + share * span:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + share * span + 3.5:.1f}" text-anchor="end">'
        f"{number(high - share * (high - low))}</text>"
        for share in (0.0, 0.5, 1.0)
    )
    ends = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}">{x[0]:,.0f}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}" text-anchor="end">step {x[-1]:,.0f}</text>'
    )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'{grid}{ends}<polyline class="raw" points="{_points(across, down(y))}"/>'
        f'<polyline class="mean" points="{_points(across, down(smooth))}"/></svg>'
    )


def interval_bar(value: float, low: float, high: float) -> Markup:
    """A bar from 0 to a score between 0 and 1, with its interval as a whisker."""
    w, low, high = 100 * value, 100 * max(low, 0.0), 100 * min(high, 1.0)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/>'
        f'<rect class="fill" width="{w:.2f}" height="8"/>'
        f'<rect class="whisker" x="{low:.2f}" y="3.4" width="{max(high - low, 0.0):.2f}" height="1.2"/></svg>'
    )


def number(value: float) -> str:
    """A number in as few digits as its size needs.

    >>> [number(v) for v in (1234.0, 12.34, 0.1234, 0.00031, 0.0)]
    ['1,234', '12.3', '0.12', '0.00031', '0']
    """
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.01 else f"{value:.2g}"


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over runs of neighbours, at most `_MAX_POINTS` of them."""
    if len(y) <= _MAX_POINTS:
        return x, y
    runs = np.array_split(np.arange(len(y)), _MAX_POINTS)
    return np.array([x[run].mean() for run in runs]), np.array([y[run].mean() for run in runs])


def _running_mean(y: np.ndarray) -> np.ndarray:
    """Means over windows around each point, which shrink evenly towards the ends."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    places = np.arange(len(y))
    reach = np.minimum(np.minimum(places, len(y) - 1 - places), max(int(_WINDOW * len(y) / 2), 1))
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _range(y: np.ndarray, smooth: np.ndarray) -> tuple[float, float]:
    """The axis: all of the mean, and the values but for rare spikes."""
    low = min(float(np.percentile(y, 1)), float(smooth.min()))
    high = max(float(np.percentile(y, 99)), float(smooth.max()))
    if low > 0 and low < 0.35 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
