"""The newest metrics of a run, held where the driver can see them; light, since it becomes an actor of its own."""

from __future__ import annotations

__all__ = ["Meter"]


class Meter:
    """Passes the newest metrics of rank 0 to the driver."""

    def __init__(self) -> None:
        self._newest: dict[str, float] = {}

    def put(self, metrics: dict[str, float]) -> None:
        """Replaces what is held."""
        self._newest = metrics

    def get(self) -> dict[str, float]:
        """What was put last; empty before that."""
        return self._newest
