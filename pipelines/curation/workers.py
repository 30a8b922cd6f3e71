"""Who does the work of a curation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

__all__ = ["Here", "Workers"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Workers(Protocol):
    """Who does the work."""

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """Results in whatever order they come, each with the place of its item."""
        ...


class Here:
    """Workers that are this process alone."""

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """One after the other."""
        return ((place, function(item)) for place, item in enumerate(items))
