"""What a store lacks of a corpus, as a plan: what a forecast is made from, and what nothing is executed for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.forecast import EXPECTED_BITS_PER_VALUE, ImageCounts
from pipelines.distillation.plan import ExpectedSize, ImageSize, TeachPlan, plan_teaching
from pipelines.distillation.teaching import teaching_of
from pipelines.distillation.wanted import wanted_images
from storage.corpus import Corpus
from storage.objects import Objects
from storage.stored_features import Codec
from teachers.registry import TeacherConfig, teacher_card

__all__ = ["Missing", "find_missing"]


@dataclass(frozen=True)
class Missing:
    """What one teacher would have to compute."""

    counts: ImageCounts
    plan: TeachPlan | None
    """None: nothing is missing."""
    num_channels: int
    sizes: Sequence[ImageSize]
    """Of the images from which a probe draws: those that are missing, or all if none is."""


def find_missing(
    corpus: Corpus, teacher: TeacherConfig, features: FeaturesConfig, codec: Codec | None, output: Objects | None
) -> Missing:
    """Compares a corpus with a store; reads tables and writes nothing.

    Args:
        corpus: its images are wanted.
        teacher: whose features.
        features: splits, grid and layout.
        codec: of the store; None: it has yet to be calibrated, so that there is no store.
        output: prefix of the store; None together with `codec`.

    Raises:
        UsageError: the store belongs to another teacher, grid or encoding.
    """
    wanted = wanted_images(corpus, features)
    everything = np.ones(len(wanted), np.bool_)
    if codec is not None and output is not None:
        teaching = teaching_of(corpus, teacher, features, codec, output)
        store, unknown = teaching.look(wanted)
        plan = teaching.plan(wanted, unknown) if unknown.any() else None
        sizes = wanted.select(unknown if plan else everything)
        return Missing(wanted.counts(store, unknown), plan, teaching.description.num_channels, sizes)
    sizes, num_channels = wanted.select(everything), teacher_card(teacher).num_channels
    features = features.resolved(teacher)
    size = ExpectedSize(EXPECTED_BITS_PER_VALUE[features.codec])
    plan = plan_teaching(sizes, features, teacher, teacher.student_source, num_channels, size, "not calibrated yet")
    return Missing(ImageCounts(len(wanted), 0, 0, len(wanted)), plan if sizes else None, num_channels, sizes)
