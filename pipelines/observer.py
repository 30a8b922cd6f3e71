"""Who watches a stage from inside: its log lines, its figures, and what its processes use.

A step that has something to count takes `Metrics`, which do nothing unless told otherwise. What runs steps in other
processes (each stage's `pipeline.py`) takes the observer of its own process with it:

    observer = current_observer()            in the driver, before it hands out work
    with observer.here(): ...                in whatever process does the work

Nothing of it reaches an output.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["NULL_OBSERVER", "Metrics", "NullObserver", "Observer", "Observing", "current_observer"]


class Metrics(Protocol):
    """Takes figures by the names of `pipelines.metrics`; called from any thread, as often as it likes."""

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Adds to a counter."""
        ...

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Sets a gauge."""
        ...

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Adds a value to a distribution."""
        ...


class Observer(Metrics, Protocol):
    """Watches one stage of one run; travels to the processes that work for it."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Of which run and stage, by these names; empty where nobody watches."""
        ...

    def here(self, role: str = "worker") -> AbstractContextManager[None]:
        """Until its end, what this process logs, counts and uses belongs to the stage. May be nested.

        Args:
            role: of the process, as its log lines name it.
        """
        ...


class NullObserver:
    """An observer that sees nothing."""

    @property
    def labels(self) -> Mapping[str, str]:
        """None."""
        return {}

    def here(self, role: str = "worker") -> AbstractContextManager[None]:
        """Does nothing."""
        del role
        return nullcontext()

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Ignores it."""

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Ignores it."""

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Ignores it."""


NULL_OBSERVER = NullObserver()
_current: Observer = NULL_OBSERVER


def current_observer() -> Observer:
    """The observer of this process: of the stage that it works for."""
    return _current


class Observing:
    """Makes an observer that of this process until its end, and puts the one before it back.

    A process works for one stage at a time, whichever of its threads does.

    Args:
        observer: of the stage.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer, self._before = observer, observer

    def __enter__(self) -> None:
        global _current
        self._before, _current = _current, self._observer

    def __exit__(self, *_: object) -> None:
        global _current
        _current = self._before
