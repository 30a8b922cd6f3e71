"""Published scores, to stand beside one's own: read from papers, not measured here."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["PublishedScore", "published_scores"]

_FRACTIONS = ("accuracy",)
"""Metrics that are printed between 0 and 1; all others are percentages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScore:
    """One number of a paper's table.

    Attributes:
        model: name of the system, `(ft)` where it was fine-tuned on the benchmark.
        llm_size: size of its language model as printed; `-` without one.
        benchmark: name of the benchmark.
        split: its split, or its task.
        metric: name of the score.
        value: between 0 and 1 like our own; None where the paper prints two numbers in one.
        source: paper and table.
    """

    model: str
    llm_size: str
    benchmark: str
    split: str
    metric: str
    value: float | None
    source: str


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """All of them, from `data/published_scores.csv`, in its order."""
    text = files("pipelines.evaluation").joinpath("data/published_scores.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedScore(
            model=row["model"],
            llm_size=row["llm_size"],
            benchmark=row["benchmark"],
            split=row["split"],
            metric=row["metric"],
            value=_fraction(row["value"], row["metric"]),
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def _fraction(value: str, metric: str) -> float | None:
    if "/" in value:
        return None
    return float(value) if metric in _FRACTIONS else round(float(value) / 100, 6)
