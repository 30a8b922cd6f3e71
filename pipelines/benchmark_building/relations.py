"""How two regions of a picture lie to each other, and the phrases that say so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.benchmark_building.records import ObjectRegion

__all__ = ["RELATIONS", "SUPERLATIVES", "Relation", "centre", "relations_in", "superlatives_in"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A side on which one region lies of another.

    Attributes:
        phrase: as drafts write it, before `<regionN>`.
        pattern: of its variants.
        holds: whether the first region lies on that side of the second.
    """

    phrase: str
    pattern: str
    holds: Callable[[ObjectRegion, ObjectRegion], bool]


def centre(region: ObjectRegion) -> tuple[float, float]:
    """Middle of the box, x and y in px."""
    x0, y0, x1, y1 = region.box_xyxy_px
    return (x0 + x1) / 2, (y0 + y1) / 2


RELATIONS: Mapping[str, Relation] = {
    "left": Relation("to the left of", r"(?:to the left|left) of", lambda a, b: centre(a)[0] < centre(b)[0]),
    "right": Relation("to the right of", r"(?:to the right|right) of", lambda a, b: centre(a)[0] > centre(b)[0]),
    "above": Relation("above", r"above", lambda a, b: centre(a)[1] < centre(b)[1]),
    "below": Relation("below", r"(?:below|under|beneath)", lambda a, b: centre(a)[1] > centre(b)[1]),
}

SUPERLATIVES: Mapping[str, tuple[str, Callable[[ObjectRegion], float]]] = {
    "largest": (r"(?:largest|biggest)", lambda region: -region.area_px),
    "smallest": (r"smallest", lambda region: region.area_px),
    "leftmost": (r"leftmost", lambda region: centre(region)[0]),
    "rightmost": (r"rightmost", lambda region: -centre(region)[0]),
    "topmost": (r"(?:topmost|uppermost)", lambda region: centre(region)[1]),
    "lowest": (r"(?:lowest|bottommost)", lambda region: -centre(region)[1]),
}
"""Pattern of a superlative, and the quantity that is least for the region it means."""


def relations_in(text: str) -> list[tuple[str, int]]:
    """Relations to numbered regions that a text states, as (key of `RELATIONS`, number).

    >>> relations_in("the cup to the left of <region1>, above <region2>")
    [('left', 1), ('above', 2)]
    """
    found: list[tuple[int, str, int]] = []
    for key, relation in RELATIONS.items():
        for match in re.finditer(rf"\b{relation.pattern} <region(\d+)>", text, re.IGNORECASE):
            found.append((match.start(), key, int(match[1])))
    return [(key, number) for _, key, number in sorted(found)]


def superlatives_in(words: Sequence[str]) -> list[str]:
    """Keys of `SUPERLATIVES` among lower-case words."""
    return [key for key, (pattern, _) in SUPERLATIVES.items() if any(re.fullmatch(pattern, word) for word in words)]
