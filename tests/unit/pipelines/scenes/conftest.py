"""Scenes that several tests look at, and a second reading of expressions to check the first by.

The second reading knows nothing but the text and the objects, and compares centres plainly.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pipelines.scenes import DrawnScene, ScenesConfig, draw_scene
from pipelines.scenes.world import Scene

_BESIDE = re.compile(r",? (?:that is )?(?:to the )?(left of|right of|above|below) the (.+)")
_ON_SIDE = re.compile(r" (?:on|at) the (left|right|top|bottom)(?: side)?$")
_AXES = {
    "left": ("x", -1),
    "right": ("x", 1),
    "above": ("y", -1),
    "top": ("y", -1),
    "below": ("y", 1),
    "bottom": ("y", 1),
}
_OUTERMOST = {
    "leftmost": "left",
    "rightmost": "right",
    "topmost": "above",
    "highest": "above",
    "bottommost": "below",
    "lowest": "below",
}
_PLURALS = {"crosses": "cross", "objects": "object"}


@pytest.fixture(scope="session")
def config() -> ScenesConfig:
    """Scenes of every number of objects, small ones."""
    return ScenesConfig(min_objects=3, max_objects=9, size_px=64, several_targets_per_image=2, no_target_per_image=2)


@pytest.fixture(scope="session")
def scenes(config: ScenesConfig) -> list[DrawnScene]:
    """Three hundred of them."""
    return [draw_scene(config, "train", index) for index in range(300)]


@pytest.fixture(scope="session")
def denoted() -> Callable[[str, Scene], set[int]]:
    """Gives the numbers of the objects that a text denotes in a scene."""
    return _denoted


def _denoted(text: str, scene: Scene) -> set[int]:
    if " and the " in text:
        return set.union(*(_denoted(part, scene) for part in text.split(" and ")))
    beside = _BESIDE.search(text)
    if beside is not None:
        (anchor,) = _denoted(beside[2], scene)
        axis, sign = _AXES[beside[1].removesuffix(" of")]
        edge = sign * getattr(scene.objects[anchor], axis) + 0.06
        among = _denoted(text[: beside.start()], scene) - {anchor}
        return {number for number in among if sign * getattr(scene.objects[number], axis) > edge}
    side = _ON_SIDE.search(text)
    if side is not None:
        axis, sign = _AXES[side[1]]
        among = _denoted(text[: side.start()], scene)
        return {number for number in among if sign * (getattr(scene.objects[number], axis) - 0.5) > 0}
    return _by_words(text.replace(" that is ", " ").split(), scene)


def _by_words(words: list[str], scene: Scene) -> set[int]:
    among, outermost, count = set(range(len(scene.objects))), None, None
    for word in words:
        if word in ("the", "all", "object", "objects"):
            continue
        if word in _OUTERMOST:
            outermost = _OUTERMOST[word]
        elif word in ("two", "three", "four"):
            count = {"two": 2, "three": 3, "four": 4}[word]
        else:
            among = {number for number in among if _fits(word, scene, number)}
    if outermost is not None:
        axis, sign = _AXES[outermost]
        among = {max(among, key=lambda number: sign * getattr(scene.objects[number], axis))}
    assert count is None or len(among) == count, f"{words} of {len(among)} objects"
    return among


def _fits(word: str, scene: Scene, number: int) -> bool:
    item = scene.objects[number]
    singular = _PLURALS.get(word, word)
    looks = (item.shape, item.colour, item.texture, item.size)
    return singular in looks or singular.removesuffix("s") in looks
