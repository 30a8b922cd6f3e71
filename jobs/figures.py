"""Sums of figures: counters, gauges, distributions; they travel from process to process and add up."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pipelines.metrics import METRICS, metric
from storage.keys import Json

__all__ = ["Distribution", "FigureSums", "Figures", "Label", "label_of"]

Label: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a figure, and its labels by name, `stage` among them."""


def label_of(name: str, stage: str, labels: Mapping[str, str]) -> Label:
    """The key of a figure.

    >>> label_of("sailloft_rows_total", "curate", {"outcome": "sample"})
    ('sailloft_rows_total', (('outcome', 'sample'), ('stage', 'curate')))
    """
    return name, tuple(sorted({**labels, "stage": stage}.items()))


@dataclass(slots=True)
class Distribution:
    """How values are distributed."""

    counts: list[int]
    """Values up to each bound and above the one before; the last: above all."""
    count: int = 0
    sum: float = 0.0
    smallest: float = float("inf")
    largest: float = float("-inf")

    @classmethod
    def of(cls, name: str) -> Distribution:
        """An empty one over the bounds of a histogram."""
        return cls([0] * (len(METRICS[name].bounds) + 1))

    def add(self, value: float, bounds: tuple[float, ...]) -> None:
        """Takes in a value."""
        self.counts[bisect_left(bounds, value)] += 1
        self.count += 1
        self.sum += value
        self.smallest, self.largest = min(self.smallest, value), max(self.largest, value)

    def merge(self, other: Distribution) -> None:
        """Takes in all of another one."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.sum += other.sum
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)


@dataclass(slots=True)
class FigureSums:
    """Sums as plain values."""

    counters: dict[Label, float] = field(default_factory=dict[Label, float])
    gauges: dict[Label, float] = field(default_factory=dict[Label, float])
    distributions: dict[Label, Distribution] = field(default_factory=dict[Label, Distribution])

    def merge(self, later: FigureSums) -> None:
        """Adds what came later."""
        for label, amount in later.counters.items():
            self.counters[label] = self.counters.get(label, 0.0) + amount
        self.gauges |= later.gauges
        for label, distribution in later.distributions.items():
            self.distributions.setdefault(label, Distribution.of(label[0])).merge(distribution)

    def total(self, name: str, **labels: str) -> float:
        """Sum of a counter over all its labels but those given."""
        wanted = set(labels.items())
        return sum(amount for (of, have), amount in self.counters.items() if of == name and wanted <= set(have))

    def to_json(self) -> list[Json]:
        """A row per figure: its name, its labels, and its value or what is known of its values."""
        rows: list[Json] = [
            {"name": name, **dict(labels), "value": round(value, 6)}
            for (name, labels), value in sorted([*self.counters.items(), *self.gauges.items()])
        ]
        for (name, labels), values in sorted(self.distributions.items(), key=lambda item: item[0]):
            found: dict[str, Json] = {
                "count": values.count,
                "sum": round(values.sum, 6),
                "smallest": round(values.smallest, 6),
                "largest": round(values.largest, 6),
                "counts": values.counts,
                "bounds": METRICS[name].bounds,
            }
            rows.append({"name": name, **dict(labels), **found})
        return rows

    def __bool__(self) -> bool:
        return bool(self.counters or self.gauges or self.distributions)


class Figures:
    """Figures of one process, added to by any thread and taken out from time to time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = FigureSums()
        self._values: dict[Label, list[float]] = {}

    def count(self, stage: str, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """Adds to a counter."""
        metric(name, "counter", frozenset(labels))
        label = label_of(name, stage, labels)
        with self._lock:
            self._sums.counters[label] = self._sums.counters.get(label, 0.0) + amount

    def set(self, stage: str, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Sets a gauge."""
        metric(name, "gauge", frozenset(labels))
        with self._lock:
            self._sums.gauges[label_of(name, stage, labels)] = value

    def observe(self, stage: str, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Adds a value to a distribution."""
        bounds = metric(name, "histogram", frozenset(labels)).bounds
        label = label_of(name, stage, labels)
        with self._lock:
            self._sums.distributions.setdefault(label, Distribution.of(name)).add(value, bounds)
            self._values.setdefault(label, []).append(value)

    def take(self) -> tuple[FigureSums, dict[Label, list[float]]]:
        """What came since it was taken out the last time, and the values behind its distributions."""
        with self._lock:
            taken = self._sums, self._values
            self._sums, self._values = FigureSums(), {}
        return taken
