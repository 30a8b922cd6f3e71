"""Bootstrap intervals over images: expressions of one picture aren't independent, pictures are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.evaluation.metrics.res import Ratio

__all__ = ["bootstrap_interval"]

_CELLS_PER_BLOCK = 4_000_000
"""Resampled counts held at once (32 MB): bounds memory, not the result."""


def bootstrap_interval(
    score: Ratio, image_ids: Sequence[str], *, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a score, by drawing images with replacement.

    Args:
        score: the score's numerators and denominators.
        image_ids: the image of every outcome that the score was taken from (`score.index` points into it).
        num_resamples: number of bootstrap draws.
        level: coverage, between 0 and 1.
        seed: seed of the draws; the interval is a pure function of it and the data.

    Returns:
        (low, high); both equal the score when all of it comes from one image; NaN when nothing counts.
    """
    if not len(score.index):
        return float("nan"), float("nan")
    places: dict[str, int] = {}
    image_of = np.array([places.setdefault(image_ids[int(index)], len(places)) for index in score.index])
    numerator = np.bincount(image_of, weights=score.numerator, minlength=len(places))
    denominator = np.bincount(image_of, weights=score.denominator, minlength=len(places))
    draws = _resampled(numerator, denominator, num_resamples, np.random.default_rng(seed))
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(
    numerator: np.ndarray, denominator: np.ndarray, num_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    num_images = len(numerator)
    share = np.full(num_images, 1 / num_images)
    rows = max(1, _CELLS_PER_BLOCK // num_images)
    blocks: list[np.ndarray] = []
    for start in range(0, num_resamples, rows):
        counts = rng.multinomial(num_images, share, size=min(rows, num_resamples - start))
        below = counts @ denominator
        blocks.append(np.divide(counts @ numerator, below, out=np.full(len(below), np.nan), where=below > 0))
    return np.concatenate(blocks)
