"""Multiple choice on visual prompts, by a strict rule and by the released one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Literal

from pipelines.evaluation.benchmarks.base import (
    BenchmarkConfig,
    ask,
    mean_score,
    plain_words,
    prompt_masks,
    truth_of,
    units_by_image,
)
from pipelines.evaluation.metrics.estimates import Estimate
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.schema import Sample, Task

__all__ = ["MultipleChoice", "MultipleChoiceConfig", "named_options"]

_LETTER = re.compile(r"\(([A-Z])\)|(?:^|(?<=\s))([A-Z])(?=[.):](?:\s|$)|$)")
"""`(B)` anywhere; `B.`, `B)` and `B:` as a word; `B` at the end."""


class MultipleChoiceConfig(BenchmarkConfig):
    """Multiple choice on visual prompts: accuracy by a strict rule and by the released one."""

    kind: Literal["multiple_choice"] = "multiple_choice"
    variants: tuple[Literal[Variant.STANDARD, Variant.RELEASED, Variant.UNTRAINED], ...] = (
        Variant.STANDARD,
        Variant.RELEASED,
    )
    """`released` judges the same answers: right if the right option's text is contained as it is written."""

    def build(self) -> MultipleChoice:
        """The benchmark."""
        return MultipleChoice(self)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return (Task.MULTIPLE_CHOICE,)


class MultipleChoice:
    """Asks for one of several options."""

    def __init__(self, config: MultipleChoiceConfig) -> None:
        self._config = config
        self._name = config.name or config.kind

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per turn and student."""
        variants = self._config.variants
        chosen = [sample for sample in samples if sample.task is Task.MULTIPLE_CHOICE and sample.prompts]
        return [
            replace(
                ask(self._name, variant, unit, wording, truth=truth_of(unit), prompts=prompt_masks(unit.sample)),
                released=variant is Variant.STANDARD and Variant.RELEASED in variants,
            )
            for units in units_by_image(chosen, self._config.max_images)
            for variant in (Variant.STANDARD, Variant.UNTRAINED)
            if variant in variants
            for unit in units
        ]

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """1 if right, else 0.

        Strictly, an answer is right if it names the right option and no other; one that names none or several is
        wrong. By the released rule it is right if it contains the right option's text as written, whatever else it
        says.
        """
        text = truth.text.strip()
        if question.variant is Variant.RELEASED:
            return Verdict(score=float(bool(text) and text in answer.text))
        if not question.options:
            return Verdict(score=float(bool(_runs(plain_words(answer.text), plain_words(text)))))
        right = named_options(text, question.options)
        return Verdict(score=float(len(right) == 1 and named_options(answer.text, question.options) == right))

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """`accuracy`, or `accuracy_released`."""
        return {"accuracy_released" if variant is Variant.RELEASED else "accuracy": mean_score(rows)}


def named_options(text: str, options: Sequence[str]) -> frozenset[int]:
    """The options that a text names, by their words or by their letters.

    Words within a longer option that the text names as well don't count: "dark red" doesn't name "red".

    >>> sorted(named_options("It is dark red.", ["red", "dark red", "blue"]))
    [1]
    >>> sorted(named_options("(C), not red", ["red", "dark red", "blue"]))
    [0, 2]
    """
    words = plain_words(text)
    found = [
        (start, start + len(own), place)
        for place, own in enumerate(map(plain_words, options))
        for start in _runs(words, own)
    ]
    named = {
        place
        for start, end, place in found
        if not any(a <= start and end <= b and b - a > end - start for a, b, _ in found)
    }
    letters = {ascii_uppercase.index(match[1] or match[2]) for match in _LETTER.finditer(text.strip())}
    return frozenset(named | {place for place in letters if place < len(options)})


def _runs(words: Sequence[str], own: Sequence[str]) -> list[int]:
    """Where a run of words stands within others."""
    if not own:
        return []
    return [start for start in range(len(words) - len(own) + 1) if list(words[start : start + len(own)]) == list(own)]
