"""Benchmarks by the suite they belong to."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from tests.benchmarks.measuring import Benchmark

__all__ = ["SUITES", "suite"]

SUITES = {
    "curate": "tests.benchmarks.curate",
    "evaluate": "tests.benchmarks.evaluate",
    "feed": "tests.benchmarks.feed",
    "features": "tests.benchmarks.features",
    "scale": "tests.benchmarks.scale",
    "student": "tests.benchmarks.student",
    "teach": "tests.benchmarks.teach",
    "train": "tests.benchmarks.train",
}
"""Module of each suite; it has a dictionary `BENCHMARKS`, whose names no other suite uses."""


def suite(name: str) -> Mapping[str, Benchmark]:
    """The benchmarks of a suite, imported when they are wanted."""
    benchmarks: Mapping[str, Benchmark] = importlib.import_module(SUITES[name]).BENCHMARKS
    return benchmarks
