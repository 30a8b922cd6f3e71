"""The figures of a run: their names, what they count, and by which labels they are told apart.

Every figure has the label `stage` beside its own. Prometheus shows them behind Ray's prefix, `ray_`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "Metric", "metric"]

Kind = Literal["counter", "gauge", "histogram"]

_STEP_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure."""

    name: str
    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    """Beside `stage`."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's classes."""


_ALL = (
    Metric("sailloft_stages_total", "counter", "Stages that came to an end: ran, present or failed.", ("state",)),
    Metric("sailloft_stage_seconds", "gauge", "Wall time of a stage that ran, in seconds."),
    Metric("sailloft_progress_done", "gauge", "Units of a running stage that are done."),
    Metric("sailloft_progress_units", "gauge", "Units of a running stage in all; 0 while it isn't known."),
    Metric("sailloft_rows_total", "counter", "Rows of corpora that were published: sample or reject.", ("outcome",)),
    Metric("sailloft_rejects_total", "counter", "Rejects of corpora that were published, by reason.", ("reason",)),
    Metric("sailloft_images_total", "counter", "Images done: drawn, taught, or rejected by a teacher.", ("outcome",)),
    Metric("sailloft_feature_bytes_total", "counter", "Bytes of shards of features as they are stored."),
    Metric("sailloft_teacher_seconds_total", "counter", "Seconds of teachers' processes by phase.", ("phase",)),
    Metric(
        "sailloft_retries_total",
        "counter",
        "Work begun again: shard, a process that died or was stuck, a request to storage.",
        ("cause",),
    ),
    Metric("sailloft_questions_total", "counter", "Questions that a student answered."),
    Metric("sailloft_steps_total", "counter", "Training steps: done, or skipped for their losses.", ("outcome",)),
    Metric(
        "sailloft_step_seconds", "histogram", "Seconds of a training step, waiting included.", bounds=_STEP_BOUNDS_S
    ),
    Metric("sailloft_step_wait_seconds_total", "counter", "Seconds that training steps waited for the loader."),
    Metric("sailloft_tokens_total", "counter", "Tokens trained on, of all workers."),
    Metric("sailloft_stall_share", "gauge", "Share of training time spent waiting for the loader, of late."),
    Metric("sailloft_tokens_per_second", "gauge", "Tokens trained on per second, of late."),
    Metric("sailloft_loss", "gauge", "Loss of training, of late."),
    Metric("sailloft_mfu", "gauge", "Share of the device's peak that the student's operations reach, of late."),
    Metric(
        "sailloft_storage_requests_total", "counter", "Requests to storage, by store and kind.", ("scheme", "request")
    ),
    Metric(
        "sailloft_storage_bytes_total", "counter", "Bytes read from and written to storage.", ("scheme", "direction")
    ),
    Metric("sailloft_worker_cpu_seconds_total", "counter", "Seconds that processes held CPUs, times their number."),
    Metric("sailloft_worker_gpu_seconds_total", "counter", "Seconds that processes held GPUs, times their number."),
)

METRICS = {one.name: one for one in _ALL}
"""All of them, by name."""


def metric(name: str, kind: Kind, labels: frozenset[str]) -> Metric:
    """The figure of a name.

    Args:
        name: one of `METRICS`.
        kind: that it has to be.
        labels: that it has to have.

    Raises:
        KeyError: no such figure.
        TypeError: it is of another kind, or has other labels.
    """
    found = METRICS[name]
    if found.kind != kind or labels != frozenset(found.labels):
        given = ", ".join(sorted(labels)) or "no labels"
        raise TypeError(
            f"{name}: expected a {found.kind} with {', '.join(found.labels) or 'no labels'}, got a {kind} with {given}"
        )
    return found
