"""Visual-text referring segmentation: a question that points at prompts and asks for masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from pipelines.evaluation.benchmarks.base import (
    BenchmarkConfig,
    Unit,
    ask,
    following,
    prompt_masks,
    same_objects,
    truth_of,
    units_by_image,
)
from pipelines.evaluation.metrics.estimates import Estimate, Ratio
from pipelines.evaluation.metrics.res import Outcome, overlap, res_scores
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.schema import Mask, Sample, Task

__all__ = ["RETRY_PREFIX", "VisualTextReferring", "VisualTextReferringConfig"]

RETRY_PREFIX = "It is [SEG]."
"""What the released evaluation puts into a student's mouth that gave no mask."""

_OBJECT_TASKS = (Task.REFERRING, Task.DESCRIPTION, Task.MULTIPLE_CHOICE, Task.VISUAL_TEXT_REFERRING)
"""Tasks whose regions are objects; panoptic ones hold backgrounds too."""


class VisualTextReferringConfig(BenchmarkConfig):
    """cIoU and gIoU by the strict rule (a target without a mask counts zero in both) and by the released one."""

    kind: Literal["visual_text_referring"] = "visual_text_referring"
    variants: tuple[Literal[Variant.STANDARD, Variant.MOVED, Variant.RELEASED, Variant.UNTRAINED], ...] = (
        Variant.STANDARD,
        Variant.MOVED,
        Variant.RELEASED,
    )
    """`moved` points at another object and still compares with the truth of the first: it should fall. `released` needs
    `standard`: it judges the same answers, and asks again where there was no mask."""

    def build(self) -> VisualTextReferring:
        """The benchmark."""
        return VisualTextReferring(self)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return (Task.VISUAL_TEXT_REFERRING,)


class VisualTextReferring:
    """Asks for masks by words and visual prompts together."""

    def __init__(self, config: VisualTextReferringConfig) -> None:
        self._config = config
        self._name = config.name or config.kind

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per turn and variant; `moved` ones where the picture has another prompted object."""
        chosen = [sample for sample in samples if sample.task is Task.VISUAL_TEXT_REFERRING and sample.prompts]
        objects = _objects(samples)
        asked: list[Question] = []
        for units in units_by_image(chosen, self._config.max_images):
            for variant in self._config.variants:
                if variant is Variant.RELEASED:
                    continue
                for unit in units:
                    prompts = (
                        _moved(unit, objects[unit.image_id]) if variant is Variant.MOVED else prompt_masks(unit.sample)
                    )
                    if prompts is not None and any(unit.sample.turns[unit.turn].targets):
                        question = ask(self._name, variant, unit, wording, truth=truth_of(unit), prompts=prompts)
                        asked.append(self._with_rules(question))
        return asked

    def _with_rules(self, question: Question) -> Question:
        if question.variant is not Variant.STANDARD or Variant.RELEASED not in self._config.variants:
            return question
        return replace(question, released=True, retry_prefix=RETRY_PREFIX)

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """Compares masks with targets.

        Strictly mask by mask, in order: a target without a mask has IoU 0, masks beyond the targets are ignored. By the
        released rule the first mask with the first target, and an answer without a mask, to the second asking too, is
        marked by `predicted_no_target`.
        """
        if question.variant is Variant.RELEASED:
            intersection_px, union_px = overlap(answer.masks[0] if answer.masks else None, truth.masks[0])
            return Verdict(
                score=intersection_px / union_px if union_px else 0.0,
                intersection_px=intersection_px,
                union_px=union_px,
                predicted_no_target=not answer.masks,
            )
        pairs = [
            overlap(answer.masks[index] if index < len(answer.masks) else None, mask)
            for index, mask in enumerate(truth.masks)
        ]
        return Verdict(
            score=float(np.mean([intersection / union if union else 0.0 for intersection, union in pairs])),
            intersection_px=sum(intersection for intersection, _ in pairs),
            union_px=sum(union for _, union in pairs),
        )

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """`cIoU` and `gIoU`, the latter as the mean over questions of the mean over their targets.

        `cIoU_released` leaves out questions that no mask came for, `gIoU_released` counts them as zero.
        """
        giou = Ratio.mean([row.score for row in rows])
        if variant is Variant.RELEASED:
            answered = [place for place, row in enumerate(rows) if not row.predicted_no_target]
            intersection = np.array([rows[place].intersection_px for place in answered], np.float64)
            union = np.array([rows[place].union_px for place in answered], np.float64)
            return {"cIoU_released": Ratio(np.array(answered, np.int64), intersection, union), "gIoU_released": giou}
        outcomes = [Outcome(intersection_px=row.intersection_px, union_px=row.union_px) for row in rows]
        return {"cIoU": res_scores(outcomes)["cIoU"], "gIoU": giou}


def _objects(samples: Iterable[Sample]) -> dict[str, dict[bytes, Mask]]:
    """The masks of single objects that any question on a picture points at or asks for, by picture."""
    objects: dict[str, dict[bytes, Mask]] = {}
    for sample in samples:
        if sample.image_id is not None and sample.task in _OBJECT_TASKS:
            known = objects.setdefault(sample.image_id, {})
            known.update({region.mask.counts: region.mask for region in sample.regions})
    return objects


def _moved(unit: Unit, known: dict[bytes, Mask]) -> tuple[Mask, ...] | None:
    """Every prompt of the unit on another object of the picture, which is no target either."""
    own = prompt_masks(unit.sample)
    regions = unit.sample.regions
    targets = [regions[index].mask for target in unit.sample.turns[unit.turn].targets for index in target]
    identity = same_objects([*known.values(), *own, *targets])
    taken = {identity[mask.counts] for mask in [*own, *targets]}
    moved: list[Mask] = []
    for prompt in own:
        free = {identity[counts] for counts in known} - taken
        place = following(free, identity[prompt.counts])
        if place is None:
            return None
        taken.add(place)
        moved.append(known[place] if place in known else next(known[c] for c in known if identity[c] == place))
    return tuple(moved)
