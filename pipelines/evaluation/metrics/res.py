"""Scores of referring segmentation: cIoU, gIoU, Pr@X, and the no-target scores of gRefCOCO.

Two protocols, both over the same counts of pixels:

- *res* (RefCOCO, RefCOCO+, RefCOCOg): only expressions that have a target. cIoU is the sum of all
  intersections over the sum of all unions, gIoU the mean of `I / (U + 1e-5)` (the epsilon of the
  released evaluation), Pr@X the share of expressions whose IoU reaches X.
- *gres* (gRefCOCO, arXiv 2306.00968): expressions without a target count too. A right "no target"
  has IoU 1 and adds no pixels; a wrong mask has IoU 0 and adds its area to the unions; a target
  that is denied has no intersection, whatever was drawn. N-acc and T-acc are the shares of
  expressions without and with a target that are recognised as such.

All scores are fractions between 0 and 1; the gRefCOCO authors print percentages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray

from pipelines.evaluation.metrics.estimates import Ratio
from storage.masks import area_px, encode_mask
from storage.schema import Mask

__all__ = ["GRES_THRESHOLDS", "RES_THRESHOLDS", "Bitmap", "Outcome", "gres_scores", "overlap", "res_scores"]

_coco: Any = pycocotools.mask  # its types don't admit lists
Bitmap: TypeAlias = NDArray[np.bool_]

RES_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""IoU that counts as found, as the RefCOCO papers list them."""
GRES_THRESHOLDS = (0.7, 0.8, 0.9)
"""The thresholds of the gRefCOCO authors' evaluator."""
_RES_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one predicted mask earned: all that the scores need to know of it.

    Attributes:
        intersection_px: pixels of both the prediction and the truth.
        union_px: pixels of either.
        no_target: the truth says that nothing is meant.
        predicted_no_target: the prediction says so. An empty mask alone doesn't.
    """

    intersection_px: int
    union_px: int
    no_target: bool = False
    predicted_no_target: bool = False

    @property
    def iou(self) -> float:
        """Intersection over union by the gres rules; 0 for an empty union that is no right "no target"."""
        if self.no_target:
            return float(self.predicted_no_target)
        if self.predicted_no_target or not self.union_px:
            return 0.0
        return self.intersection_px / self.union_px


def overlap(
    predicted: Mask | Bitmap | None, truth: Mask | Bitmap, ignored: Mask | Bitmap | None = None
) -> tuple[int, int]:
    """Pixels in the intersection and in the union of two masks of one image.

    Two masks in RLE are compared without decoding them.

    Args:
        predicted: the prediction; None counts as empty.
        truth: the truth.
        ignored: pixels that count in neither, as in ReasonSeg's released evaluation (dvlab-research/LISA at 37531c5,
            `utils/utils.py`).

    Returns:
        (intersection, union) in px.

    Raises:
        ValueError: the masks have different sizes.
    """
    for mask in (predicted, ignored):
        if mask is not None and _size(mask) != _size(truth):
            raise ValueError(f"overlap: expected a mask of {_size(truth)} px (height, width), got {_size(mask)}")
    if ignored is not None:
        return _overlap_without(None if predicted is None else _rle(predicted), _rle(truth), _rle(ignored))
    if predicted is None:
        return 0, _area_px(truth)
    if isinstance(predicted, Mask) or isinstance(truth, Mask):
        pair = [_rle(predicted), _rle(truth)]
        intersection = int(_coco.area(_coco.merge(pair, intersect=True)))
        return intersection, int(_coco.area(pair[0])) + int(_coco.area(pair[1])) - intersection
    return int(np.count_nonzero(predicted & truth)), int(np.count_nonzero(predicted | truth))


def _overlap_without(
    predicted: dict[str, object] | None, truth: dict[str, object], ignored: dict[str, object]
) -> tuple[int, int]:
    def counted_px(mask: dict[str, object]) -> int:
        return int(_coco.area(mask)) - int(_coco.area(_coco.merge([mask, ignored], intersect=True)))

    if predicted is None:
        return 0, counted_px(truth)
    pair = [predicted, truth]
    return counted_px(_coco.merge(pair, intersect=True)), counted_px(_coco.merge(pair))


def res_scores(outcomes: Sequence[Outcome]) -> dict[str, Ratio]:
    """Scores by the RefCOCO protocol; outcomes without a target are left out.

    A prediction of "no target" is scored by the mask that came with it, which the caller leaves empty.

    Returns:
        `cIoU`, `gIoU` and `Pr@0.5` .. `Pr@0.9`.
    """
    index, intersection, union = _counts(outcomes, no_target=False)
    exact = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    scores = {
        "cIoU": Ratio(index, intersection, union),
        "gIoU": _mean(index, intersection / (union + _RES_EPSILON)),
    }
    return scores | {f"Pr@{limit}": _mean(index, exact >= limit) for limit in RES_THRESHOLDS}


def gres_scores(outcomes: Sequence[Outcome]) -> dict[str, Ratio]:
    """Scores by the gRefCOCO protocol, over expressions with and without a target.

    Returns:
        `gIoU`, `cIoU`, `N_acc`, `T_acc` and `Pr@0.7` .. `Pr@0.9` (the last over targets alone).
    """
    everything = np.arange(len(outcomes))
    denied = np.array([outcome.predicted_no_target for outcome in outcomes], dtype=bool)
    empty = np.array([outcome.no_target for outcome in outcomes], dtype=bool)
    iou = np.array([outcome.iou for outcome in outcomes])
    intersection = np.array([outcome.intersection_px for outcome in outcomes], dtype=np.float64)
    union = np.array([outcome.union_px for outcome in outcomes], dtype=np.float64)
    intersection[empty | denied] = 0
    union[empty & denied] = 0
    targets, others = np.flatnonzero(~empty), np.flatnonzero(empty)
    scores = {
        "gIoU": _mean(everything, iou),
        "cIoU": Ratio(everything, intersection, union),
        "N_acc": _mean(others, denied[others]),
        "T_acc": _mean(targets, ~denied[targets]),
    }
    return scores | {f"Pr@{limit}": _mean(targets, iou[targets] >= limit) for limit in GRES_THRESHOLDS}


def _counts(
    outcomes: Sequence[Outcome], *, no_target: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    chosen = [index for index, outcome in enumerate(outcomes) if outcome.no_target is no_target]
    intersection = np.array([outcomes[index].intersection_px for index in chosen], dtype=np.float64)
    union = np.array([outcomes[index].union_px for index in chosen], dtype=np.float64)
    return np.array(chosen, dtype=np.int64), intersection, union


def _mean(index: NDArray[np.int64], values: NDArray[np.float64] | Bitmap) -> Ratio:
    return Ratio(index, values.astype(np.float64), np.ones(len(index)))


def _size(mask: Mask | Bitmap) -> tuple[int, int]:
    return (mask.height, mask.width) if isinstance(mask, Mask) else (mask.shape[0], mask.shape[1])


def _rle(mask: Mask | Bitmap) -> dict[str, object]:
    encoded = mask if isinstance(mask, Mask) else encode_mask(mask)
    return {"size": [encoded.height, encoded.width], "counts": encoded.counts}


def _area_px(mask: Mask | Bitmap) -> int:
    return area_px(mask) if isinstance(mask, Mask) else int(np.count_nonzero(mask))
