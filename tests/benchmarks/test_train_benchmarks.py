"""The benchmarks of training run once, tiny and untimed: both sides do the same, and their figures are complete."""

from __future__ import annotations

import json

import pytest

from storage.keys import Json
from tests.benchmarks.measuring import Figures, Options
from tests.benchmarks.train import BENCHMARKS
from tests.benchmarks.train_workloads import published_student_flops

TINY = Options(tiny=True)


def part(figures: Figures, *path: str) -> Json:
    found: Json = figures
    for name in path:
        assert isinstance(found, dict)
        found = found[name]
    return found


def run(name: str) -> Figures:
    figures: Figures = json.loads(json.dumps(BENCHMARKS[name].run(TINY)))
    assert {"device", "cores", "torch", "date", "num_threads", "repeats"} <= set(part(figures, "machine"))  # type: ignore[arg-type]
    return figures


def test_cached_and_online_steps_are_compared() -> None:
    figures = run("cached_vs_online_step")
    assert isinstance(part(figures, "ratio", "value"), float)
    for teacher in ("mask2former", "sam2"):
        for name in ("parameters", "tflop_per_picture"):
            assert part(figures, "workload", "teachers", teacher, name) > 0  # type: ignore[operator]


def test_steps_with_and_without_distillation_are_compared() -> None:
    figures = run("distill_step_overhead")
    assert isinstance(part(figures, "ratio", "value"), float)
    with_heads, without = (part(figures, "workload", "parameters", name) for name in ("with", "without"))
    # Two linear heads with biases, 64 and 96 channels wide.
    assert with_heads - without == 64 * 32 + 32 + 96 * 64 + 64  # type: ignore[operator]


def test_the_half_billion_student_is_counted() -> None:
    flops, num_tokens = published_student_flops()
    assert num_tokens == 30 * 40 + 2 + 200
    # 24 layers of 14.9 million weights, each met once per token.
    assert flops.layers == pytest.approx(2 * 24 * 14.9e6 * num_tokens, rel=2e-3)
    assert flops.distillation == 2 * 1200 * 256 * (16 * 512 + 896)
