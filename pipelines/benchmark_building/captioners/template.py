"""A captioner without a model: sentences from category, colour, size, position and neighbours.

Its drafts are dull but right, and the same everywhere; tests and first tries use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from pipelines.benchmark_building.captioners.base import BaseCaptionerConfig, DraftRequest
from pipelines.benchmark_building.records import BenchmarkTask, ObjectRegion, Picture, Texts
from pipelines.benchmark_building.relations import RELATIONS, SUPERLATIVES, centre
from storage.keys import content_key
from storage.masks import decode_mask

__all__ = ["TemplateCaptioner", "TemplateCaptionerConfig", "colour_name", "position_name"]

_COLOURS = {
    "black": (25, 25, 25),
    "white": (235, 235, 235),
    "grey": (128, 128, 128),
    "red": (190, 40, 40),
    "orange": (225, 130, 40),
    "yellow": (225, 210, 70),
    "green": (60, 130, 60),
    "blue": (60, 90, 180),
    "purple": (120, 60, 140),
    "pink": (225, 150, 170),
    "brown": (115, 80, 50),
    "beige": (210, 185, 150),
}
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_SIZES = ((0.02, "small"), (0.1, "medium-sized"), (1.0, "large"))


class TemplateCaptionerConfig(BaseCaptionerConfig):
    """Sentences from a template."""

    kind: Literal["template"] = "template"
    """Name in the registry."""
    VERSION: ClassVar[int] = 1

    def build(self) -> TemplateCaptioner:
        """The captioner."""
        return TemplateCaptioner()

    def description(self) -> str:
        """Name and version."""
        return f"template, version {self.VERSION}"


class TemplateCaptioner:
    """Fills in a template for each task."""

    is_concurrent = True

    def draft(self, request: DraftRequest) -> Texts:
        """The texts of one item; the same request gives the same texts."""
        if request.task is BenchmarkTask.DETAILED_CAPTION:
            return Texts(caption=_caption(request))
        if request.task is BenchmarkTask.MULTIPLE_CHOICE:
            return _choice(request)
        return Texts(question=_expression(request), answer="It is [SEG].")


def colour_name(pixels: np.ndarray) -> str:
    """Name of the colour nearest to the mean of some pixels, uint8 (num, 3)."""
    mean = pixels.astype(np.float64).mean(axis=0)
    return min(_COLOURS, key=lambda name: float(np.square(mean - _COLOURS[name]).sum()))


def position_name(region: ObjectRegion, picture: Picture) -> str:
    """In which ninth of the picture a region's middle lies, such as `top left`."""
    x, y = centre(region)
    row = _ROWS[min(int(3 * y / picture.height), 2)]
    column = _COLUMNS[min(int(3 * x / picture.width), 2)]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def _caption(request: DraftRequest) -> str:
    picture, region = request.candidate.picture, request.subject
    share = region.area_px / (picture.height * picture.width)
    size = next(name for limit, name in _SIZES if share <= limit)
    x0, y0, x1, y1 = region.box_xyxy_px
    shape = "wider than it is tall" if x1 - x0 > y1 - y0 else "taller than it is wide"
    colour = colour_name(request.pixels[decode_mask(region.mask)])
    sentences = [
        f"A {size}, mostly {colour} {region.name} in the {position_name(region, picture)} of the picture, {shape}, "
        f"covering about {max(round(100 * share), 1)} percent of it."
    ]
    others = [other for other in picture.regions if other is not region and other.category is not None]
    nearby = sorted(others, key=lambda other: -other.area_px)[:2]
    beside = [f"{_side(other, region)} {_with_article(other.name)}" for other in nearby]
    if beside:
        sentences.append(f"There is {' and '.join(beside)}.")
    return " ".join(sentences)


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].casefold() in 'aeiou' else 'a'} {name}"


def _side(other: ObjectRegion, region: ObjectRegion) -> str:
    (x0, y0), (x1, y1) = centre(other), centre(region)
    if abs(x0 - x1) >= abs(y0 - y1):
        return "to its left" if x0 < x1 else "to its right"
    return "above it" if y0 < y1 else "below it"


def _choice(request: DraftRequest) -> Texts:
    region, picture = request.subject, request.candidate.picture
    key = content_key([request.seed, picture.image_id, region.mask.counts.decode("ascii"), "options"])
    if region.category is None:
        question, answer = "In which part of the picture is <region1>?", position_name(region, picture)
        pool = ["centre"] + [f"{row} {column}" for row in _ROWS for column in _COLUMNS if (row, column) != _MIDDLE]
    else:
        question, answer = "What is <region1>?", region.category
        near = sorted({other.category for other in picture.regions if other.category is not None})
        pool = [*near, *sorted(request.categories, key=lambda name: content_key([key, name]))]
    wrong = _wrong_options(answer, pool, request.num_options - 1)
    right = int(key[:8], 16) % (len(wrong) + 1)
    return Texts(question=question, options=(*wrong[:right], answer, *wrong[right:]), right=right)


_MIDDLE = ("middle", "centre")


def _wrong_options(answer: str, pool: Sequence[str], num: int) -> list[str]:
    """The first names of the pool that neither hold one already chosen nor are held by it."""
    chosen: list[str] = []
    for name in pool:
        taken = [answer, *chosen]
        if len(chosen) < num and not any(name in other or other in name for other in taken):
            chosen.append(name)
    return chosen


def _expression(request: DraftRequest) -> str:
    """The first phrase that fits the target alone; the plainest one if none does."""
    picture, target, prompt = request.candidate.picture, request.subject, request.prompts[0]
    rivals = [
        other for other in picture.regions if other is not target and other is not prompt and other.name == target.name
    ]
    plain = f"the {target.name} in the same picture as <region1>"
    if not rivals:
        return plain
    sides = [key for key, relation in RELATIONS.items() if relation.holds(target, prompt)]
    for side in sides:
        relation = RELATIONS[side]
        if not any(relation.holds(other, prompt) for other in rivals):
            return f"the {target.name} {relation.phrase} <region1>"
    for side in sides:
        relation = RELATIONS[side]
        beside = [other for other in rivals if relation.holds(other, prompt)]
        for word, (_, quantity) in SUPERLATIVES.items():
            if all(quantity(target) < quantity(other) for other in beside):
                return f"the {word} {target.name} {relation.phrase} <region1>"
    return plain
