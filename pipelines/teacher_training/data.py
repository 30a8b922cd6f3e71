"""Scenes as training examples: drawn in memory when they are needed, the same for the same seed.

Every picture is drawn once and never seen again, so there is nothing to store and nothing to overfit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.scenes.chance import Chance
from pipelines.scenes.config import ScenesConfig, SplitName
from pipelines.scenes.draw import draw_scene
from pipelines.scenes.render import draw_masks
from pipelines.scenes.world import SHAPES
from storage.recipe import RecipeModel
from teachers.base import Geometry

__all__ = ["BACKGROUND_CLASS", "CLASS_NAMES", "Example", "SceneSource", "draw_batch", "draw_example", "draw_held_out"]

CLASS_NAMES: tuple[str, ...] = (*SHAPES, "background")
"""Things, then the one stuff."""
BACKGROUND_CLASS = len(SHAPES)
"""Class of whatever no object covers."""

_HELD_OUT: SplitName = "val"


class SceneSource(RecipeModel):
    """Scenes of one make, and the size at which the network sees them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Names the source in the figures."""
    scenes: ScenesConfig
    """What the scenes are made of; its `splits` have no meaning here, since pictures are drawn as they are needed."""
    input_px: int = Field(ge=64, multiple_of=32)
    """Side to which pictures are stretched, in pixels; masks are drawn anew at that size, so they are exact."""
    batch_size: int = Field(ge=1)
    """Pictures of a training step."""
    weight: float = Field(default=1.0, gt=0)
    """How often a training step is of this source, relative to the others."""
    from_step: int = Field(default=0, ge=0)
    """First step that may be of this source: what is hard can wait until the easy is learnt."""

    @model_validator(mode="after")
    def _not_smaller(self) -> Self:
        if self.input_px < self.scenes.size_px:
            raise ValueError(
                f"input_px: expected at least the side of the scenes, {self.scenes.size_px} px, got {self.input_px}; "
                "draw smaller scenes"
            )
        return self


@dataclass(frozen=True, slots=True)
class Example:
    """One scene as a network sees it.

    Attributes:
        pixels: the picture as the teacher preprocesses it.
        masks: what is visible of each object: bool (num_objects, side, side), disjoint, from back to front.
        classes: index into `CLASS_NAMES` of each object.
    """

    pixels: Float[Tensor, "3 side side"]
    masks: NDArray[np.bool_]
    classes: tuple[int, ...]

    @property
    def background(self) -> NDArray[np.bool_]:
        """What no object covers: bool (side, side)."""
        return np.logical_not(self.masks.any(axis=0))


def draw_example(source: SceneSource, geometry: Geometry, split: SplitName, index: int) -> Example:
    """Draws one scene; the same arguments always give the same example.

    Args:
        source: what to draw.
        geometry: the teacher's preprocessing, for the source's `input_px`.
        split: `train`, or `val` for what no training step sees.
        index: number of the picture inside the split, from 0.
    """
    drawn = draw_scene(source.scenes, split, index)
    pixels = geometry.preprocess(Image.fromarray(drawn.image))
    assert pixels.shape[1:] == (source.input_px, source.input_px), "the geometry is that of another source"
    masks = drawn.masks
    if source.input_px != source.scenes.size_px:
        masks, _ = draw_masks(drawn.scene, source.input_px)
    return Example(pixels, masks, tuple(SHAPES.index(item.shape) for item in drawn.scene.objects))


def draw_batch(
    sources: Sequence[SceneSource], geometry: Callable[[int], Geometry], seed: int, step: int
) -> list[Example]:
    """The examples of a training step, all of one source.

    Args:
        sources: what to choose from.
        geometry: the teacher's preprocessing for an `input_px`.
        seed: seed of the choice; what the scenes show follows from their own.
        step: number of the step, from 0.
    """
    weights = {number: source.weight for number, source in enumerate(sources) if source.from_step <= step}
    source = sources[Chance(seed, "source", step).weighted(weights)]
    first = step * source.batch_size
    own = geometry(source.input_px)
    return [draw_example(source, own, "train", first + number) for number in range(source.batch_size)]


def draw_held_out(source: SceneSource, geometry: Callable[[int], Geometry], count: int) -> list[Example]:
    """Examples of a split that training never draws from."""
    own = geometry(source.input_px)
    return [draw_example(source, own, _HELD_OUT, index) for index in range(count)]
