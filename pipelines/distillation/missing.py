"""What a store lacks of a corpus, as a plan: what a forecast is made from, and what nothing is executed for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pipelines.distillation.census import Census
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.forecast import EXPECTED_BITS_PER_VALUE, ImageCounts, PlanTotals
from pipelines.distillation.plan import ExpectedSize, ImageSize, TeachPlan, plan_teaching
from pipelines.distillation.teaching import teaching_of
from pipelines.distillation.wanted import KnownImages, WantedImages
from pipelines.distillation.windows import IMAGES_PER_WINDOW, WantedWindows
from storage.corpus import Corpus
from storage.objects import Objects
from storage.stored_features import Codec
from teachers.registry import TeacherConfig, teacher_card

__all__ = ["Missing", "find_missing"]


@dataclass(frozen=True)
class Missing:
    """What one teacher would have to compute."""

    counts: ImageCounts
    plans: PlanTotals
    num_channels: int
    sizes: Sequence[ImageSize]
    """Of the images from which a probe draws: those that are missing, or all if none is."""


def find_missing(
    corpus: Corpus,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    codec: Codec | None,
    output: Objects | None,
    images_per_window: int = IMAGES_PER_WINDOW,
) -> Missing:
    """Compares a corpus with a store; reads tables and writes nothing.

    Args:
        corpus: its images are wanted.
        teacher: whose features.
        features: splits, grid and layout.
        codec: of the store; None: it has yet to be calibrated, so that there is no store.
        output: prefix of the store; None together with `codec`.
        images_per_window: how many of the corpus are in memory at a time, see `WantedWindows`.

    Raises:
        UsageError: the store belongs to another teacher, grid or encoding.
    """
    resolved = features.resolved(teacher)
    if codec is not None and output is not None:
        teaching = teaching_of(corpus, teacher, features, codec, output, images_per_window=images_per_window)
        census, plan, num_channels = teaching.census(), teaching.plan, teaching.description.num_channels
    else:
        num_channels, size = teacher_card(teacher).num_channels, ExpectedSize(EXPECTED_BITS_PER_VALUE[features.codec])
        census = Census(WantedWindows(corpus, features, images_per_window), None, None, look=lambda known: None)

        def plan(wanted: WantedImages, places: npt.NDArray[Any]) -> TeachPlan:
            images, source = wanted.select(places), teacher.student_source
            return plan_teaching(images, resolved, teacher, source, num_channels, size, "not calibrated yet")

    found = census.visit_all(lambda known: (known.counts(), _totals(known, resolved.images_per_part, plan)))
    plans = sum((totals for _, totals in found), PlanTotals())
    return Missing(census.counts(), plans, num_channels, _Sizes(census, [counts for counts, _ in found]))


def _totals(
    known: KnownImages, images_per_part: int, plan: Callable[[WantedImages, npt.NDArray[Any]], TeachPlan]
) -> PlanTotals:
    """Of all parts of a window; one plan after another, since each takes a kilobyte per image."""
    places = np.flatnonzero(known.unknown)
    parts = (places[start : start + images_per_part] for start in range(0, len(places), images_per_part))
    return sum((PlanTotals.of(plan(known.wanted, part)) for part in parts), PlanTotals())


class _Sizes(Sequence[ImageSize]):
    """Images that are missing, or all if none is, read when they are asked for: cheapest in their order.

    Other runs may write meanwhile: then another image of the window that is missing stands in, or any of it.
    """

    def __init__(self, census: Census, counts: Sequence[ImageCounts]) -> None:
        self._census, self._of_missing = census, any(one.missing for one in counts)
        self._ends = [*accumulate(one.missing if self._of_missing else one.wanted for one in counts)]

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> ImageSize: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageSize]: ...
    def __getitem__(self, index: int | slice) -> ImageSize | Sequence[ImageSize]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        window = bisect_right(self._ends, number)
        within = number - [0, *self._ends][window]
        return self._census.visit(window, lambda known: self._size(known, within))

    def _size(self, known: KnownImages, number: int) -> ImageSize:
        places = np.flatnonzero(known.unknown) if self._of_missing else np.arange(len(known.wanted))
        if not len(places):
            places = np.arange(len(known.wanted))
        return known.wanted.select(places[[number % len(places)]])[0]
