from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from pipelines.evaluation.metrics.res import Outcome, gres_scores, overlap, res_scores
from storage.masks import encode_mask

BITMAPS = arrays.arrays(bool, (7, 5))


@given(BITMAPS, BITMAPS)
def test_overlap_counts_pixels_alike_for_bitmaps_and_rle(first: np.ndarray, second: np.ndarray) -> None:
    expected = (int((first & second).sum()), int((first | second).sum()))
    assert overlap(first, second) == expected
    assert overlap(encode_mask(first), encode_mask(second)) == expected
    assert overlap(first, encode_mask(second)) == expected


@given(BITMAPS, BITMAPS, BITMAPS)
def test_ignored_pixels_count_in_neither_as_with_an_index_to_ignore(
    predicted: np.ndarray, target: np.ndarray, ignored: np.ndarray
) -> None:
    # Per pixel as the released evaluation of ReasonSeg: 255 in the truth is put into the prediction, and not counted.
    truth, answer = np.where(ignored, 255, target), np.where(ignored, 255, predicted)
    intersection = int(((answer == truth) & (truth == 1)).sum())
    union = int((answer == 1).sum() + (truth == 1).sum()) - intersection
    assert overlap(predicted, target, ignored) == (intersection, union)
    assert overlap(encode_mask(predicted), encode_mask(target), encode_mask(ignored)) == (intersection, union)
    assert overlap(None, encode_mask(target), encode_mask(ignored)) == (0, int((truth == 1).sum()))


def test_absent_prediction_is_an_empty_one() -> None:
    truth = np.ones((3, 4), bool)
    assert overlap(None, truth) == (0, 12)
    assert overlap(None, encode_mask(truth)) == (0, 12)


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a mask of \(3, 4\) px .* got \(4, 3\)"):
        overlap(np.ones((4, 3), bool), np.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"expected a mask of \(3, 4\) px .* got \(2, 4\)"):
        overlap(None, np.ones((3, 4), bool), np.ones((2, 4), bool))


def test_res_scores_by_hand() -> None:
    outcomes = [
        Outcome(intersection_px=8, union_px=10),
        Outcome(intersection_px=0, union_px=30),
        Outcome(intersection_px=0, union_px=50, no_target=True),
    ]
    scores = res_scores(outcomes)
    assert scores["cIoU"].value == pytest.approx(8 / 40)
    assert scores["gIoU"].value == pytest.approx((8 / 10.00001 + 0) / 2, abs=1e-12)
    assert [scores[f"Pr@{limit}"].value for limit in (0.5, 0.8, 0.9)] == [0.5, 0.5, 0.0]
    assert list(scores["cIoU"].index) == [0, 1]


def test_gres_scores_by_hand() -> None:
    outcomes = [
        Outcome(intersection_px=9, union_px=10),
        Outcome(intersection_px=7, union_px=20, predicted_no_target=True),
        Outcome(intersection_px=0, union_px=0, no_target=True, predicted_no_target=True),
        Outcome(intersection_px=0, union_px=6, no_target=True),
        Outcome(intersection_px=0, union_px=0, no_target=True),
    ]
    scores = {name: ratio.value for name, ratio in gres_scores(outcomes).items()}
    assert scores["gIoU"] == pytest.approx((0.9 + 0 + 1 + 0 + 0) / 5)
    assert scores["cIoU"] == pytest.approx(9 / (10 + 20 + 6))
    assert scores["N_acc"] == pytest.approx(1 / 3)
    assert scores["T_acc"] == pytest.approx(1 / 2)
    assert scores["Pr@0.9"] == pytest.approx(1 / 2)


def test_nothing_to_score_is_nan() -> None:
    assert math.isnan(res_scores([])["cIoU"].value)
    assert math.isnan(gres_scores([Outcome(intersection_px=1, union_px=2)])["N_acc"].value)
