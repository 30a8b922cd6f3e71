"""One picture with everything that is known about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.scenes.chance import Chance
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.grammar import Expression, expressions
from pipelines.scenes.render import draw_masks, draw_picture
from pipelines.scenes.world import Scene, sample_scene
from storage.errors import UsageError

__all__ = ["DescribedScene", "DrawnScene", "describe_scene", "draw_scene", "paint_scene"]

_ATTEMPTS = 200
_PATIENT_ATTEMPTS = 12
"""So many scenes are turned down for want of expressions; then fewer will do."""
_MIN_VISIBLE_FRACTION = 0.003
"""Least visible area of an object, as a share of the picture: 28 pixels of 96 x 96."""


@dataclass(frozen=True, slots=True)
class DescribedScene:
    """A scene with its masks and expressions, but no picture yet.

    Attributes:
        scene: the objects, from back to front.
        masks: what is visible of each object: bool (num_objects, height, width), disjoint.
        hidden_fractions: share of each object that others cover.
        expressions: those with one target first, then several, then none.
    """

    scene: Scene
    masks: NDArray[np.bool_]
    hidden_fractions: tuple[float, ...]
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class DrawnScene(DescribedScene):
    """A described scene with its picture.

    Attributes:
        image: RGB picture, uint8 (height, width, 3).
    """

    image: NDArray[np.uint8]


def draw_scene(config: ScenesConfig, split: str, index: int) -> DrawnScene:
    """Draws one picture; the same arguments always give the same result.

    Args:
        config: what scenes are made of.
        split: name of the split.
        index: number of the picture inside the split, from 0.

    Raises:
        UsageError: the configuration leaves no room for its objects, or nothing to say about them.
    """
    described = describe_scene(config, split, index)
    return DrawnScene(
        described.scene,
        described.masks,
        described.hidden_fractions,
        described.expressions,
        paint_scene(config, described.scene),
    )


def paint_scene(config: ScenesConfig, scene: Scene) -> NDArray[np.uint8]:
    """The picture of a scene that `describe_scene` returned, as RGB uint8 (height, width, 3)."""
    chance = Chance(config.seed, scene.split, scene.index, "background")
    return draw_picture(scene, config.size_px, chance, config.background)


def describe_scene(config: ScenesConfig, split: str, index: int) -> DescribedScene:
    """The objects, masks and expressions of a picture, without painting it.

    Args:
        config: what scenes are made of.
        split: name of the split.
        index: number of the picture inside the split, from 0.

    Raises:
        UsageError: the configuration leaves no room for its objects, or nothing to say about them.
    """
    least = _MIN_VISIBLE_FRACTION * config.size_px**2
    failures: Counter[str] = Counter()
    for attempt in range(_ATTEMPTS):
        scene = sample_scene(config, split, index, attempt)
        if scene is None:
            failures["without room for its objects"] += 1
            continue
        masks, whole = draw_masks(scene, config.size_px)
        visible = np.count_nonzero(masks, axis=(1, 2))
        hidden = 1 - visible / np.maximum(whole, 1)
        if visible.min() < least or hidden.max() > config.max_hidden_fraction:
            failures["with too much hidden"] += 1
            continue
        found = expressions(config, scene, Chance(config.seed, split, index, "expressions", attempt))
        num_single = sum(len(expression.targets) == 1 for expression in found)
        if num_single == config.expressions_per_image or (attempt >= _PATIENT_ATTEMPTS and num_single):
            return DescribedScene(scene, masks, tuple(float(share) for share in hidden), tuple(found))
        failures["with too few expressions"] += 1
    reasons = ", ".join(f"{count} {reason}" for reason, count in failures.items())
    raise UsageError(
        f"no scene found for {split}/{index} in {_ATTEMPTS} attempts ({reasons}); ask for fewer objects, allow more "
        "to be hidden, or give other kinds of expression a weight"
    )
