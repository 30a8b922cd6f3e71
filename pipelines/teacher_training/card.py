"""The card of a trained teacher: what it is, how it was made, how good it is, what it can't do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from storage.keys import Json

__all__ = ["TeacherFigures", "write_card"]

_WHAT = {
    "mask2former": "Mask2Former with a Swin backbone",
    "sam2": "SAM 2 for single pictures: Hiera encoder, prompt encoder and mask decoder",
}
_CLASS = {"mask2former": "Mask2FormerForUniversalSegmentation", "sam2": "Sam2Model"}
_TAG = {"mask2former": "image-segmentation", "sam2": "mask-generation"}
_TASK = {
    "mask2former": "each object is a thing of its shape, the background is the one stuff; the loss is that\n"
    "of transformers (Hungarian matching, then cross-entropy of classes, BCE and dice of masks)",
    "sam2": "asked by a point or a box, it gives the mask of one object; the loss is BCE and dice\n"
    "of the mask and the squared error of the predicted IoU",
}
_COLUMNS = {
    "mask2former": {
        "pq": "PQ",
        "sq": "SQ",
        "rq": "RQ",
        "pq_things": "PQ of things",
        "pq_stuff": "PQ of background",
    },
    "sam2": {
        "point_iou": "mean IoU, one point",
        "box_iou": "mean IoU, one box",
        "iou_error": "mean error of the predicted IoU",
    },
}
_HOW_SCORED = {
    "mask2former": "Panoptic quality at the size of the input, averaged over classes; segments come from\n"
    "transformers' `post_process_panoptic_segmentation` with its default thresholds.",
    "sam2": "The point is the one deepest inside the object, the box is tight; one mask is asked for, and compared\n"
    "with what is visible of the object at the size of the input. Every object of a picture is asked for.",
}
_LIMITS = {
    "mask2former": "It knows drawn shapes and nothing of photographs: its features on those are edges and colours, no\n"
    "more. Plain shapes it tells apart well, eight textured ones badly (`varied`, `large`). Inputs larger than 256 px\n"
    "were not measured.",
    "sam2": "It knows drawn shapes and nothing of photographs. Mask prompts, several clicks, negative points, video\n"
    "memory and the object score were not trained. Inputs larger than 256 px were not measured.",
}


@dataclass(frozen=True, slots=True)
class TeacherFigures:
    """What `metrics.json` holds.

    Attributes:
        name: name of the teacher.
        kind: kind of its network.
        num_parameters: numbers in the saved network.
        num_channels: channels of its features.
        num_steps: optimiser steps.
        num_pictures: pictures seen in training, each once.
        num_held_out: pictures of each source behind the scores.
        input_px: side of the input of each source, in pixels.
        scores: figures on held-out scenes by source.
        untrained: the same of the network before its first step.
        losses: (steps done, mean loss since the entry before).
        versions: of the libraries that did the arithmetic.
    """

    name: str
    kind: Literal["mask2former", "sam2"]
    num_parameters: int
    num_channels: int
    num_steps: int
    num_pictures: int
    num_held_out: int
    input_px: Mapping[str, int]
    scores: Mapping[str, Mapping[str, float]]
    untrained: Mapping[str, Mapping[str, float]]
    losses: tuple[tuple[int, float], ...]
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Json]:
        """The figures as plain data."""
        return asdict(self)


def write_card(figures: TeacherFigures) -> str:
    """The model card as Markdown; it follows from the figures alone."""
    kind, name = figures.kind, figures.name
    columns = _COLUMNS[kind]
    head = ["scenes", "input", *columns.values(), f"{next(iter(columns.values()))} before training"]
    first = next(iter(columns))
    rows = [
        [
            source,
            f"{figures.input_px[source]} px",
            *(f"{scores[column]:.3f}" for column in columns),
            f"{figures.untrained[source][first]:.3f}",
        ]
        for source, scores in figures.scores.items()
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
    versions = ", ".join(f"{library} {version}" for library, version in figures.versions.items())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: {_TAG[kind]}
---

# {name}

{_WHAT[kind]}; {figures.num_parameters:,} parameters in float32,
features of {figures.num_channels} channels. It is small enough to come with the package, so that demonstrations, tests
and benchmarks have features that mean something without any download.

## Training

Drawn scenes only: {_TASK[kind]}.
{figures.num_steps:,} steps on {figures.num_pictures:,} pictures, each drawn for the occasion and seen once. Made by

```
sailloft train-teacher {name} OUT
```

on one thread of a CPU with {versions}. `recipe.json` states everything that went in.
The same machine and versions give the same bits; others may round differently and end at other weights of about the
same quality.

## Figures

On {figures.num_held_out} held-out scenes of each make, from a split that training never draws.
{_HOW_SCORED[kind]}

{table}

`metrics.json` holds these figures in full, with the course of the loss.

## Use

In a recipe: `{{kind: {kind}, checkpoint: {name}}}`. From Python, with the folder of this card:

```python
from transformers import {_CLASS[kind]}

network = {_CLASS[kind]}.from_pretrained(folder)
```

Pictures go in stretched and normalised as the teacher of this kind does it (`teachers/{kind}.py`).

## Limits

{_LIMITS[kind]}

## Licence

Apache License 2.0, as the rest of Sailloft. Pictures, code and weights are its own; the architecture is that of
transformers.
"""
