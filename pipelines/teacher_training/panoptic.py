"""Panoptic quality: how well segments of things and stuff are found and outlined.

Kirillov et al., "Panoptic Segmentation" (arXiv 1801.00868), section 4; rules for void and crowds as in
cocodataset/panopticapi `panopticapi/evaluation.py` at 7bb4655.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["PanopticQuality", "PanopticScore", "Segmentation"]

_VOID = 0
_MATCH_IOU = 0.5
"""Above it at most one prediction can match a segment, so matching needs no search."""
_IGNORED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A picture cut into segments.

    Attributes:
        ids: segment of each pixel, 0 or above (height, width); what `categories` doesn't name is void.
        categories: category of each segment.
        crowds: segments that stand for many objects and are neither missed nor matched.
    """

    ids: NDArray[np.int64]
    categories: Mapping[int, int]
    crowds: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PanopticScore:
    """Averages over categories that occur, from 0 to 1: `pq` is the mean of sq * rq per category.

    Attributes:
        pq: panoptic quality.
        sq: segmentation quality, mean IoU of matched segments.
        rq: recognition quality, F1 of matching.
        num_categories: categories with a segment in truth or prediction.
    """

    pq: float
    sq: float
    rq: float
    num_categories: int


@dataclass
class PanopticQuality:
    """Counts matches over pictures; `score` sums up."""

    _ious: Counter[int] = field(default_factory=Counter[int])
    _matched: Counter[int] = field(default_factory=Counter[int])
    _missed: Counter[int] = field(default_factory=Counter[int])
    _invented: Counter[int] = field(default_factory=Counter[int])

    def add(self, predicted: Segmentation, truth: Segmentation) -> None:
        """Takes in one picture.

        Raises:
            ValueError: the two differ in size.
        """
        if predicted.ids.shape != truth.ids.shape:
            raise ValueError(
                f"panoptic quality: expected a prediction of {truth.ids.shape} px, got {predicted.ids.shape}; resize it"
            )
        overlaps = _overlaps(_known(predicted), _known(truth))
        true_areas, predicted_areas = _areas(overlaps, 0), _areas(overlaps, 1)
        matched_true: set[int] = set()
        matched_predicted: set[int] = set()
        for (own, other), overlap in overlaps.items():
            if own == _VOID or other == _VOID or own in truth.crowds:
                continue
            category = truth.categories[own]
            if predicted.categories[other] != category:
                continue
            # What lies on void is neither right nor wrong.
            union = true_areas[own] + predicted_areas[other] - overlap - overlaps[_VOID, other]
            if overlap > _MATCH_IOU * union:
                self._ious[category] += overlap / union  # pyright: ignore[reportArgumentType] (a Counter of floats)
                self._matched[category] += 1
                matched_true.add(own)
                matched_predicted.add(other)
        for own, category in truth.categories.items():
            if own not in matched_true and own not in truth.crowds:
                self._missed[category] += 1
        for other, category in predicted.categories.items():
            if other in matched_predicted or not predicted_areas[other]:
                continue
            crowds = [own for own in truth.crowds if truth.categories[own] == category]
            ignored = overlaps[_VOID, other] + sum(overlaps[own, other] for own in crowds)
            if ignored <= _IGNORED_SHARE * predicted_areas[other]:
                self._invented[category] += 1

    def score(self, categories: Iterable[int] | None = None) -> PanopticScore:
        """Averages over categories.

        Args:
            categories: which to take, such as the things; None: all. Those that never occur are left out.
        """
        seen = set(self._matched) | set(self._missed) | set(self._invented)
        chosen = sorted(seen if categories is None else seen & set(categories))
        rows: list[tuple[float, float, float]] = []
        for category in chosen:
            matched = self._matched[category]
            sq = self._ious[category] / matched if matched else 0.0
            rq = matched / (matched + 0.5 * self._missed[category] + 0.5 * self._invented[category])
            rows.append((sq * rq, sq, rq))
        pq, sq, rq = (sum(column) / len(rows) for column in zip(*rows, strict=True)) if rows else (0.0, 0.0, 0.0)
        return PanopticScore(pq, sq, rq, len(rows))


def _known(segmentation: Segmentation) -> NDArray[np.int64]:
    """Ids with 0 wherever no segment is named."""
    return np.where(np.isin(segmentation.ids, list(segmentation.categories)), segmentation.ids, _VOID)


def _overlaps(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> Counter[tuple[int, int]]:
    """Pixels that each true segment and each predicted one have in common, void included."""
    pairs, counts = np.unique(np.stack([truth.ravel(), predicted.ravel()]), axis=1, return_counts=True)
    return Counter({(int(own), int(other)): int(count) for own, other, count in zip(*pairs, counts, strict=True)})


def _areas(overlaps: Counter[tuple[int, int]], side: int) -> Counter[int]:
    areas: Counter[int] = Counter()
    for pair, count in overlaps.items():
        areas[pair[side]] += count
    return areas
