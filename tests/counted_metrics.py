"""Metrics that can be looked at."""

from __future__ import annotations

from pipelines.metrics import metric

__all__ = ["CountedMetrics"]


class CountedMetrics:
    """Keeps what it is told, by name and by the values of labels; refuses what isn't in the table of figures."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}
        self.gauges: dict[tuple[str, ...], float] = {}
        self.values: dict[tuple[str, ...], list[float]] = {}

    def count(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """See `Metrics.count`."""
        metric(name, "counter", frozenset(labels))
        key = (name, *labels.values())
        self.counts[key] = self.counts.get(key, 0.0) + amount

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """See `Metrics.set`."""
        metric(name, "gauge", frozenset(labels))
        self.gauges[name, *labels.values()] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """See `Metrics.observe`."""
        metric(name, "histogram", frozenset(labels))
        self.values.setdefault((name, *labels.values()), []).append(value)
