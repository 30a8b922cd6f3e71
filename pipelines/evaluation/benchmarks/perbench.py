"""PerBench as a whole: detailed captions, multiple choice, visual-text referring segmentation, overall score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.evaluation.benchmarks.base import BenchmarkConfig
from pipelines.evaluation.benchmarks.captions import RegionCaptionConfig
from pipelines.evaluation.benchmarks.choices import MultipleChoiceConfig
from pipelines.evaluation.benchmarks.visual_text import VisualTextReferringConfig
from pipelines.evaluation.metrics.estimates import Estimate, Mix, Ratio
from pipelines.evaluation.records import Answered, Benchmark, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.schema import Sample, Task

__all__ = ["PerBench", "PerBenchConfig"]

_PUBLISHED = {
    "METEOR_released": ("detailed caption", "METEOR"),
    "accuracy_released": ("MCQ", "accuracy"),
    "cIoU_released": ("V-T RES", "cIoU"),
    "gIoU_released": ("V-T RES", "gIoU"),
    "overall_released": ("overall", "score"),
}
"""Split and metric of the published rows by the name that the score has here."""


class PerBenchConfig(BenchmarkConfig):
    """The three tasks of PerBench and the overall score, by strict rules and by the released ones."""

    kind: Literal["perbench"] = "perbench"
    families: tuple[str, ...] | None = ("perbench",)
    """Families of the corpus; another one for a benchmark of one's own in the same tasks."""
    variants: tuple[Literal[Variant.STANDARD, Variant.RELEASED, Variant.UNTRAINED], ...] = (
        Variant.STANDARD,
        Variant.RELEASED,
    )
    """`released` is what published scores are: see `judge` of each task."""

    def build(self) -> PerBench:
        """The benchmark."""
        return PerBench(self)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return (Task.DESCRIPTION, Task.MULTIPLE_CHOICE, Task.VISUAL_TEXT_REFERRING)

    def published_as(self, metric: str) -> tuple[str, str, str] | None:
        """Only scores by the released rules stand beside published ones."""
        found = _PUBLISHED.get(metric)
        return None if found is None else ("PerBench", *found)


class PerBench:
    """Asks in all three tasks; each judges its own answers."""

    def __init__(self, config: PerBenchConfig) -> None:
        name, variants, limit = config.name or config.kind, config.variants, config.max_images
        self._tasks: dict[str, Benchmark] = {
            Task.DESCRIPTION.value: RegionCaptionConfig(name=name, max_images=limit, variants=variants).build(),
            Task.MULTIPLE_CHOICE.value: MultipleChoiceConfig(name=name, max_images=limit, variants=variants).build(),
            Task.VISUAL_TEXT_REFERRING.value: VisualTextReferringConfig(
                name=name, max_images=limit, variants=variants
            ).build(),
        }

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """The questions of all three tasks."""
        return [question for task in self._tasks.values() for question in task.questions(samples, wording)]

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """As the task does."""
        return self._tasks[question.task].judge(question, truth, answer)

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """`METEOR`, `CIDEr`, `accuracy`, `cIoU`, `gIoU` and, over all three tasks, `overall`.

        `overall` is (METEOR + 100 accuracy + (cIoU + gIoU) / 2) / 3 in percent (arXiv 2504.10465), here a fraction
        like all scores. By the released rules all names end in `_released`.
        """
        found: dict[str, Estimate] = {}
        for task, benchmark in self._tasks.items():
            places = np.array([place for place, row in enumerate(rows) if row.task == task], np.int64)
            if len(places):
                own = benchmark.metrics(variant, [rows[place] for place in places], standard)
                found |= {name: _placed(score, places) for name, score in own.items()}
        ending = "_released" if variant is Variant.RELEASED else ""
        weights = {"METEOR": 1 / 3, "accuracy": 1 / 3, "cIoU": 1 / 6, "gIoU": 1 / 6}
        if all(f"{name}{ending}" in found for name in weights):
            terms = tuple((weight, found[f"{name}{ending}"]) for name, weight in weights.items())
            found[f"overall{ending}"] = Mix(terms)
        return found


def _placed(score: Estimate, places: np.ndarray) -> Ratio:
    """A score of some rows as a score of all."""
    assert isinstance(score, Ratio)
    return Ratio(places[score.index], score.numerator, score.denominator)
