"""`sailloft compare`: two evaluations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from jobs.told import document
from pipelines.evaluation.comparison import Difference, compare_evaluations
from pipelines.evaluation.records import lower_is_better, shown_scale
from pipelines.text_table import aligned
from storage.objects import Objects

__all__ = ["compare", "differences_json", "differences_text"]


def compare(first: str, second: str) -> list[Difference]:
    """Differences of all scores of two evaluations, given by folder or URL."""
    return compare_evaluations(Objects.open(first), Objects.open(second))


def differences_text(differences: Sequence[Difference], first: str, second: str) -> str:
    """A table for the terminal: scores in percent, CIDEr and nats as they are.

    Args:
        differences: of `compare`.
        first: what the first evaluation was named by.
        second: likewise the second.
    """
    head = ("benchmark", "metric", "first", "second", "difference", "interval", "samples", "verdict")
    rows = [head, *map(_cells, differences)]
    return "\n".join([f"first:  {first}", f"second: {second}", "", *aligned(rows, right={2, 3, 4, 6})])


def _cells(row: Difference) -> tuple[str, ...]:
    scale = shown_scale(row.metric)
    better = (row.value < 0) if lower_is_better(row.metric) else (row.value > 0)
    verdict = ("better" if better else "worse") if row.beyond_noise else "within noise"
    return (
        *(row.benchmark, row.metric, f"{scale * row.first:.2f}", f"{scale * row.second:.2f}"),
        *(f"{scale * row.value:+.2f}", f"{scale * row.low:+.2f} to {scale * row.high:+.2f}"),
        *(f"{row.num_samples:,}", verdict),
    )


def differences_json(differences: Sequence[Difference]) -> str:
    """The differences as a JSON list, scores as fractions."""
    facts = [
        asdict(row) | {"variant": row.variant.value, "value": row.value, "beyond_noise": row.beyond_noise}
        for row in differences
    ]
    return document(facts)
