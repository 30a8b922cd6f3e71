"""Benchmarks of distillation's first half: planning at scale, and the pipeline against a bare loop."""

from __future__ import annotations

from tests.benchmarks.measuring import Benchmark
from tests.benchmarks.pipeline_vs_bare_forward import pipeline_vs_bare_forward
from tests.benchmarks.plan_1m import plan_1m

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "plan_1m": Benchmark("seconds and memory of planning a million images, 90 % of them present", plan_1m),
    "pipeline_vs_bare_forward": Benchmark(
        "images per second of the whole pipeline over a bare loop of the same teacher", pipeline_vs_bare_forward
    ),
}
