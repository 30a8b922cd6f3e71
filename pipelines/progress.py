"""How a stage tells whoever runs it how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["NullProgress", "Progress"]


class Progress(Protocol):
    """Receives the state of one running stage; called from the stage's own process, as often as it likes."""

    def update(self, done: int, total: int, **facts: object) -> None:
        """Reports that `done` of `total` units are finished.

        Args:
            done: finished units, counting those of an earlier, interrupted run.
            total: units in all; 0 while it isn't known.
            **facts: what else is worth showing, by name, such as `unit="images"`, `rejects=3` or `loss=0.41`.
        """
        ...


class NullProgress:
    """A progress that nobody watches."""

    def update(self, done: int, total: int, **facts: object) -> None:
        """Ignores the report."""
