"""How benchmarks run: once as a plain test, repeated and timed with `make bench`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import TypeAlias

import pytest

Measure: TypeAlias = Callable[[str, Callable[[], int]], None]

_NUM_REPEATS = 7


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Runs a piece of work that returns how many bytes it handled; timed, prints median and best rate."""

    def run(name: str, work: Callable[[], int]) -> None:
        size_bytes = work()
        assert size_bytes > 0
        if os.environ.get("SAILLOFT_BENCH") != "1":
            return
        seconds: list[float] = []
        for _ in range(_NUM_REPEATS):
            start_s = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start_s)
        median, best = (size_bytes / value / 2**20 for value in (statistics.median(seconds), min(seconds)))
        writer = request.config.get_terminal_writer()
        writer.line(f"\n{name:<44} {median:8.0f} MiB/s median {best:8.0f} MiB/s best of {_NUM_REPEATS}")

    return run
