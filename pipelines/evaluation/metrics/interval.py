"""Bootstrap intervals over images: expressions of one picture aren't independent, pictures are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.metrics.estimates import Estimate

__all__ = ["bootstrap_draws", "bootstrap_interval"]

_CELLS_PER_BLOCK = 4_000_000
"""Resampled counts held at once (32 MB): bounds memory, not the result."""


def bootstrap_interval(
    score: Estimate, image_ids: Sequence[str], *, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a score, by drawing images with replacement.

    Args:
        score: what was estimated.
        image_ids: the image of every outcome that the score was taken from (`score.index` points into it).
        num_resamples: number of bootstrap draws.
        level: coverage, between 0 and 1.
        seed: seed of the draws; the interval is a pure function of it and the data.

    Returns:
        (low, high); both equal the score when all of it comes from one image; NaN when nothing counts.
    """
    (draws,) = bootstrap_draws([score], image_ids, num_resamples=num_resamples, seed=seed)
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_draws(
    scores: Sequence[Estimate], image_ids: Sequence[str], *, num_resamples: int = 1000, seed: int = 0
) -> list[NDArray[np.float64]]:
    """Scores of the same draws of images, one array per score.

    Args:
        scores: of the same rows; the images of all that count in any of them are drawn from.
        image_ids: the image of every row.
        num_resamples: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        For each score its value in each draw, NaN where nothing counts; empty arrays if nothing counts at all.
    """
    index = scores[0].index if len(scores) == 1 else np.unique(np.concatenate([score.index for score in scores]))
    if not len(index):
        return [np.zeros(0) for _ in scores]
    places: dict[str, int] = {}
    image_of = np.full(len(image_ids), -1)
    image_of[index] = [places.setdefault(image_ids[int(row)], len(places)) for row in index]
    num_images, rng = len(places), np.random.default_rng(seed)
    share = np.full(num_images, 1 / num_images)
    rows = max(1, _CELLS_PER_BLOCK // max(num_images, len(index)))
    blocks: list[list[NDArray[np.float64]]] = [[] for _ in scores]
    for start in range(0, num_resamples, rows):
        counts = rng.multinomial(num_images, share, size=min(rows, num_resamples - start))
        for block, score in zip(blocks, scores, strict=True):
            block.append(score.resampled(image_of, counts))
    return [np.concatenate(block) for block in blocks]
