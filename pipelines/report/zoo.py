"""The zoo of failures: scores by object size, expression length and family; the best, worst and least certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.evaluation.benchmarks.base import plain_words
from pipelines.evaluation.metrics.estimates import Ratio
from pipelines.evaluation.metrics.interval import bootstrap_interval
from pipelines.evaluation.records import Prediction, Variant

__all__ = ["Breakdown", "Slice", "breakdowns", "least_certain", "length_class", "size_class"]

_SMALL_PX, _MEDIUM_PX = 32**2, 96**2
_LENGTHS = ((3, "1 to 3 words"), (6, "4 to 6 words"), (10, "7 to 10 words"))
_ORDER = (
    *("small (under 32² px)", "medium (32² to 96² px)", "large (96² px and more)"),
    *(label for _, label in _LENGTHS),
    "11 words and more",
)
_NUM_RESAMPLES = 400
"""Of the intervals of slices, which are there to be looked at; those of the scores take the recipe's."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The mean score of some of a benchmark's answers, with its 95 % interval over pictures."""

    label: str
    value: float
    low: float
    high: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A benchmark's answers cut in slices by one property."""

    benchmark: str
    by: str
    slices: tuple[Slice, ...]


def size_class(row: Prediction) -> str | None:
    """COCO's classes of an object's size, by its area in px of the picture as stored; None without a mask.

    For several targets it is their mean area.
    """
    if not row.truth_area_px:
        return None
    area = row.truth_area_px / max(row.num_targets, 1)
    return _ORDER[0] if area < _SMALL_PX else _ORDER[1] if area < _MEDIUM_PX else _ORDER[2]


def length_class(row: Prediction) -> str | None:
    """Words of the expression; None where the question has none of its own."""
    length = len(plain_words(row.expression))
    if not length:
        return None
    return next((label for most, label in _LENGTHS if length <= most), _ORDER[-1])


def breakdowns(predictions: Sequence[Prediction]) -> list[Breakdown]:
    """The standard answers of each benchmark by object size, expression length and family; a single slice says nothing.

    The score is that of each answer: IoU, share of words, METEOR or right and wrong.
    """
    by: tuple[tuple[str, Callable[[Prediction], str | None]], ...] = (
        ("object size", size_class),
        ("expression length", length_class),
        ("family", lambda row: row.family),
    )
    standard = [row for row in predictions if row.variant is Variant.STANDARD]
    found: list[Breakdown] = []
    for benchmark in dict.fromkeys(row.benchmark for row in standard):
        own = [row for row in standard if row.benchmark == benchmark]
        for name, label_of in by:
            groups: dict[str, list[Prediction]] = {}
            for row in own:
                label = label_of(row)
                if label is not None:
                    groups.setdefault(label, []).append(row)
            if len(groups) > 1:
                order = sorted(groups, key=lambda label: (_ORDER.index(label) if label in _ORDER else 99, label))
                slices = tuple(_slice(label, groups[label]) for label in order)
                found.append(Breakdown(benchmark, name, slices))
    return found


def least_certain(rows: Sequence[Prediction]) -> list[Prediction]:
    """Answers with masks, those first whose least certain mask the student is least sure of."""
    with_masks = [row for row in rows if row.mask_scores]
    return sorted(with_masks, key=lambda row: (min(row.mask_scores), row.sample_id, row.turn))


def _slice(label: str, rows: Sequence[Prediction]) -> Slice:
    ordered = sorted(rows, key=lambda row: (row.image_id, row.sample_id, row.turn))
    mean = Ratio.mean([row.score for row in ordered])
    low, high = bootstrap_interval(mean, [row.image_id for row in ordered], num_resamples=_NUM_RESAMPLES)
    return Slice(label, mean.value, low, high, len(rows))
