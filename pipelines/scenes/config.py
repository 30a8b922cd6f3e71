"""What a set of synthetic scenes is made of."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from storage.recipe import RecipeModel

__all__ = ["KindWeights", "Radii", "ScenesConfig", "ShapeName", "SplitName", "SplitSizes"]

ShapeName = Literal["circle", "square", "triangle", "ring", "star", "cross", "diamond", "heart"]
"""The shapes that can be drawn."""

SplitName = Literal["train", "val", "testA", "testB"]
"""The splits of a RefCOCO folder; the image ids of different splits never meet."""


class SplitSizes(RecipeModel):
    """How many pictures each split has."""

    train: int = Field(default=3000, ge=0, le=900_000)
    """Number of pictures of the training split."""
    val: int = Field(default=300, ge=0, le=900_000)
    """Number of pictures of the validation split."""
    testA: int = Field(default=0, ge=0, le=900_000)
    """Number of pictures of the first test split."""
    testB: int = Field(default=0, ge=0, le=900_000)
    """Number of pictures of the second test split."""

    def counts(self) -> tuple[tuple[SplitName, int], ...]:
        """Split names with their number of pictures, empty splits included, in a fixed order."""
        return (("train", self.train), ("val", self.val), ("testA", self.testA), ("testB", self.testB))


class KindWeights(RecipeModel):
    """How often each kind of single-target expression is tried, relative to the others.

    A kind that a scene doesn't offer (no two objects alike but for their size, say) gives its
    turn to the next one, so shares of the output only come near these weights.
    """

    attribute: float = Field(default=0.45, ge=0)
    """Colour and shape: "the red circle"."""
    size: float = Field(default=0.15, ge=0)
    """Size, where the words without it fit several: "the small red circle"."""
    position: float = Field(default=0.15, ge=0)
    """Place in the picture: "the leftmost circle", "the green square on the right"."""
    relation: float = Field(default=0.15, ge=0)
    """Place beside another object: "the star above the red circle"."""
    texture: float = Field(default=0.10, ge=0)
    """Texture, where the words without it fit several: "the striped ring"."""

    @model_validator(mode="after")
    def _some_kind(self) -> Self:
        if not any(self.as_dict().values()):
            raise ValueError("all weights of expression kinds are 0; give at least one a positive weight")
        return self

    def as_dict(self) -> dict[str, float]:
        """Weights by kind, in a fixed order."""
        return {
            "attribute": self.attribute,
            "size": self.size,
            "position": self.position,
            "relation": self.relation,
            "texture": self.texture,
        }


class Radii(RecipeModel):
    """Radii from least to most of each size, as shares of the picture's side (a radius is the half extent)."""

    small: tuple[float, float] = (0.07, 0.09)
    """Of a small object."""
    large: tuple[float, float] = (0.14, 0.19)
    """Of a large object."""

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        for name, (least, most) in (("small", self.small), ("large", self.large)):
            if not 0.03 <= least <= most <= 0.3:
                raise ValueError(f"{name}: expected radii from least to most in 0.03 to 0.3, got {[least, most]}")
        if self.large[0] < 1.5 * self.small[1]:
            raise ValueError(
                f"large: expected at least 1.5 times the largest small radius, {self.small[1]}, so that the words "
                f"can be told apart; got {self.large[0]}"
            )
        return self


class ScenesConfig(RecipeModel):
    """Pictures of coloured shapes with exact masks, and expressions that need more than one word.

    Lengths inside a scene are fractions of the picture's side; only drawing turns them into pixels.
    """

    seed: int = 0
    """Everything follows from it together with the split and the index of a picture."""
    size_px: int = Field(default=96, ge=64, le=512)
    """Side of the square pictures, in pixels."""
    splits: SplitSizes = SplitSizes()
    """Number of pictures of each split."""
    min_objects: int = Field(default=3, ge=3, le=9)
    """Least number of objects in a picture."""
    max_objects: int = Field(default=6, ge=3, le=9)
    """Largest number of objects in a picture."""
    expressions_per_image: int = Field(default=8, ge=1, le=24)
    """Number of different expressions with exactly one target; a poor scene may offer fewer."""
    no_target_per_image: int = Field(default=1, ge=0, le=8)
    """Number of expressions of a picture that fit none of its objects, though each word fits some."""
    several_targets_per_image: int = Field(default=1, ge=0, le=8)
    """Number of expressions of a picture that name two or more objects."""
    visual_text_per_image: int = Field(default=3, ge=0, le=12)
    """Number of questions that point at an object of the picture to ask for another."""
    captions: Literal["none", "pictures", "objects"] = "none"
    """Whether captions are written too, in WebDataset shards: of whole pictures, or of each object cut out."""
    weights: KindWeights = KindWeights()
    """How often each kind of single-target expression is tried."""
    shapes: tuple[ShapeName, ...] = get_args(ShapeName)
    """Shapes that occur, four or more. A small student learns to tell colours apart at once and shapes late."""
    radii: Radii = Radii()
    """How large small and large objects are."""
    textures: tuple[Literal["plain", "striped", "dotted"], ...] = ("plain", "striped", "dotted")
    """Textures of objects; `plain` is drawn twice as often as any other."""
    background: Literal["plain", "textured"] = "textured"
    """One colour, or gradients, smooth noise and faint stripes; never of an object's colour."""
    occlusion_share: float = Field(default=0.35, ge=0, le=1)
    """Share of the objects that may touch and cover others."""
    max_hidden_fraction: float = Field(default=0.35, ge=0, le=0.6)
    """Largest share of an object's area that other objects may cover."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects {self.min_objects} is more than max_objects {self.max_objects}")
        if len(set(self.shapes)) != len(self.shapes) or len(self.shapes) < 4:
            raise ValueError(f"shapes must name four or more, each once; got {list(self.shapes)}")
        if not self.textures or len(set(self.textures)) != len(self.textures):
            raise ValueError(f"textures must name one or more, each once; got {list(self.textures)}")
        return self
