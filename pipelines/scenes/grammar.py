"""Referring expressions of a scene, each with exactly the objects that it denotes.

An expression is drawn as a meaning, resolved in the scene (see `meaning`), and kept only if

- it denotes its targets and nothing else, and nobody could doubt that (clear margins of place);
- no single word of it would do: colour alone, shape alone or place alone denotes other objects;
- nothing decisive is said in vain: without its size, texture, place or relation it is ambiguous.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from pipelines.scenes.chance import Chance
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.meaning import DIRECTIONS, Phrase, SceneMeaning, numbers
from pipelines.scenes.world import Scene

__all__ = [
    "NO_TARGET",
    "POSITION_KINDS",
    "SEVERAL",
    "Expression",
    "anchor_phrase",
    "expressions",
    "long_expression",
    "say",
    "say_beside",
    "single_expressions",
]

NO_TARGET = "no_target"
SEVERAL = "several"
POSITION_KINDS = frozenset({"position", "relation"})
"""Kinds that speak of places; RefCOCO+ has none of these."""

_TRIES = {"attribute": 4, "size": 4, "position": 14, "relation": 26, "texture": 4}
"""Draws of a kind before another takes its turn: relations are often in vain or in doubt."""
_LARGEST_SHARE = 0.5
"""Largest share of the expressions of a picture that may be about one of its objects."""
_OUTERMOST = {
    "left": ("leftmost",),
    "right": ("rightmost",),
    "above": ("topmost", "highest"),
    "below": ("bottommost", "lowest"),
}
_ON_SIDE = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "above": ("at the top",),
    "below": ("at the bottom",),
}
_BESIDE = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below",),
}
_COUNT_WORDS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, slots=True)
class Expression:
    """A referring expression.

    Attributes:
        text: lower-case words.
        targets: numbers of the denoted objects in `Scene.objects`, ascending; empty: no target.
        kind: a name of `KindWeights`, or `NO_TARGET` or `SEVERAL`.
    """

    text: str
    targets: tuple[int, ...]
    kind: str


_Draw: TypeAlias = Callable[[SceneMeaning, Chance], Expression | None]


def expressions(config: ScenesConfig, scene: Scene, chance: Chance) -> list[Expression]:
    """Draws the expressions of a scene: those with one target first, then several, then none.

    Args:
        config: number of expressions of each sort, weights of the kinds.
        scene: the scene.
        chance: the draws.

    Returns:
        Expressions with different texts; fewer than asked for where the scene offers no more.
    """
    meaning = SceneMeaning(scene)
    return [
        *single_expressions(config.weights.as_dict(), config.expressions_per_image, meaning, chance),
        *_different(_several, config.several_targets_per_image, meaning, chance),
        *_different(_no_target, config.no_target_per_image, meaning, chance),
    ]


def single_expressions(
    weights: Mapping[str, float], num_expressions: int, meaning: SceneMeaning, chance: Chance
) -> list[Expression]:
    """Draws expressions with exactly one target.

    Args:
        weights: how often each kind is tried; a kind that gives nothing leaves its turn to another.
        num_expressions: how many to draw.
        meaning: the scene.
        chance: the draws.

    Returns:
        Expressions with different texts, no more than half of them about one object; fewer than
        asked for where the scene offers no more.
    """
    found: dict[str, Expression] = {}
    per_target: Counter[tuple[int, ...]] = Counter()
    most = math.ceil(num_expressions * _LARGEST_SHARE)
    for _ in range(num_expressions):
        left = {kind: weight for kind, weight in weights.items() if weight > 0}
        expression = None
        while left and expression is None:
            kind = chance.weighted(left)
            del left[kind]
            for _ in range(_TRIES[kind]):
                expression = _DRAWS[kind](meaning, chance)
                if expression is not None and expression.text not in found and per_target[expression.targets] < most:
                    break
                expression = None
        if expression is None:
            break
        found[expression.text] = expression
        per_target[expression.targets] += 1
    return list(found.values())


def _different(draw: _Draw, count: int, meaning: SceneMeaning, chance: Chance) -> list[Expression]:
    """Up to `count` expressions with different texts, with a dozen tries for each."""
    found: dict[str, Expression] = {}
    for _ in range(12 * count):
        if len(found) == count:
            break
        expression = draw(meaning, chance)
        if expression is not None:
            found[expression.text] = expression
    return list(found.values())


def say(phrase: Phrase, plural: bool = False) -> str:
    """The words of a noun phrase, with `object` for the shape it doesn't name.

    >>> say(Phrase(size="small", colour="red"))
    'small red object'
    """
    words = phrase.words() if phrase.shape is not None else (*phrase.words(), "object")
    text = " ".join(words)
    if plural:
        text += "es" if text.endswith("s") else "s"
    return text


def say_beside(direction: str, anchor: Phrase, chance: Chance) -> str:
    """A place beside an object, as in `to the left of the blue square`."""
    return f"{chance.choice(_BESIDE[direction])} the {say(anchor)}"


def _name(phrase: Phrase, moved: str | None, chance: Chance) -> str:
    """A noun phrase with or without its article, or with one of its words moved behind it."""
    roll = chance.random()
    if roll < 0.25:
        return say(phrase)
    if roll < 0.5 and moved is not None:
        word = getattr(phrase, moved)
        return f"the {say(replace(phrase, **{moved: None}))} that is {word}"
    return f"the {say(phrase)}"


def _of_looks(kind: str) -> _Draw:
    """Draws of an object that its looks tell apart: colour and shape, or a size or texture that decides."""

    def draw(meaning: SceneMeaning, chance: Chance) -> Expression | None:
        found = _telling_phrases(meaning, kind)
        if not found:
            return None
        number, phrases = chance.choice(found)
        phrase = chance.choice(phrases)
        moved = "colour" if kind == "attribute" else kind
        return Expression(_name(phrase, moved, chance), (number,), kind)

    return draw


@lru_cache(maxsize=4)
def _telling_phrases(meaning: SceneMeaning, kind: str) -> tuple[tuple[int, tuple[Phrase, ...]], ...]:
    """Objects with the phrases that denote them, and that don't without the word that the kind is about.

    Longer phrases stand there several times, so that they are drawn more often.
    """
    found: list[tuple[int, tuple[Phrase, ...]]] = []
    for number in range(len(meaning.scene.objects)):
        looks, target = meaning.looks(number), 1 << number
        both = Phrase(colour=looks.colour, shape=looks.shape)
        if kind == "attribute":
            phrases = [both]
        else:
            longer = (both, both, both, both, replace(both, colour=None), replace(both, colour=None))
            without = [phrase for phrase in (*longer, replace(both, shape=None)) if meaning.phrase(phrase) != target]
            phrases = [replace(phrase, **{kind: getattr(looks, kind)}) for phrase in without]
        telling = tuple(phrase for phrase in phrases if _tells(meaning, phrase, target))
        if telling:
            found.append((number, telling))
    return tuple(found)


def _tells(meaning: SceneMeaning, phrase: Phrase, target: int) -> bool:
    """Whether a phrase denotes the target, and none of its words alone does."""
    return meaning.phrase(phrase) == target and all(meaning.word(word) != target for word in phrase.words())


def _candidates(meaning: SceneMeaning, chance: Chance, number: int) -> Phrase:
    """A phrase that fits an object and, with luck, others too: what a place then decides."""
    looks = meaning.looks(number)
    roll = chance.random()
    if roll < 0.35:
        return Phrase(shape=looks.shape)
    if roll < 0.55:
        return Phrase(colour=looks.colour)
    if roll < 0.85:
        return Phrase(colour=looks.colour, shape=looks.shape)
    if roll < 0.93:
        return Phrase(size=looks.size, shape=looks.shape)
    return Phrase(texture=looks.texture, shape=looks.shape)


def _position(meaning: SceneMeaning, chance: Chance) -> Expression | None:
    number = chance.below(len(meaning.scene.objects))
    phrase = _candidates(meaning, chance, number)
    target, among = 1 << number, meaning.phrase(phrase)
    direction = chance.choice(DIRECTIONS)
    if among == target:
        return None
    article = "" if chance.happens(0.25) else "the "
    if chance.happens(0.6):
        if meaning.outermost(direction, among) != target or meaning.first_towards(direction) == target:
            return None
        text = f"{article}{chance.choice(_OUTERMOST[direction])} {say(phrase)}"
    else:
        if meaning.on_side(direction, among) != target or meaning.on_side(direction, meaning.everything) == target:
            return None
        text = f"{article}{say(phrase)} {chance.choice(_ON_SIDE[direction])}"
    return Expression(text, (number,), "position")


def anchor_phrase(meaning: SceneMeaning, chance: Chance, number: int) -> Phrase | None:
    """A phrase that denotes one object alone, as short as a dice roll allows; None if there is none."""
    looks = meaning.looks(number)
    target = 1 << number
    for phrase in (
        Phrase(shape=looks.shape) if chance.happens(0.4) else Phrase(colour=looks.colour, shape=looks.shape),
        Phrase(colour=looks.colour, shape=looks.shape),
        Phrase(size=looks.size, colour=looks.colour, shape=looks.shape),
        Phrase(texture=looks.texture, colour=looks.colour, shape=looks.shape),
        looks,
    ):
        if meaning.phrase(phrase) == target:
            return phrase
    return None


def _relation(meaning: SceneMeaning, chance: Chance) -> Expression | None:
    number = chance.below(len(meaning.scene.objects))
    looks = meaning.looks(number)
    phrase = looks if chance.happens(0.15) else _candidates(meaning, chance, number)
    target, among = 1 << number, meaning.phrase(phrase)
    if among == target:
        return None
    beside = _place_beside(meaning, chance, number, among)
    if beside is None:
        return None
    direction, anchor, place = beside
    if meaning.beside(direction, anchor, meaning.everything) == target:
        return None
    link = " that is " if chance.happens(0.2) else " "
    article = "" if chance.happens(0.15) else "the "
    return Expression(f"{article}{say(phrase)}{link}{place}", (number,), "relation")


def _place_beside(meaning: SceneMeaning, chance: Chance, number: int, among: int) -> tuple[str, int, str] | None:
    """A direction and an object beside which, of the candidates, only the target lies."""
    anchor = chance.below(len(meaning.scene.objects))
    direction = chance.choice(DIRECTIONS)
    if anchor == number or meaning.beside(direction, anchor, among) != 1 << number:
        return None
    phrase = anchor_phrase(meaning, chance, anchor)
    if phrase is None:
        return None
    return direction, anchor, say_beside(direction, phrase, chance)


def long_expression(meaning: SceneMeaning, chance: Chance, number: int) -> Expression | None:
    """A long expression, as in RefCOCOg: all looks of an object and its place beside another.

    The looks alone may already denote the object; together with the place they always do.
    """
    looks = meaning.looks(number)
    among = meaning.phrase(looks)
    for _ in range(_TRIES["relation"]):
        beside = _place_beside(meaning, chance, number, among)
        if beside is not None:
            link = chance.choice((" that is ", " ", ", "))
            return Expression(f"the {say(looks)}{link}{beside[2]}", (number,), "relation")
    return None


def _several(meaning: SceneMeaning, chance: Chance) -> Expression | None:
    number = chance.below(len(meaning.scene.objects))
    if chance.happens(0.35):
        return _pair(meaning, chance, number)
    looks = meaning.looks(number)
    phrase = chance.choice(
        (
            Phrase(colour=looks.colour),
            Phrase(shape=looks.shape),
            Phrase(size=looks.size, shape=looks.shape),
            Phrase(texture=looks.texture, colour=looks.colour),
            Phrase(colour=looks.colour, shape=looks.shape),
        )
    )
    bits = meaning.phrase(phrase)
    targets = tuple(numbers(bits))
    if len(targets) < 2 or bits == meaning.everything:
        return None
    opening = "all"
    if len(targets) in _COUNT_WORDS and chance.happens(0.5):
        opening = f"the {_COUNT_WORDS[len(targets)]}"
    return Expression(f"{opening} {say(phrase, plural=True)}", targets, SEVERAL)


def _pair(meaning: SceneMeaning, chance: Chance, number: int) -> Expression | None:
    other = chance.below(len(meaning.scene.objects))
    if other == number:
        return None
    first, second = anchor_phrase(meaning, chance, number), anchor_phrase(meaning, chance, other)
    if first is None or second is None:
        return None
    targets = (min(number, other), max(number, other))
    return Expression(f"the {say(first)} and the {say(second)}", targets, SEVERAL)


def _no_target(meaning: SceneMeaning, chance: Chance) -> Expression | None:
    """Words that all occur in the scene, in a combination that doesn't."""
    objects = meaning.scene.objects
    one, other = chance.choice(objects), chance.choice(objects)
    phrase = Phrase(colour=one.colour, shape=other.shape)
    moved = "colour"
    roll = chance.random()
    if roll < 0.15:
        phrase, moved = replace(phrase, shape=one.shape, size=other.size), "size"
    elif roll < 0.3:
        phrase, moved = replace(phrase, shape=one.shape, texture=other.texture), "texture"
    if meaning.phrase(phrase):
        return None
    return Expression(_name(phrase, moved, chance), (), NO_TARGET)


_DRAWS: dict[str, _Draw] = {
    "attribute": _of_looks("attribute"),
    "size": _of_looks("size"),
    "position": _position,
    "relation": _relation,
    "texture": _of_looks("texture"),
}
