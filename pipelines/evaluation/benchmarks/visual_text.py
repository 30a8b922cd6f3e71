"""Visual-text referring segmentation: a question that points at prompts and asks for masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from pipelines.evaluation.metrics.res import Outcome, Ratio, overlap, res_scores
from pipelines.evaluation.records import AnswerLike, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.schema import Mask, Sample, Task

__all__ = ["VisualTextReferring", "VisualTextReferringConfig"]

_OBJECT_TASKS = (Task.REFERRING, Task.DESCRIPTION, Task.MULTIPLE_CHOICE, Task.VISUAL_TEXT_REFERRING)
"""Tasks whose regions are objects; panoptic ones hold backgrounds too."""


class VisualTextReferringConfig(BenchmarkConfig):
    """cIoU and gIoU by the strict rule: a target that no mask was given for counts zero in both."""

    kind: Literal["visual_text_referring"] = "visual_text_referring"
    variants: tuple[Literal[Variant.STANDARD, Variant.MOVED, Variant.UNTRAINED], ...] = (
        Variant.STANDARD,
        Variant.MOVED,
    )
    """`moved` points at another object and still compares with the truth of the first: it should fall."""

    def build(self) -> VisualTextReferring:
        """The benchmark."""
        return VisualTextReferring(self)


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
                for unit in units:
                    prompts = (
                        _moved(unit, objects[unit.image_id]) if variant is Variant.MOVED else prompt_masks(unit.sample)
                    )
                    if prompts is not None and any(unit.sample.turns[unit.turn].targets):
                        asked.append(ask(self._name, variant, unit, wording, truth=truth_of(unit), prompts=prompts))
        return asked

    def judge(self, question: Question, truth: Truth, answer: AnswerLike) -> Verdict:
        """Compares mask by mask, in order; masks beyond the targets are ignored."""
        pairs = [
            overlap(answer.masks[index] if index < len(answer.masks) else None, mask)
            for index, mask in enumerate(truth.masks)
        ]
        return Verdict(
            score=float(np.mean([intersection / union if union else 0.0 for intersection, union in pairs])),
            intersection_px=sum(intersection for intersection, _ in pairs),
            union_px=sum(union for _, union in pairs),
        )

    def metrics(self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]) -> dict[str, Ratio]:
        """`cIoU` and `gIoU`, the latter as the mean over questions of the mean over their targets."""
        outcomes = [Outcome(intersection_px=row.intersection_px, union_px=row.union_px) for row in rows]
        scores = np.array([row.score for row in rows], dtype=np.float64)
        giou = Ratio(np.arange(len(rows)), scores, np.ones(len(rows)))
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
