"""Benchmarks of curation: expressions per second, memory, and whether both stay as a source grows."""

from __future__ import annotations

from tests.benchmarks.curate_refs import curate_refs
from tests.benchmarks.measuring import Benchmark

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "curate_refs": Benchmark(
        "expressions per second and memory on a source of RefCOCO's size, over a reader of one expression at a time",
        curate_refs,
    ),
}
