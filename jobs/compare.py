"""`sailloft compare`: two evaluations side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from pipelines.evaluation.comparison import Difference, compare_evaluations
from storage.objects import Objects

__all__ = ["compare", "differences_json", "differences_text"]


def compare(first: str, second: str) -> list[Difference]:
    """Differences of all scores of two evaluations, given by folder or URL."""
    return compare_evaluations(Objects.open(first), Objects.open(second))


def differences_text(differences: Sequence[Difference]) -> str:
    """A table for the terminal, in percent."""
    head = ("benchmark", "metric", "first", "second", "difference", "interval", "verdict")
    rows: list[tuple[str, ...]] = [head]
    for row in differences:
        scale = 1 if row.metric == "CIDEr" else 100
        verdict = ("better" if row.value > 0 else "worse") if row.beyond_noise else "within noise"
        rows.append(
            (
                *(row.benchmark, row.metric, f"{scale * row.first:.2f}", f"{scale * row.second:.2f}"),
                *(f"{scale * row.value:+.2f}", f"{scale * row.low:+.2f} to {scale * row.high:+.2f}", verdict),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def differences_json(differences: Sequence[Difference]) -> str:
    """The differences as a JSON list, scores as fractions."""
    facts = [
        asdict(row) | {"variant": row.variant.value, "value": row.value, "beyond_noise": row.beyond_noise}
        for row in differences
    ]
    return json.dumps(facts, indent=1)
