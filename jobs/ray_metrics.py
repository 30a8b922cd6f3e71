"""Figures as Ray's own, which each node shows to Prometheus."""

from __future__ import annotations

import sys
from typing import Any

from jobs.figures import FigureSums, Label
from pipelines.metrics import METRICS

__all__ = ["RayPublisher"]

_MAX_KEPT_VALUES = 10_000
"""Of distributions, while there is no session that takes them."""


class RayPublisher:
    """Hands the figures of this process to Ray; before there is a session they wait for it."""

    def __init__(self) -> None:
        self._session: object = None
        self._metrics: dict[str, Any] = {}
        self._waiting = FigureSums()
        self._values: dict[Label, list[float]] = {}

    def publish(self, sums: FigureSums, values: dict[Label, list[float]]) -> None:
        """Adds what came since the last call.

        Args:
            sums: of it.
            values: of its distributions.
        """
        self._waiting.merge(sums)
        for label, found in values.items():
            kept = self._values.setdefault(label, [])
            kept += found[: _MAX_KEPT_VALUES - len(kept)]
        session = _session()
        if session is None:
            return
        if session != self._session:  # metrics are bound to the session in which they were made
            self._session, self._metrics = session, {}
        for (name, labels), amount in self._waiting.counters.items():
            if amount > 0:
                self._metric(name).inc(amount, tags=dict(labels))
        for (name, labels), value in self._waiting.gauges.items():
            self._metric(name).set(value, tags=dict(labels))
        for (name, labels), found in self._values.items():
            for value in found:
                self._metric(name).observe(value, tags=dict(labels))
        self._waiting, self._values = FigureSums(), {}

    def _metric(self, name: str) -> Any:
        from ray.util import metrics

        if name not in self._metrics:
            one = METRICS[name]
            options: dict[str, Any] = {"description": one.description, "tag_keys": (*one.labels, "stage")}
            if one.kind == "counter":
                self._metrics[name] = metrics.Counter(name, **options)
            elif one.kind == "gauge":
                self._metrics[name] = metrics.Gauge(name, **options)
            else:
                self._metrics[name] = metrics.Histogram(name, boundaries=list(one.bounds), **options)
        return self._metrics[name]


def _session() -> object:
    """What tells the Ray session of this process from others; None: there is none."""
    if "ray" not in sys.modules:
        return None
    import ray

    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.get_job_id(), context.get_node_id()
