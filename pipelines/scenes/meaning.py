"""What noun phrases and places mean in a scene: sets of objects, as bits of an integer.

Words of place hold only where nobody would doubt them: an object is left of another when its
centre is at least `CLEAR` further left, it is not when it is at most `LEVEL` further left, and
between the two the answer is `None`: the scene doesn't decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.scenes.world import Scene

__all__ = ["CLEAR", "DIRECTIONS", "LEVEL", "Phrase", "SceneMeaning", "numbers"]

CLEAR = 0.1
"""Shares of the side from which on a difference of place is plain."""
LEVEL = 0.02
"""Shares of the side up to which two centres count as level."""
_SIDE = 0.07
"""Shares of the side that an object must be off the middle to be "on the left"."""
DIRECTIONS = ("left", "right", "above", "below")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """The words of a noun phrase; None: the word is left out."""

    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None

    def words(self) -> tuple[str, ...]:
        """The words that are there, in the order in which they are said."""
        return tuple(word for word in (self.size, self.texture, self.colour, self.shape) if word is not None)


class SceneMeaning:
    """Answers which objects of one scene a phrase or a place denotes.

    Args:
        scene: the scene; bit k of every answer stands for `scene.objects[k]`.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.everything = (1 << len(scene.objects)) - 1
        self._looks = [
            Phrase(size=item.size, texture=item.texture, colour=item.colour, shape=item.shape) for item in scene.objects
        ]
        self._word_bits: dict[str, int] = {}
        for number, looks in enumerate(self._looks):
            for word in looks.words():
                self._word_bits[word] = self._word_bits.get(word, 0) | 1 << number
        # How far each object lies in each direction.
        self._reach = {
            "left": [-item.x for item in scene.objects],
            "right": [item.x for item in scene.objects],
            "above": [-item.y for item in scene.objects],
            "below": [item.y for item in scene.objects],
        }

    def word(self, word: str) -> int:
        """Objects that a size, texture, colour or shape word fits."""
        return self._word_bits.get(word, 0)

    def phrase(self, phrase: Phrase) -> int:
        """Objects that all words of a noun phrase fit."""
        bits, word_bits = self.everything, self._word_bits
        for word in (phrase.shape, phrase.colour, phrase.size, phrase.texture):
            if word is not None:
                bits &= word_bits.get(word, 0)
        return bits

    def looks(self, number: int) -> Phrase:
        """Everything that can be said about the looks of an object."""
        return self._looks[number]

    def outermost(self, direction: str, among: int) -> int | None:
        """The one object that lies furthest in a direction; None if it isn't ahead by `CLEAR`."""
        reach = self._reach[direction]
        ranked = sorted(((reach[number], number) for number in numbers(among)), reverse=True)
        if not ranked or (len(ranked) > 1 and ranked[0][0] - ranked[1][0] < CLEAR):
            return None
        return 1 << ranked[0][1]

    def first_towards(self, direction: str) -> int:
        """The object of the whole scene that lies furthest in a direction, be it by a hair."""
        reach = self._reach[direction]
        return 1 << max(range(len(reach)), key=reach.__getitem__)

    def on_side(self, direction: str, among: int) -> int | None:
        """Objects in one half of the picture; None if one of them lies about the middle."""
        middle = -0.5 if direction in ("left", "above") else 0.5
        reach, bits = self._reach[direction], 0
        for number in numbers(among):
            off = reach[number] - middle
            if abs(off) < _SIDE:
                return None
            if off > 0:
                bits |= 1 << number
        return bits

    def beside(self, direction: str, anchor: int, among: int) -> int | None:
        """Objects that lie in a direction of an object; None if that isn't plain for one of them."""
        reach, bits = self._reach[direction], 0
        for number in numbers(among & ~(1 << anchor)):
            ahead = reach[number] - reach[anchor]
            if LEVEL < ahead < CLEAR:
                return None
            if ahead >= CLEAR:
                bits |= 1 << number
        return bits


def numbers(bits: int) -> Iterator[int]:
    """The numbers of the objects in a set, in ascending order."""
    number = 0
    while bits:
        if bits & 1:
            yield number
        bits >>= 1
        number += 1
