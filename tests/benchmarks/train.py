"""Benchmarks of training: what cached teachers save, and what distillation adds to a step."""

from __future__ import annotations

from tests.benchmarks.cached_vs_online_step import cached_vs_online_step
from tests.benchmarks.distill_step_overhead import distill_step_overhead
from tests.benchmarks.measuring import Benchmark

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "cached_vs_online_step": Benchmark(
        "training steps per second, features from the store over teachers beside the student", cached_vs_online_step
    ),
    "distill_step_overhead": Benchmark(
        "time of a training step, with both distillation terms over without", distill_step_overhead
    ),
}
