"""Costs of a run: what was used, by the recipe's prices."""

from __future__ import annotations

import pytest

from jobs.figures import Figures, FigureSums
from jobs.run_costs import run_costs
from pipelines.distillation.costs import CostsConfig


@pytest.fixture
def used() -> FigureSums:
    figures = Figures()
    figures.count("teach sam2", "sailloft_worker_gpu_seconds_total", 7200, {})
    figures.count("train", "sailloft_worker_gpu_seconds_total", 3600, {})
    figures.count("curate", "sailloft_worker_cpu_seconds_total", 1800, {})
    requests = {
        ("s3", "get"): 3e6,
        ("s3", "head"): 1e6,
        ("s3", "put"): 2e6,
        ("s3", "delete"): 9e6,
        ("file", "get"): 5e6,
    }
    for (scheme, request), number in requests.items():
        labels = {"scheme": scheme, "request": request}
        figures.count("train", "sailloft_storage_requests_total", number, labels)
    for direction, number in (("read", 10), ("written", 4)):
        figures.count("train", "sailloft_storage_bytes_total", number, {"scheme": "s3", "direction": direction})
    return figures.take()[0]


def test_prices(used: FigureSums) -> None:
    prices = CostsConfig(
        usd_per_accelerator_hour=2, usd_per_cpu_hour=0.1, usd_per_million_puts=5, usd_per_million_gets=0.5
    )
    assert run_costs(used, 12.3456, prices) == {
        "wall_s": 12.346,
        "cpu_s": 1800,
        "accelerator_s": 10800,
        "requests": {"reading": 4_000_000, "writing": 2_000_000},
        "read_bytes": 10,
        "written_bytes": 4,
        "usd": {"accelerators": 6.0, "cpus": 0.05, "requests": 12.0, "total": 18.05},
    }


def test_what_has_no_price_makes_the_sum_unknown(used: FigureSums) -> None:
    usd = run_costs(used, 1.0, CostsConfig(usd_per_accelerator_hour=2))["usd"]
    assert usd == {"accelerators": 6.0, "cpus": None, "requests": None, "total": None}


def test_what_was_not_used_costs_nothing() -> None:
    usd = run_costs(FigureSums(), 1.0, CostsConfig())["usd"]
    assert usd == {"accelerators": 0.0, "cpus": 0.0, "requests": 0.0, "total": 0.0}
