"""What stands in a scene: objects with looks and places, sampled so that one word is never enough.

Lengths are fractions of the picture's side, x to the right and y down. Objects that come later
in `Scene.objects` lie in front of earlier ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

from pipelines.scenes.chance import Chance
from pipelines.scenes.config import ScenesConfig, ShapeName

__all__ = ["COLOURS", "SHAPES", "SIZES", "TEXTURES", "Scene", "SceneObject", "sample_scene"]

SHAPES: tuple[str, ...] = get_args(ShapeName)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 40),
    "green": (40, 168, 60),
    "blue": (40, 84, 224),
    "yellow": (246, 222, 44),
    "purple": (140, 44, 176),
    "orange": (248, 132, 20),
    "cyan": (52, 208, 220),
    "white": (248, 248, 248),
}
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")

# Radians each shape may turn: a square that turns far looks like a diamond, a heart like a triangle.
_TURN = {"circle": 0.0, "ring": 0.0, "square": 0.2, "diamond": 0.15, "cross": 0.3, "heart": 0.3, "star": 0.6}
_TURN["triangle"] = 0.35

# Distance of the furthest point of a shape from its centre, in radii (see `render.shape_distance_px`).
_REACH = {
    "circle": 0.94,
    "square": 1.19,
    "triangle": 1.15,
    "ring": 1.0,
    "star": 1.12,
    "cross": 1.07,
    "diamond": 1.08,
    "heart": 0.9,
}

_EDGE = 0.016
"""Least distance of an object from the border: a pixel of a picture of 64."""
_GAP = 0.02
"""Least distance of two objects that don't touch: more than a pixel of a picture of 64."""
_DEPTH = 0.6
"""How far two objects may overlap, as a share of the smaller radius: about a fifth of its area."""
_TRIES = 60
_SHADE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One object: its looks in words, its place, and the numbers that draw it.

    `radius` is the half extent of the shape; `texture_angle` and `rotation` are radians;
    `texture_phase` shifts stripes and dots by shares of their period.
    """

    shape: str
    colour: str
    texture: str
    size: str
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0
    rotation: float = 0.0
    rgb: tuple[int, int, int] = (0, 0, 0)
    texture_angle: float = 0.0
    texture_phase: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """The objects of one picture, from back to front."""

    split: str
    index: int
    objects: tuple[SceneObject, ...]


def sample_scene(config: ScenesConfig, split: str, index: int, attempt: int = 0) -> Scene | None:
    """Draws the objects of one picture; the same arguments always give the same scene.

    Args:
        config: what scenes are made of.
        split: name of the split.
        index: number of the picture inside the split, from 0.
        attempt: number of earlier draws for this picture that were turned down.

    Returns:
        The scene, or None if its objects found no room.
    """
    chance = Chance(config.seed, split, index, "scene", attempt)
    num_objects = config.min_objects + chance.below(config.max_objects - config.min_objects + 1)
    looks = _sample_looks(chance, config, num_objects)
    looks.sort(key=lambda look: look.size)  # "large" before "small": large objects need room first
    placed: list[SceneObject] = []
    for look in looks:
        standing = _place(chance, config, look, placed)
        if standing is None:
            return None
        placed.append(standing)
    return Scene(split, index, tuple(chance.sample(placed, len(placed))))


def _sample_looks(chance: Chance, config: ScenesConfig, num_objects: int) -> list[SceneObject]:
    """A grid of two colours by two shapes (or most of it), then twins and mates of what is there.

    In the grid every object shares its colour with one object and its shape with another. A twin
    repeats colour and shape, and mostly differs in size or texture; a mate repeats only one.
    """
    palette = 3 if num_objects <= 6 else 4
    colours = chance.sample(tuple(COLOURS), palette)
    shapes = chance.sample(config.shapes, palette)
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    if num_objects == 3 and chance.happens(0.4):
        cells = [(0, 0), (0, 1) if chance.happens(0.5) else (1, 0)]
    elif num_objects == 3 or chance.happens(0.6 if num_objects == 4 else 0.3):
        cells = cells[:3]
    looks = [_look(chance, config, num_objects, colours[c], shapes[s]) for c, s in cells]
    twin_share = 0.85
    while len(looks) < num_objects:
        origin = chance.choice(looks)
        if chance.happens(twin_share):
            looks.append(_twin(chance, config, origin))
        elif chance.happens(0.5):
            looks.append(_look(chance, config, num_objects, origin.colour, chance.choice(shapes)))
        else:
            looks.append(_look(chance, config, num_objects, chance.choice(colours), origin.shape))
        twin_share = 0.4
    return looks


def _look(chance: Chance, config: ScenesConfig, num_objects: int, colour: str, shape: str) -> SceneObject:
    textures = {texture: 2.0 if texture == "plain" else 1.0 for texture in config.textures}
    large_share = 0.5 if num_objects <= 5 else 0.4 if num_objects <= 7 else 0.3
    return SceneObject(
        shape=shape,
        colour=colour,
        texture=chance.weighted(textures),
        size="large" if chance.happens(large_share) else "small",
    )


def _twin(chance: Chance, config: ScenesConfig, origin: SceneObject) -> SceneObject:
    others = [texture for texture in config.textures if texture != origin.texture]
    roll = chance.random()
    if others and roll < 0.4:
        return replace(origin, texture=chance.choice(others))
    if roll < 0.85:
        return replace(origin, size="small" if origin.size == "large" else "large")
    return origin


def _place(chance: Chance, config: ScenesConfig, look: SceneObject, placed: list[SceneObject]) -> SceneObject | None:
    radius = chance.between(*(config.radii.large if look.size == "large" else config.radii.small))
    neighbours = [other for other in placed if other.colour != look.colour]
    may_touch = bool(neighbours) and chance.happens(config.occlusion_share)
    low = radius * _REACH[look.shape] + _EDGE
    high = 1 - low
    for attempt in range(_TRIES):
        if may_touch and attempt < _TRIES // 2:
            x, y = _against(chance, radius, chance.choice(neighbours))
        else:
            x, y = chance.between(low, high), chance.between(low, high)
        if (
            low <= min(x, y)
            and max(x, y) <= high
            and all(_apart(x, y, radius, look, other, may_touch) for other in placed)
        ):
            break
    else:
        return None
    shade = tuple(min(255, max(0, round(value + chance.between(-_SHADE, _SHADE)))) for value in COLOURS[look.colour])
    assert len(shade) == 3
    return replace(
        look,
        x=x,
        y=y,
        radius=radius,
        rotation=chance.between(-1, 1) * _TURN[look.shape],
        rgb=shade,
        texture_angle=chance.between(0, math.pi),
        texture_phase=(chance.random(), chance.random()),
    )


def _against(chance: Chance, radius: float, other: SceneObject) -> tuple[float, float]:
    """A centre from which an object overlaps another as far as is allowed, or a little less."""
    angle = chance.between(0, 2 * math.pi)
    smaller = min(radius, other.radius)
    distance = radius + other.radius - smaller * chance.between(0.5 * _DEPTH, _DEPTH)
    return other.x + distance * math.cos(angle), other.y + distance * math.sin(angle)


def _apart(x: float, y: float, radius: float, look: SceneObject, other: SceneObject, may_touch: bool) -> bool:
    """Whether two objects leave each other enough room; equal colours never touch."""
    if may_touch and look.colour != other.colour:
        least = radius + other.radius - _DEPTH * min(radius, other.radius)
    else:
        least = radius * _REACH[look.shape] + other.radius * _REACH[other.shape] + _GAP
    return (x - other.x) ** 2 + (y - other.y) ** 2 >= least**2
