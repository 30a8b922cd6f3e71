"""Referring and semantic segmentation: one expression, one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.evaluation.benchmarks.base import (
    BenchmarkConfig,
    Unit,
    answer_mask,
    ask,
    following,
    same_objects,
    truth_of,
    units_by_image,
)
from pipelines.evaluation.metrics.boundary import boundary_f
from pipelines.evaluation.metrics.estimates import Estimate, Ratio
from pipelines.evaluation.metrics.res import Outcome, gres_scores, overlap, res_scores
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.masks import area_px, decode_mask
from storage.schema import Mask, Sample, Task

__all__ = ["Referring", "ReferringConfig", "swapped_truths"]


class ReferringConfig(BenchmarkConfig):
    """Expressions with one target, several or none; cIoU, gIoU, Pr@X, and the gRefCOCO scores if some have none."""

    kind: Literal["referring"] = "referring"
    tasks: tuple[Literal[Task.REFERRING, Task.SEMANTIC, Task.REASONING], ...] = (Task.REFERRING,)
    """Tasks to ask about."""
    protocol: Literal["auto", "res", "gres"] = "auto"
    """`res` leaves out expressions without a target; `gres` is gRefCOCO's; `auto` gives the scores of `res` and, with
    expressions without a target, `N_acc`, `T_acc`, `gres_cIoU` and `gres_gIoU` beside them."""
    variants: tuple[Literal[Variant.STANDARD, Variant.SWAPPED, Variant.UNTRAINED], ...] = (
        Variant.STANDARD,
        Variant.SWAPPED,
        Variant.UNTRAINED,
    )
    """`swapped` needs `standard`: it is scored from the same answers."""
    boundary: bool = False
    """Also take `boundary_F`, the mean boundary F-score of the DAVIS benchmark over expressions with a target."""

    def build(self) -> Referring:
        """The benchmark."""
        return Referring(self)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return self.tasks


class Referring:
    """Asks for a mask by an expression."""

    def __init__(self, config: ReferringConfig) -> None:
        self._config = config
        self._name = config.name or config.kind

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per expression and per student (trained, untrained)."""
        chosen = [sample for sample in samples if sample.task in self._config.tasks]
        variants = self._config.variants
        asked: list[Question] = []
        for units in units_by_image(chosen, self._config.max_images):
            swapped = swapped_truths(units) if Variant.SWAPPED in variants else {}
            for variant in (Variant.STANDARD, Variant.UNTRAINED):
                if variant not in variants:
                    continue
                for unit in units:
                    if not unit.sample.turns[unit.turn].targets:
                        continue
                    other = swapped.get(_key(unit)) if variant is Variant.STANDARD else None
                    asked.append(ask(self._name, variant, unit, wording, truth=truth_of(unit), swapped=other))
        return asked

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """IoU of all of the answer's masks together with the truth, without its ignored pixels; see `denies_target`."""
        predicted = None if denies_target(answer) else answer_mask(answer, truth)
        target = truth.masks[0] if truth.masks and area_px(truth.masks[0]) else None
        if target is not None:
            intersection_px, union_px = overlap(predicted, target, truth.ignored)
        else:
            intersection_px, union_px = 0, 0 if predicted is None else area_px(predicted)
        outcome = Outcome(
            intersection_px=intersection_px,
            union_px=union_px,
            no_target=target is None,
            predicted_no_target=predicted is None,
        )
        return Verdict(
            score=outcome.iou,
            intersection_px=intersection_px,
            union_px=union_px,
            no_target=outcome.no_target,
            predicted_no_target=outcome.predicted_no_target,
            boundary_f=self._boundary_f(predicted, target, truth.ignored),
        )

    def _boundary_f(self, predicted: Mask | None, target: Mask | None, ignored: Mask | None) -> float | None:
        if not self._config.boundary or target is None:
            return None
        own, other = (None if mask is None else decode_mask(mask) for mask in (predicted, ignored))
        truth = decode_mask(target)
        return boundary_f(np.zeros_like(truth) if own is None else own, truth, other)

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """The scores of the configured protocol."""
        outcomes = [
            Outcome(
                intersection_px=row.intersection_px,
                union_px=row.union_px,
                no_target=row.no_target,
                predicted_no_target=row.predicted_no_target,
            )
            for row in rows
        ]
        boundary: dict[str, Estimate] = {}
        if self._config.boundary:
            taken = [(place, row.boundary_f) for place, row in enumerate(rows) if row.boundary_f is not None]
            boundary["boundary_F"] = Ratio.mean([value for _, value in taken], [place for place, _ in taken])
        if self._config.protocol == "gres":
            return {**gres_scores(outcomes), **boundary}
        scores: dict[str, Estimate] = {**res_scores(outcomes), **boundary}
        if self._config.protocol == "auto" and any(outcome.no_target for outcome in outcomes):
            gres = gres_scores(outcomes)
            scores |= {name: gres[name] for name in ("N_acc", "T_acc")}
            scores |= {f"gres_{name}": gres[name] for name in ("cIoU", "gIoU")}
        return scores


def denies_target(answer: Answered) -> bool:
    """Whether an answer says that nothing is meant: in words ("No target"), or by drawing not one pixel."""
    return answer.text.strip().casefold().startswith("no target") or not any(map(area_px, answer.masks))


def swapped_truths(units: Sequence[Unit]) -> dict[tuple[str, int], Truth]:
    """For the expressions of one picture: the truth of another object of it.

    Every object's expressions are compared with one other object, and every object serves once.
    Only expressions that mean exactly one object take part, since a union shares pixels with its
    members; a picture with a single such object has no pairs.

    Args:
        units: all turns about one picture.

    Returns:
        Truths by (sample id, turn).
    """
    masks = {_key(unit): mask for unit in units if (mask := _single_object(unit)) is not None}
    identity = same_objects(masks.values())
    speaker: dict[bytes, Unit] = {}
    for unit in sorted((unit for unit in units if _key(unit) in masks), key=_key):
        speaker.setdefault(identity[masks[_key(unit)].counts], unit)
    truths: dict[tuple[str, int], Truth] = {}
    for key, mask in masks.items():
        other = following(speaker, identity[mask.counts])
        if other is not None:
            truths[key] = truth_of(speaker[other])
    return truths


def _key(unit: Unit) -> tuple[str, int]:
    return unit.sample.sample_id, unit.turn


def _single_object(unit: Unit) -> Mask | None:
    targets = unit.sample.turns[unit.turn].targets
    if unit.sample.task is not Task.REFERRING or len(targets) != 1 or len(targets[0]) != 1:
        return None
    return unit.sample.regions[targets[0][0]].mask
