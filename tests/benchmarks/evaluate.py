"""Benchmarks of evaluation: mask metrics over a plain loop, and the pipeline over a bare loop of `predict`."""

from __future__ import annotations

from tests.benchmarks.measuring import Benchmark
from tests.benchmarks.metrics_vs_reference_loop import metrics_vs_reference_loop
from tests.benchmarks.pipeline_vs_bare_predict import pipeline_vs_bare_predict

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "metrics_vs_reference_loop": Benchmark(
        "mask metrics of both protocols on run-length masks, over a loop that decodes and counts",
        metrics_vs_reference_loop,
    ),
    "pipeline_vs_bare_predict": Benchmark(
        "questions per second of the pipeline while it runs, over a bare loop of `predict`",
        pipeline_vs_bare_predict,
    ),
}
"""The benchmarks of evaluation."""
