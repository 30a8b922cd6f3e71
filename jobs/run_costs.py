"""What a run used, and what that costs by the prices of its recipe."""

from __future__ import annotations

from dataclasses import asdict

from jobs.figures import FigureSums
from pipelines.distillation.costs import CostsConfig
from pipelines.distillation.forecast import price_of
from storage.keys import Json
from storage.traffic import READING, WRITING

__all__ = ["run_costs"]

_HOUR_S = 3600.0
_OWN = ("file", "memory", "http", "https")
"""Schemes of stores whose requests nobody bills."""


def run_costs(sums: FigureSums, wall_s: float, prices: CostsConfig) -> dict[str, Json]:
    """What was used so far.

    Resources count for as long as processes of the run held them, whether they worked or waited.

    Args:
        sums: figures of the run.
        wall_s: since it began.
        prices: of the recipe; without one for something that was used the sum is unknown.
    """
    cpu_s = sums.total("sailloft_worker_cpu_seconds_total")
    accelerator_s = sums.total("sailloft_worker_gpu_seconds_total")
    requests = {"reading": _requests(sums, READING), "writing": _requests(sums, WRITING)}
    price = price_of(
        prices,
        accelerator_hours=accelerator_s / _HOUR_S,
        cpu_hours=cpu_s / _HOUR_S,
        num_puts=requests["writing"],
        num_gets=requests["reading"],
    )
    usd = {name: value for name, value in asdict(price).items() if name != "storage_per_month"}
    return {
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "accelerator_s": round(accelerator_s, 3),
        "requests": dict(requests),
        "read_bytes": round(sums.total("sailloft_storage_bytes_total", direction="read")),
        "written_bytes": round(sums.total("sailloft_storage_bytes_total", direction="written")),
        "usd": {**usd, "total": price.total},
    }


def _requests(sums: FigureSums, kinds: tuple[str, ...]) -> int:
    """To stores that bill them."""
    return round(
        sum(
            amount
            for (name, labels), amount in sums.counters.items()
            if name == "sailloft_storage_requests_total"
            and dict(labels)["request"] in kinds
            and dict(labels)["scheme"] not in _OWN
        )
    )
