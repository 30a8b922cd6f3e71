"""Held-out text loss: how likely a student holds the texts that people or sources gave, without answering itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from pipelines.evaluation.benchmarks.base import BenchmarkConfig, ask, prompt_masks, truth_of, units_by_image
from pipelines.evaluation.metrics.estimates import Estimate, Ratio
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.schema import Sample, Task

__all__ = ["TextLoss", "TextLossConfig"]


class TextLossConfig(BenchmarkConfig):
    """Reference answers in words, read by the student: mean cross-entropy of their tokens, in nats; low is good."""

    kind: Literal["text_loss"] = "text_loss"
    tasks: tuple[
        Literal[Task.DESCRIPTION, Task.CONVERSATION, Task.MULTIPLE_CHOICE, Task.CATEGORY, Task.CAPTION], ...
    ] = (
        Task.DESCRIPTION,
        Task.MULTIPLE_CHOICE,
    )
    """Tasks whose answers are read. Turns of a conversation are read one by one, without those before them."""
    variants: tuple[Literal[Variant.STANDARD, Variant.UNTRAINED], ...] = (Variant.STANDARD,)
    """With which students."""

    def build(self) -> TextLoss:
        """The benchmark."""
        return TextLoss(self)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return self.tasks


class TextLoss:
    """Has the student read answers. Tokens are its own, so only students of one tokenizer can be compared."""

    def __init__(self, config: TextLossConfig) -> None:
        self._config = config
        self._name = config.name or config.kind

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One per answer in words alone, and student."""
        chosen = [sample for sample in samples if sample.task in self._config.tasks]
        return [
            replace(
                ask(self._name, variant, unit, wording, truth=truth_of(unit), prompts=prompt_masks(unit.sample)),
                read=True,
            )
            for units in units_by_image(chosen, self._config.max_images)
            for variant in self._config.variants
            for unit in units
            if unit.sample.turns[unit.turn].answer and not unit.sample.turns[unit.turn].targets
        ]

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """The probability of a token, as the geometric mean over the answer."""
        return Verdict(score=math.exp(-answer.nats / answer.num_tokens) if answer.num_tokens else 0.0)

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """`text_loss`: nats of all answers over their tokens, the end of each answer included."""
        nats = np.array([row.nats for row in rows], np.float64)
        return {"text_loss": Ratio(np.arange(len(rows)), nats, np.array([row.num_tokens for row in rows], np.float64))}
