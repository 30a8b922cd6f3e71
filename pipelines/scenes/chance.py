"""Seeded draws whose results don't depend on the Python version.

Only `random.Random.random` promises the same sequence for ever, so every choice is made of it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

__all__ = ["Chance"]

T = TypeVar("T")


class Chance:
    """A stream of draws; streams with different names are independent.

    Args:
        name: everything the stream follows from, such as seed, split and index.
    """

    def __init__(self, *name: object) -> None:
        self.random = random.Random("/".join(str(part) for part in name)).random

    def below(self, count: int) -> int:
        """An integer from 0 up to `count - 1`."""
        return int(self.random() * count)

    def between(self, low: float, high: float) -> float:
        """A number from `low` up to, but not including, `high`."""
        return low + (high - low) * self.random()

    def happens(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, each alike."""
        return items[int(self.random() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different places of `items`, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One of the keys, in proportion to its weight."""
        point = self.random() * sum(weights.values())
        chosen = None
        for item, weight in weights.items():
            if weight > 0:
                chosen = item
                point -= weight
                if point < 0:
                    break
        assert chosen is not None, "no key has a positive weight"
        return chosen
