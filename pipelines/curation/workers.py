"""Who does the work of a curation."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

__all__ = ["Here", "Workers", "collecting_seldom"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_OBJECTS_PER_COLLECTION = 100_000
"""Python's own number is 700."""


class Workers(Protocol):
    """Who does the work."""

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """Results in whatever order they come, each with the place of its item."""
        ...


class Here:
    """Workers that are this process alone."""

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """One after the other."""
        for place, item in enumerate(items):
            with collecting_seldom():
                result = function(item)
            yield place, result


@contextmanager
def collecting_seldom() -> Generator[None]:
    """Python looks for objects that only hold each other less often: hardly any of ours do.

    Records live until those of a shard are written, and going through them again and again took a seventh of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_PER_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
