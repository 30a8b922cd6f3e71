"""How fast a training run was and where its time went, from the notes beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Speed", "training_speed"]

_PARTS = {
    "stall/storage": "waiting for storage",
    "stall/decode": "waiting for decoding",
    "stall/encode": "waiting for tokens and packing",
    "stall/host_to_device": "copying to the device",
}


@dataclass(frozen=True, slots=True)
class Speed:
    """A run as a whole."""

    facts: tuple[tuple[str, str], ...]
    """(what, figure) pairs."""
    parts: tuple[tuple[str, float], ...]
    """Where the time of the steps went: (what, share) pairs whose shares add up to 1."""


def training_speed(rows: Sequence[Mapping[str, float]]) -> Speed | None:
    """Sums readings up, each by the time that it covers; None without any."""
    before = [0.0, *(row["step"] for row in rows)]
    weights = [(row["step"] - start) * row.get("step_s", 0.0) for start, row in zip(before, rows, strict=False)]
    total_s = sum(weights)
    if total_s <= 0:
        return None

    def mean(name: str) -> float | None:
        known = [(row[name], weight) for row, weight in zip(rows, weights, strict=True) if name in row]
        covered = sum(weight for _, weight in known)
        return sum(value * weight for value, weight in known) / covered if covered else None

    facts: list[tuple[str, str]] = []
    for name, label, form in (
        ("samples_per_s", "samples/s", "{:,.3g}"),
        ("tokens_per_s", "tokens/s", "{:,.0f}"),
        ("stall_share", "stalled", "{:.1%}"),
        ("mfu", "model FLOPs utilisation", "{:.1%}"),
    ):
        value = mean(name)
        if value is not None:
            facts.append((label, form.format(value)))
    memory_gib = [row["memory_gib"] for row in rows if "memory_gib" in row]
    if memory_gib:
        facts.append(("memory at most", f"{max(memory_gib):.2f} GiB"))
    shares = {label: mean(name) or 0.0 for name, label in _PARTS.items()}
    parts = [("training", max(1 - sum(shares.values()), 0.0)), *shares.items()]
    return Speed(tuple(facts), tuple(parts))
