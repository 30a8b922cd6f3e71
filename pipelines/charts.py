"""Line charts and bars as inline SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

__all__ = ["interval_bar", "line_chart", "number", "overlaid_chart"]

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
    return overlaid_chart([(steps, values)], label)


def overlaid_chart(curves: Sequence[tuple[Sequence[float], Sequence[float]]], label: str) -> Markup:
    """Several curves on the same axes, drawn as `line_chart` draws one.

    Those behind the first have the class `curve1`, `curve2`, ... by their place, too.

    Args:
        curves: (steps, values) of each; one of fewer than two finite values isn't drawn.
        label: read out by screen readers.

    Returns:
        The drawing; empty if there is no curve to draw.
    """
    known = [
        (place, x, y, _running_mean(y))
        for place, (x, y) in enumerate(_thinned(*_finite(steps, values)) for steps, values in curves)
        if len(y) > 1
    ]
    if not known:
        return Markup("")
    low, high = _range([(y, smooth) for _, _, y, smooth in known])
    first, last = min(x[0] for _, x, _, _ in known), max(x[-1] for _, x, _, _ in known)
    span = _HEIGHT - _TOP - _BOTTOM

    def drawn(kind: str, place: int, x: np.ndarray, y: np.ndarray) -> str:
        across = _LEFT + (x - first) / max(last - first, 1e-12) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - y.clip(low, high)) / max(high - low, 1e-12) * span
        name = f"{kind} curve{place}" if place else kind
        return f'<polyline class="{name}" points="{_points(across, down)}"/>'

    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_TOP + share * span:.1f}" '
        f'y2="{_TOP + share * span:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + share * span + 3.5:.1f}" text-anchor="end">'
        f"{number(high - share * (high - low))}</text>"
        for share in (0.0, 0.5, 1.0)
    )
    ends = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}">{first:,.0f}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}" text-anchor="end">step {last:,.0f}</text>'
    )
    raw = "".join(drawn("raw", place, x, y) for place, x, y, _ in known)
    means = "".join(drawn("mean", place, x, smooth) for place, x, _, smooth in known)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{grid}{ends}{raw}{means}</svg>"
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
    """A number in three digits; in two if it is tiny, in all those before its point if it is large.

    >>> [number(v) for v in (1234.0, 99.97, 12.34, 0.125, 0.5, 0.00031, 0.0)]
    ['1,234', '100', '12.3', '0.125', '0.500', '0.00031', '0']
    """
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if size >= 0.01 else f"{value:.2g}"


def _finite(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(steps, float), np.asarray(values, float)
    return x[np.isfinite(y)], y[np.isfinite(y)]


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


def _range(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """The axis: all of each mean, and the values but for rare spikes."""
    low = min(min(float(np.percentile(y, 1)), float(smooth.min())) for y, smooth in curves)
    high = max(max(float(np.percentile(y, 99)), float(smooth.max())) for y, smooth in curves)
    if low > 0 and low < 0.35 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
