from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.evaluation.metrics import interval
from pipelines.evaluation.metrics.estimates import Ratio
from pipelines.evaluation.metrics.interval import bootstrap_interval


def _mean(values: np.ndarray) -> Ratio:
    return Ratio(np.arange(len(values)), values.astype(float), np.ones(len(values)))


def test_interval_covers_the_score_and_matches_theory() -> None:
    values = np.random.default_rng(1).random(400)
    low, high = bootstrap_interval(_mean(values), [str(index) for index in range(400)], num_resamples=4000)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_outcomes_of_one_image_are_drawn_together() -> None:
    values = np.repeat([0.0, 1.0] * 10, 50)
    alone = bootstrap_interval(_mean(values), [str(index) for index in range(1000)])
    together = bootstrap_interval(_mean(values), [str(index // 50) for index in range(1000)])
    assert together[1] - together[0] > 4 * (alone[1] - alone[0])


def test_same_seed_same_interval_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values, images = np.random.default_rng(0).random(30), [str(index) for index in range(30)]
    first = bootstrap_interval(_mean(values), images, seed=3)
    monkeypatch.setattr(interval, "_CELLS_PER_BLOCK", 70)
    assert bootstrap_interval(_mean(values), images, seed=3) == pytest.approx(first, rel=1e-12)
    assert bootstrap_interval(_mean(values), images, seed=4) != pytest.approx(first, rel=1e-12)


def test_only_counted_outcomes_weigh() -> None:
    ratio = Ratio(np.array([0, 2]), np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    assert bootstrap_interval(ratio, ["a", "b", "c"]) == (0.5, 0.5)


def test_nothing_counted_is_nan() -> None:
    low, high = bootstrap_interval(_mean(np.zeros(0)), [])
    assert math.isnan(low)
    assert math.isnan(high)
