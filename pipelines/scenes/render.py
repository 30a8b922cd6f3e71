"""Draws scenes: anti-aliased pictures and the exact masks of what is visible.

Every shape is a signed distance (negative inside, in pixels) on the window around it; a pixel
whose centre lies inside belongs to the mask, and one that the edge crosses is blended.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.scenes.chance import Chance
from pipelines.scenes.world import Scene, SceneObject

__all__ = ["draw_masks", "draw_picture", "shape_distance_px"]

Floats = NDArray[np.floating]
Bits = NDArray[np.bool_]

# Areas of shapes within the same extent differ by a factor of 3; these bring them together, so
# that "small" and "large" read alike for all shapes.
_EXTENT = {
    "circle": 0.94,
    "square": 0.84,
    "triangle": 1.0,
    "ring": 1.0,
    "star": 1.12,
    "cross": 1.0,
    "diamond": 1.08,
    "heart": 1.0,
}
_STRIPE_PERIOD = 0.052
_DOT_PERIOD = 0.058
_DOT_RADIUS = 0.30
_INK = 0.34
_FIFTH = 2 * math.pi / 5


def draw_masks(scene: Scene, size_px: int) -> tuple[Bits, NDArray[np.int64]]:
    """Masks of what is visible of each object.

    Args:
        scene: what to draw.
        size_px: side of the picture.

    Returns:
        masks: bool (num_objects, height, width), disjoint.
        whole_areas_px: number of pixels of each object before others cover it.
    """
    masks = np.zeros((len(scene.objects), size_px, size_px), dtype=np.bool_)
    areas = np.zeros(len(scene.objects), dtype=np.int64)
    covered = np.zeros((size_px, size_px), dtype=np.bool_)
    for number in range(len(scene.objects) - 1, -1, -1):
        window, distance, _, _ = _window(scene.objects[number], size_px)
        inside = distance < 0
        areas[number] = np.count_nonzero(inside)
        masks[number][window] = inside & ~covered[window]
        covered[window] |= inside
    return masks, areas


def draw_picture(scene: Scene, size_px: int, chance: Chance, background: str) -> NDArray[np.uint8]:
    """The picture of a scene as RGB (height, width, 3).

    Args:
        scene: what to draw.
        size_px: side of the picture.
        chance: draws of the background.
        background: `plain` or `textured`.
    """
    canvas = _background(chance, size_px, background)
    for item in scene.objects:
        window, distance, across, along = _window(item, size_px)
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        paint = np.array(item.rgb, dtype=np.float32)
        if item.texture != "plain":
            ink = _ink(item, across, along, size_px)[..., None]
            paint = paint * (1 - ink * (1 - _INK))
        canvas[window] += (paint - canvas[window]) * cover
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def _window(item: SceneObject, size_px: int) -> tuple[tuple[slice, slice], Floats, Floats, Floats]:
    """The window around an object, the distances there, and offsets from its centre in pixels."""
    reach = item.radius * size_px * 1.25 + 2
    centre_x, centre_y = item.x * size_px, item.y * size_px
    left, right = max(0, int(centre_x - reach)), min(size_px, int(centre_x + reach) + 1)
    top, bottom = max(0, int(centre_y - reach)), min(size_px, int(centre_y + reach) + 1)
    across = (np.arange(left, right, dtype=np.float32) + (0.5 - centre_x))[None, :]
    down = (np.arange(top, bottom, dtype=np.float32) + (0.5 - centre_y))[:, None]
    cosine, sine = math.cos(item.rotation), math.sin(item.rotation)
    turned_x, turned_y = cosine * across + sine * down, cosine * down - sine * across
    distance = shape_distance_px(item.shape, turned_x, turned_y, item.radius * size_px)
    return (slice(top, bottom), slice(left, right)), distance, across, down


def shape_distance_px(shape: str, x: Floats, y: Floats, radius_px: float) -> Floats:
    """Signed distance to the edge of a shape, near enough to it for anti-aliasing.

    Args:
        shape: one of `SHAPES`.
        x: offsets to the right of the centre, in pixels.
        y: offsets below the centre, in pixels, broadcastable with `x`.
        radius_px: half extent of the object.
    """
    r = radius_px * _EXTENT[shape]
    if shape == "circle":
        return np.sqrt(x * x + y * y) - r
    if shape == "ring":
        return np.abs(np.sqrt(x * x + y * y) - 0.72 * r) - 0.28 * r
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - r
    if shape == "cross":
        wide, high = np.abs(x), np.abs(y)
        arm, thick = r, 0.36 * r
        return np.minimum(np.maximum(wide - arm, high - thick), np.maximum(wide - thick, high - arm))
    if shape == "diamond":
        half_width = 0.66
        slope = math.hypot(1, half_width)
        return (np.abs(x) + half_width * np.abs(y) - half_width * r) / slope
    if shape == "triangle":
        low = y - 0.25 * r
        side = math.cos(math.pi / 6) * np.abs(x) - 0.5 * low
        return np.maximum(side, low) - 0.5 * r
    if shape == "star":
        return _star_distance(x, y, r)
    assert shape == "heart", f"no such shape: {shape}"
    return _heart_distance(x, y, r)


def _star_distance(x: Floats, y: Floats, r: float) -> Floats:
    """A pentagram: all points that lie outside at most one of the five lines."""
    sides = np.stack([math.sin(turn * _FIFTH) * x - math.cos(turn * _FIFTH) * y for turn in range(5)])
    sides.sort(axis=0)
    return sides[3] - math.cos(_FIFTH) * r


def _heart_distance(x: Floats, y: Floats, r: float) -> Floats:
    """A square on its corner with a disc on each of its upper sides."""
    half = 0.5 * r
    shifted = y - 0.18 * r
    root = math.sqrt(0.5)
    u, v = root * (x + shifted), root * (shifted - x)
    box = np.maximum(np.abs(u), np.abs(v)) - half
    # The upper sides face (-u) and (-v): their middles carry the discs.
    left = np.sqrt((u + half) ** 2 + v * v) - half
    right = np.sqrt(u * u + (v + half) ** 2) - half
    return np.minimum(box, np.minimum(left, right))


def _ink(item: SceneObject, across: Floats, down: Floats, size_px: int) -> Floats:
    """How dark each pixel of the texture is, from 0 to 1."""
    cosine, sine = math.cos(item.texture_angle), math.sin(item.texture_angle)
    u, v = cosine * across + sine * down, cosine * down - sine * across
    if item.texture == "striped":
        period = _STRIPE_PERIOD * size_px
        return np.clip(period / 4 - _to_nearest(u, period, item.texture_phase[0]) + 0.5, 0, 1)
    period = _DOT_PERIOD * size_px
    du, dv = _to_nearest(u, period, item.texture_phase[0]), _to_nearest(v, period, item.texture_phase[1])
    return np.clip(period * _DOT_RADIUS - np.sqrt(du * du + dv * dv) + 0.5, 0, 1)


def _to_nearest(u: Floats, period: float, phase: float) -> Floats:
    """Distance to the nearest of the lines that repeat with a period."""
    turns = u / period + phase
    return np.abs(turns - np.round(turns)) * period


def _background(chance: Chance, size_px: int, background: str) -> Floats:
    """Muted colours of middle brightness: no object has such a colour."""
    level = chance.between(70, 140)
    first = np.array([level + chance.between(-14, 14) for _ in range(3)], dtype=np.float32)
    if background == "plain":
        return np.broadcast_to(first, (size_px, size_px, 3)).copy()
    second = first + np.array([chance.between(-26, 26) for _ in range(3)], dtype=np.float32)
    places = _places(size_px)
    angle = chance.between(0, 2 * math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    slope = (cosine * places[None, :] + sine * places[:, None]) * 0.7 + 0.5
    relief = _smooth_noise(chance, size_px, 5, 15) + _smooth_noise(chance, size_px, 17, 8)
    if chance.happens(0.4):
        period = chance.between(0.06, 0.16)
        lines = _to_nearest(cosine * places[:, None] - sine * places[None, :], period, chance.random())
        relief += (lines / period - 0.25) * chance.between(16, 30)
    return first + (second - first) * slope[..., None] + relief[..., None]


def _smooth_noise(chance: Chance, size_px: int, num_cells: int, height: float) -> Floats:
    """A grid of random values stretched over the picture, without matrix products: those differ by machine."""
    values = [chance.between(-height, height) for _ in range(num_cells * num_cells)]
    grid = np.array(values, dtype=np.float32).reshape(num_cells, num_cells)
    low, share = _between_cells(size_px, num_cells)
    rows = grid[low] + (grid[low + 1] - grid[low]) * share[:, None]
    return rows[:, low] + (rows[:, low + 1] - rows[:, low]) * share


@lru_cache(maxsize=16)
def _places(size_px: int) -> Floats:
    """Centres of the pixels along a side, from -0.5 to 0.5."""
    return ((np.arange(size_px) + 0.5) / size_px - 0.5).astype(np.float32)


@lru_cache(maxsize=16)
def _between_cells(size_px: int, num_cells: int) -> tuple[NDArray[np.int64], Floats]:
    """For each pixel along a side the cell before it, and how far it is towards the next, eased."""
    at = (np.arange(size_px) + 0.5) / size_px * (num_cells - 1)
    low = np.minimum(at.astype(np.int64), num_cells - 2)
    share = at - low
    return low, (share * share * (3 - 2 * share)).astype(np.float32)
