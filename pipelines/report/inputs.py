"""What a report is made of, and what its scores are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.evaluation.records import Prediction, Variant
from storage.corpus import Corpus
from storage.keys import Json
from storage.manifest import Manifest
from storage.recipe import RecipeModel

__all__ = ["Features", "ReportInputs", "Target"]


class Target(RecipeModel):
    """A score that a run promises; met if the score, or its share of another variant's, keeps within the bounds."""

    label: str
    """The promise in words, such as `finds what the sentence names`."""
    benchmark: str = "referring"
    """Name of the benchmark."""
    metric: str = "cIoU"
    """Name of the score."""
    variant: Variant = Variant.STANDARD
    """Variant whose score is looked at."""
    relative_to: Variant | None = None
    """The score is divided by that of this variant first."""
    at_least: float | None = Field(default=None)
    """Lower bound of the score (0 to 1) or of the ratio."""
    at_most: float | None = Field(default=None)
    """Upper bound of the score (0 to 1) or of the ratio."""


class Features(Protocol):
    """A store of teacher features; `storage.features.FeatureStore` is one."""

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        """Those of the images that it doesn't hold."""
        ...

    def read(self, image_ids: Sequence[str]) -> list[NDArray[np.float32]]:
        """Features [channels, height, width] of each image."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """All that one page shows.

    Attributes:
        title: what was run.
        recipe: the resolved recipe.
        corpus: pictures, samples and rejects.
        features: teacher features by the teacher's name.
        evaluations: manifests of evaluations; `facts["scores"]` holds their scores.
        predictions: rows of the evaluations.
        metrics: rows of the training's metrics file: `step`, `loss` and one entry per term.
        validation: scores during training, a row per validation with its `step`; none if there was none.
        speed: rates and stalls of the training, a row per reading with its `step`; none if the notes are gone.
        stage_seconds: wall time per stage in order, in s; None: not known.
        notes: what a reader must know first, such as relabelled splits.
        manifests: the outputs by the names of their stages.
        targets: the scores that were promised.
        num_examples: pictures per row of examples.
    """

    title: str = "Sailloft"
    recipe: Mapping[str, Json]
    corpus: Corpus
    features: Sequence[tuple[str, Features]] = ()
    evaluations: Sequence[Manifest] = ()
    predictions: Sequence[Prediction] = ()
    metrics: Sequence[Mapping[str, object]] = ()
    validation: Sequence[Mapping[str, float]] = ()
    speed: Sequence[Mapping[str, float]] = ()
    stage_seconds: Mapping[str, float | None] | None = None
    notes: Sequence[str] = ()
    manifests: Sequence[tuple[str, Manifest]] = ()
    targets: Sequence[Target] = ()
    num_examples: int = 4
