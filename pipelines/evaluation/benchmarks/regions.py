"""Questions on visual prompts that are answered in words: description, category."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from pipelines.evaluation.benchmarks.base import (
    BenchmarkConfig,
    Unit,
    ask,
    mean_score,
    plain_words,
    prompt_masks,
    truth_of,
    units_by_image,
)
from pipelines.evaluation.metrics.estimates import Estimate, Ratio
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.schema import Mask, Sample, Task

__all__ = [
    "ATTRIBUTE_WORDS",
    "Category",
    "CategoryConfig",
    "Description",
    "DescriptionConfig",
]

ATTRIBUTE_WORDS = (
    *("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey", "gray"),
    *("cyan", "magenta", "teal"),
    *("circle", "disc", "disk", "square", "triangle", "ring", "star", "cross", "diamond", "rectangle", "ellipse"),
    *("bar", "crescent", "hexagon", "heart", "arrow", "pentagon", "oval"),
)
"""Words of colour and shape that a description is examined for."""

_WordVariants = tuple[Literal[Variant.STANDARD, Variant.MOVED, Variant.UNTRAINED], ...]


class DescriptionConfig(BenchmarkConfig):
    """Descriptions of visual prompts: share of the truth's attribute words that are found in the answer."""

    kind: Literal["description"] = "description"
    variants: _WordVariants = (Variant.STANDARD, Variant.MOVED)
    """`moved` asks the same with the prompt on another object, and expects that one's description."""
    attribute_words: tuple[str, ...] = ATTRIBUTE_WORDS
    """Words that count, lower-case."""

    def build(self) -> Description:
        """The benchmark."""
        return Description(self)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return (Task.DESCRIPTION,)


class CategoryConfig(BenchmarkConfig):
    """Category of a visual prompt: right if the answer is the category's name, but for case and punctuation."""

    kind: Literal["category"] = "category"
    variants: tuple[Literal[Variant.STANDARD, Variant.UNTRAINED], ...] = (Variant.STANDARD,)
    """With which students it is asked."""

    def build(self) -> Category:
        """The benchmark."""
        return Category(self)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return (Task.CATEGORY,)


class Description:
    """Asks for the description of a visual prompt."""

    def __init__(self, config: DescriptionConfig) -> None:
        self._config = config
        self._name = config.name or config.kind
        self._vocabulary = frozenset(config.attribute_words)

    def attributes(self, text: str) -> frozenset[str]:
        """Attribute words of what a text says of the object itself: up to its first comma.

        What follows places it beside others ("..., left of the blue square") and names their looks.
        """
        return self._vocabulary.intersection(plain_words(text.partition(",")[0]))

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per description; `moved` ones where the picture has an object that is described otherwise."""
        chosen = [sample for sample in samples if sample.task is Task.DESCRIPTION and sample.prompts]
        asked: list[Question] = []
        for units in units_by_image(chosen, self._config.max_images):
            for variant in self._config.variants:
                for unit in units:
                    source = self._other(unit, units) if variant is Variant.MOVED else unit
                    if source is None:
                        continue
                    asked.append(
                        ask(
                            self._name,
                            variant,
                            unit,
                            wording,
                            truth=truth_of(source),
                            prompts=prompt_masks(source.sample),
                        )
                    )
        return asked

    def _other(self, unit: Unit, units: Sequence[Unit]) -> Unit | None:
        """The next unit in order of the prompts' masks, whose truth has other attribute words."""
        own, words = _place(unit), self.attributes(truth_of(unit).text)
        others = [
            other
            for other in sorted(units, key=_place)
            if len(other.sample.prompts) == len(unit.sample.prompts) and self.attributes(truth_of(other).text) != words
        ]
        later = [other for other in others if _place(other) > own]
        return (later or others or [None])[0]

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """Share of the truth's attribute words in the answer; of all its words if it has none of those."""
        expected, found = self.attributes(truth.text), self.attributes(answer.text)
        if not expected:
            expected, found = frozenset(plain_words(truth.text)), frozenset(plain_words(answer.text))
        found = found & expected
        return Verdict(score=len(found) / len(expected) if expected else 0.0)

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """`attribute_accuracy`; `all_attributes`, share of answers with every one; if moved, `changed`, share of
        answers that differ from those to the unmoved prompt."""
        scores: dict[str, Estimate] = {
            "attribute_accuracy": mean_score(rows),
            "all_attributes": _share(rows, lambda row: row.score == 1.0),
        }
        if variant is Variant.MOVED:
            before = {(row.sample_id, row.turn): row.answer for row in standard}
            known = [index for index, row in enumerate(rows) if (row.sample_id, row.turn) in before]
            changed = [rows[index].answer != before[rows[index].sample_id, rows[index].turn] for index in known]
            scores["changed"] = Ratio(np.array(known, np.int64), np.array(changed, np.float64), np.ones(len(known)))
        return scores


class Category:
    """Asks for the category of a visual prompt."""

    def __init__(self, config: CategoryConfig) -> None:
        self._config = config
        self._name = config.name or config.kind

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per turn and student."""
        chosen = [sample for sample in samples if sample.task is Task.CATEGORY and sample.prompts]
        return [
            ask(self._name, variant, unit, wording, truth=_category(unit), prompts=prompt_masks(unit.sample))
            for units in units_by_image(chosen, self._config.max_images)
            for variant in self._config.variants
            for unit in units
        ]

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """1 if the words are those of the category's name, else 0."""
        return Verdict(score=float(plain_words(answer.text) == plain_words(truth.text)))

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """`accuracy`."""
        return {"accuracy": mean_score(rows)}


def _category(unit: Unit) -> Truth:
    """The category's name: the answer, or that of the region pointed at."""
    region = unit.sample.prompts[0].region
    named = None if region is None else unit.sample.regions[region].category
    return truth_of(unit, unit.sample.turns[unit.turn].answer or named or unit.sample.turns[unit.turn].text)


def _place(unit: Unit) -> tuple[tuple[bytes, ...], str, int]:
    masks: tuple[Mask, ...] = prompt_masks(unit.sample)
    return tuple(mask.counts for mask in masks), unit.sample.sample_id, unit.turn


def _share(rows: Sequence[Prediction], holds: Callable[[Prediction], bool]) -> Ratio:
    values = np.array([holds(row) for row in rows], dtype=np.float64)
    return Ratio(np.arange(len(rows)), values, np.ones(len(rows)))
