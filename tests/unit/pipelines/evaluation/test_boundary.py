from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.metrics.boundary import boundary_f, boundary_pixels, tolerance_px
from pipelines.evaluation.records import Answered, Truth, Variant
from storage.masks import encode_mask
from tests.toy_predictions import toy_prediction

Bitmap = NDArray[np.bool_]


def _square(top: int, left: int, side: int = 20, size: tuple[int, int] = (64, 64)) -> Bitmap:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def _slow_boundary(mask: Bitmap) -> set[tuple[int, int]]:
    """As the released program defines it, pixel by pixel."""
    height, width = mask.shape
    found: set[tuple[int, int]] = set()
    for y in range(height):
        for x in range(width):
            right, below = min(x + 1, width - 1), min(y + 1, height - 1)
            others = {bool(mask[y, right]), bool(mask[below, x]), bool(mask[below, right])}
            if others != {bool(mask[y, x])}:
                found.add((y, x))
    return found


def _slow_f(predicted: Bitmap, truth: Bitmap) -> float:
    """Every boundary pixel against every other."""
    own, other = _slow_boundary(predicted), _slow_boundary(truth)
    if not own or not other:
        return float(bool(own) == bool(other))
    limit = math.ceil(0.008 * math.hypot(*truth.shape))

    def share(of: set[tuple[int, int]], near: set[tuple[int, int]]) -> float:
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= limit**2 for v, u in near) for y, x in of]
        return sum(hits) / len(hits)

    precision, recall = share(own, other), share(other, own)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_known_values() -> None:
    """At 64 px the tolerance is one pixel."""
    truth = _square(20, 20)
    assert tolerance_px(64, 64) == 1
    assert boundary_f(truth, truth) == 1.0
    assert boundary_f(_square(21, 20), truth) == 1.0
    assert boundary_f(np.zeros((64, 64), bool), truth) == 0.0
    assert boundary_f(truth, np.zeros((64, 64), bool)) == 0.0
    assert boundary_f(np.zeros((64, 64), bool), np.zeros((64, 64), bool)) == 1.0
    assert boundary_f(_square(40, 40), _square(2, 2, 10)) == 0.0
    # Two px lower: of 80 boundary pixels, 20 above and 20 below are too far, but for 1 at each end of either.
    assert boundary_f(_square(22, 20), truth) == pytest.approx(_slow_f(_square(22, 20), truth))
    assert 0.4 < boundary_f(_square(22, 20), truth) < 0.7


def test_a_mask_has_no_boundary_at_the_edge_of_its_image() -> None:
    assert not boundary_pixels(np.ones((5, 7), bool)).any()
    half = np.zeros((4, 6), bool)
    half[:, :3] = True
    assert np.array_equal(np.argwhere(boundary_pixels(half)), [[row, 2] for row in range(4)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(2, 24), width=st.integers(2, 24), share=st.floats(0.05, 0.95))
def test_every_pixel_against_every_other(seed: int, height: int, width: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    predicted, truth = (rng.random((height, width)) < share for _ in range(2))
    assert boundary_f(predicted, truth) == pytest.approx(_slow_f(predicted, truth))
    assert {tuple(place) for place in np.argwhere(boundary_pixels(truth)).tolist()} == _slow_boundary(truth)


def test_large_pictures_tolerate_more() -> None:
    truth = _square(100, 100, 60, (480, 854))
    assert boundary_f(_square(108, 100, 60, (480, 854)), truth) == 1.0
    assert boundary_f(_square(109, 100, 60, (480, 854)), truth) < 0.9


def test_ignored_pixels_belong_to_neither() -> None:
    truth = _square(20, 20)
    blot = _square(0, 0, 10)
    assert boundary_f(truth | blot, truth) < 1.0
    assert boundary_f(truth | blot, truth, _square(0, 0, 10)) == 1.0


def test_sizes_have_to_agree() -> None:
    with pytest.raises(ValueError, match=r"expected a mask of \(64, 64\) px \(height, width\), got \(32, 64\)"):
        boundary_f(np.zeros((32, 64), bool), _square(2, 2))


def test_referring_takes_it_where_the_recipe_asks_for_it() -> None:
    truth = Truth(sample_id="a", turn=0, masks=(encode_mask(_square(20, 20)),))
    none = Truth(sample_id="b", turn=0, masks=(encode_mask(np.zeros((64, 64), bool)),))
    answer = Answered(text="[SEG]", masks=(encode_mask(_square(22, 20)),))
    expected = boundary_f(_square(22, 20), _square(20, 20))
    asked = ReferringConfig(boundary=True).build()
    question = None  # the verdict doesn't look at it
    assert asked.judge(question, truth, answer).boundary_f == expected  # pyright: ignore[reportArgumentType]
    assert asked.judge(question, truth, Answered(text="No target")).boundary_f == 0.0  # pyright: ignore[reportArgumentType]
    assert asked.judge(question, none, answer).boundary_f is None  # pyright: ignore[reportArgumentType]
    plain = ReferringConfig().build()
    assert plain.judge(question, truth, answer).boundary_f is None  # pyright: ignore[reportArgumentType]
    rows = [toy_prediction(0, boundary_f=0.25), toy_prediction(1, boundary_f=0.75), toy_prediction(2)]
    score = asked.metrics(Variant.STANDARD, rows, rows)["boundary_F"]
    assert score.value == 0.5
    assert score.index.tolist() == [0, 1]
    assert "boundary_F" not in plain.metrics(Variant.STANDARD, rows, rows)
    gres = ReferringConfig(boundary=True, protocol="gres").build()
    assert gres.metrics(Variant.STANDARD, rows, rows)["boundary_F"].value == 0.5
