"""Captions of regions: RefCOCOg's region captions, PerBench's detailed ones, and users' own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from pipelines.evaluation.benchmarks.base import (
    BenchmarkConfig,
    Unit,
    ask,
    mean_score,
    prompt_masks,
    truth_of,
    units_by_image,
)
from pipelines.evaluation.metrics.captions import check_java, cider_scores, meteor, meteor_1_5_scores, meteor_released
from pipelines.evaluation.metrics.estimates import Estimate, Mix, Ratio
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.schema import Sample, Task

__all__ = ["RegionCaption", "RegionCaptionConfig", "bare_text", "cider", "described_regions", "meteor_1_5"]

_MARKUP = re.compile(r"<[^<>]*>:?|\[SEG\]")


class RegionCaptionConfig(BenchmarkConfig):
    """Captions of visual prompts by METEOR and CIDEr; several captions of one region are references together."""

    kind: Literal["region_caption"] = "region_caption"
    variants: tuple[Literal[Variant.STANDARD, Variant.RELEASED, Variant.UNTRAINED], ...] = (
        Variant.STANDARD,
        Variant.RELEASED,
    )
    """`released` gives METEOR as the released evaluation of PerBench takes it, from the same answers."""
    meteor_1_5: bool = False
    """Also METEOR 1.5, which RefCOCOg's published captions are scored with; needs Java."""

    def build(self) -> RegionCaption:
        """The benchmark."""
        return RegionCaption(self)

    def check(self) -> None:
        """See `BenchmarkConfig`."""
        if self.meteor_1_5:
            check_java()

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return (Task.DESCRIPTION,)

    def published_as(self, metric: str) -> tuple[str, str, str] | None:
        """Published captions of regions are scored with METEOR 1.5, which nltk's isn't."""
        return (*self.published, "METEOR") if self.published is not None and metric == "METEOR_1.5" else None


class RegionCaption:
    """Asks for a description of each region."""

    def __init__(self, config: RegionCaptionConfig) -> None:
        self._config = config
        self._name = config.name or config.kind

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per region and student."""
        variants = self._config.variants
        return [
            replace(
                ask(self._name, variant, unit, wording, truth=truth, prompts=prompt_masks(unit.sample)),
                released=variant is Variant.STANDARD and Variant.RELEASED in variants,
            )
            for units in units_by_image(samples, self._config.max_images)
            for variant in (Variant.STANDARD, Variant.UNTRAINED)
            if variant in variants
            for unit, truth in described_regions(units)
        ]

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """METEOR of the answer; by the released rules with its arguments swapped."""
        score = meteor_released if question.variant is Variant.RELEASED else meteor
        return Verdict(score=score(bare_text(answer.text), [bare_text(text) for text in truth.texts]))

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """`METEOR`, `CIDEr` and, if asked for, `METEOR_1.5`; by the released rules `METEOR_released` alone."""
        if variant is Variant.RELEASED:
            return {"METEOR_released": mean_score(rows)}
        scores: dict[str, Estimate] = {"METEOR": mean_score(rows), "CIDEr": cider(rows)}
        if self._config.meteor_1_5 and rows:
            scores["METEOR_1.5"] = meteor_1_5(rows)
        return scores


def cider(rows: Sequence[Prediction]) -> Ratio:
    """CIDEr of the rows' answers, document frequencies over all of their truths."""
    texts = [bare_text(row.answer) for row in rows]
    return Ratio.mean(cider_scores(texts, [[bare_text(text) for text in row.truths] for row in rows]))


def meteor_1_5(rows: Sequence[Prediction]) -> Mix:
    """METEOR 1.5 of the rows' answers.

    It adds up counts over all texts: its value is the program's, its interval that of the mean of the texts' own
    scores, moved there.
    """
    texts = [bare_text(row.answer) for row in rows]
    whole, each = meteor_1_5_scores(texts, [[bare_text(text) for text in row.truths] for row in rows])
    return Mix(((1.0, Ratio.mean(each)),), offset=whole - float(each.mean()))


def bare_text(text: str) -> str:
    """A text without tags, placeholders and special tokens.

    >>> bare_text("<region1>: <p>A dog</p> [SEG] sits.<|endoftext|>")
    'A dog sits.'
    """
    return " ".join(_MARKUP.sub(" ", text).split())


def described_regions(units: Iterable[Unit]) -> list[tuple[Unit, Truth]]:
    """The regions of one picture, each with all descriptions that samples of one family and split give of it."""
    regions: dict[tuple[object, ...], list[Unit]] = {}
    for unit in units:
        turn = unit.sample.turns[unit.turn]
        if unit.sample.task is Task.DESCRIPTION and unit.sample.prompts and bare_text(turn.answer or ""):
            place = tuple(mask.counts for mask in prompt_masks(unit.sample))
            regions.setdefault((unit.sample.family, unit.sample.split, turn.text, place), []).append(unit)
    found: list[tuple[Unit, Truth]] = []
    for group in regions.values():
        first, *others = sorted(group, key=lambda unit: (unit.sample.sample_id, unit.turn))
        texts = tuple(truth_of(unit).text for unit in others)
        found.append((first, replace(truth_of(first), references=texts)))
    return sorted(found, key=lambda pair: (pair[0].sample.sample_id, pair[0].turn))
