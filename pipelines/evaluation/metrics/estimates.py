"""Scores that can be drawn again: each knows its value over all rows and over any resampling of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["AveragePrecision", "Estimate", "Mix", "Ratio"]

_RECALL_STEPS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCO reads the precision."""


class Estimate(Protocol):
    """A score of some rows."""

    @property
    def index(self) -> NDArray[np.int64]:
        """Positions of the rows that count, among those that the score was taken from."""
        ...

    @property
    def value(self) -> float:
        """The score; NaN where nothing counts."""
        ...

    def resampled(self, image_of: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The score of each draw of pictures.

        Args:
            image_of: number of the picture of each row; of those that don't count it isn't looked at.
            counts: [draws, images], how often each picture was drawn.

        Returns:
            One score per draw; NaN where nothing counts.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ratio:
    """A score as the sum of numerators over the sum of denominators, one of each per counted outcome.

    Attributes:
        index: positions of the counted outcomes among those given.
        numerator: their numerators.
        denominator: their denominators.
    """

    index: NDArray[np.int64]
    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]

    @classmethod
    def mean(cls, values: Sequence[float] | NDArray[np.float64], index: Sequence[int] | None = None) -> Ratio:
        """The mean of some values: of all rows, or of those at the positions given."""
        array = np.asarray(values, dtype=np.float64)
        places = np.arange(len(array)) if index is None else np.asarray(index, dtype=np.int64)
        return cls(places, array, np.ones(len(array)))

    @property
    def value(self) -> float:
        """The score; NaN where nothing counts."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total else float("nan")

    def resampled(self, image_of: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Estimate`."""
        images, num_images = image_of[self.index], counts.shape[1]
        above = counts @ np.bincount(images, weights=self.numerator, minlength=num_images)
        below = counts @ np.bincount(images, weights=self.denominator, minlength=num_images)
        return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


@dataclass(frozen=True, slots=True)
class Mix:
    """A weighted sum of scores over the same rows, such as a benchmark's overall score.

    Attributes:
        terms: (weight, score) pairs.
        offset: is added; the interval keeps its width.
    """

    terms: tuple[tuple[float, Estimate], ...]
    offset: float = 0.0

    @property
    def index(self) -> NDArray[np.int64]:
        """Rows that count in any of the terms."""
        return np.unique(np.concatenate([score.index for _, score in self.terms]))

    @property
    def value(self) -> float:
        """The sum; NaN if any of the terms is."""
        return sum(weight * score.value for weight, score in self.terms) + self.offset

    def resampled(self, image_of: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Estimate`; pictures are drawn once for all terms."""
        drawn = np.full(len(counts), self.offset)
        for weight, score in self.terms:
            drawn += weight * score.resampled(image_of, counts)
        return drawn


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's average precision of masks at one threshold, without classes.

    Attributes:
        index: positions of all rows, those without a mask too.
        num_targets: targets of each of those rows.
        rows: for each predicted mask, the place of its row within `index`; the most certain mask first.
        hits: whether it found a target of its own.
    """

    index: NDArray[np.int64]
    num_targets: NDArray[np.int64]
    rows: NDArray[np.int64]
    hits: NDArray[np.bool_]

    @property
    def value(self) -> float:
        """The precision, made to fall with recall and read at 101 recalls; NaN without a target."""
        alone = np.zeros(int(self.index.max(initial=-1)) + 1, np.int64)
        alone[self.index] = np.arange(len(self.index))
        return float(self.resampled(alone, np.ones((1, max(len(self.index), 1)), np.int64))[0])

    def resampled(self, image_of: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Estimate`: a picture that is drawn twice counts twice, targets and masks alike."""
        images = image_of[self.index]
        targets = counts @ np.bincount(images, weights=self.num_targets, minlength=counts.shape[1])
        weights = counts[:, images[self.rows]].astype(np.float64)
        found = np.cumsum(weights * self.hits, axis=1)
        precision = found / np.maximum(np.cumsum(weights, axis=1), np.finfo(np.float64).tiny)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        drawn = np.full(len(counts), np.nan)
        for draw in np.flatnonzero(targets > 0):
            places = np.searchsorted(found[draw] / targets[draw], _RECALL_STEPS, side="left")
            read = np.append(precision[draw], 0.0)[places]
            drawn[draw] = read.mean()
        return drawn
