"""Panoptic quality on cases worked out by hand, and on a real annotation of COCO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.teacher_training.panoptic import PanopticQuality, Segmentation


def segmentation(rows: list[str], categories: Mapping[int, int], crowds: frozenset[int] = frozenset()) -> Segmentation:
    """Rows of digits, each the segment of a pixel."""
    return Segmentation(np.array([[int(digit) for digit in row] for row in rows]), categories, crowds)


def score(predicted: Segmentation, truth: Segmentation) -> tuple[float, float, float]:
    quality = PanopticQuality()
    quality.add(predicted, truth)
    found = quality.score()
    return found.pq, found.sq, found.rq


TRUTH = segmentation(["1122", "1122", "3333", "3333"], {1: 7, 2: 7, 3: 9})


def test_the_truth_itself_is_perfect_whatever_its_ids() -> None:
    other = segmentation(["5544", "5544", "8888", "8888"], {4: 7, 5: 7, 8: 9})
    assert score(other, TRUTH) == (1, 1, 1)


def test_nothing_found_is_nothing() -> None:
    assert score(segmentation(["0000"] * 4, {}), TRUTH) == (0, 0, 0)


def test_matches_misses_and_inventions_by_hand() -> None:
    # Segment 1 is found with IoU 3/4, segment 2 lost to one of a wrong category, 3 found whole.
    predicted = segmentation(["1022", "1122", "3333", "3333"], {1: 7, 2: 8, 3: 9})
    # Category 7: sq 3/4, rq 1 / (1 + 1/2); category 8: only an invention; category 9: perfect.
    sq, rq = (0.75 + 0 + 1) / 3, (2 / 3 + 0 + 1) / 3
    assert score(predicted, TRUTH) == pytest.approx(((0.75 * 2 / 3 + 1) / 3, sq, rq))


def test_half_an_overlap_is_no_match() -> None:
    truth = segmentation(["11", "22"], {1: 1, 2: 2})
    assert score(segmentation(["10", "22"], {1: 1, 2: 2}), truth)[2] == 0.5
    assert score(segmentation(["11", "12"], {1: 1, 2: 2}), truth)[2] == 0.5


def test_pictures_are_counted_together() -> None:
    quality = PanopticQuality()
    quality.add(TRUTH, TRUTH)
    quality.add(segmentation(["0000"] * 4, {}), TRUTH)
    found = quality.score()
    assert (found.sq, found.rq, found.num_categories) == (1, pytest.approx(2 / 3), 2)
    assert quality.score([9]).num_categories == 1
    assert quality.score([1]).num_categories == 0


def test_void_is_neither_right_nor_wrong() -> None:
    truth = segmentation(["1100", "1100"], {1: 7})
    # The segment runs on into void: its IoU is still 1. A segment on void alone is no invention.
    assert score(segmentation(["1110", "1110"], {1: 7}), truth) == (1, 1, 1)
    assert score(segmentation(["1122", "1122"], {1: 7, 2: 7}), truth) == (1, 1, 1)


def test_crowds_are_neither_missed_nor_matched() -> None:
    truth = segmentation(["1122", "1122"], {1: 7, 2: 7}, frozenset({2}))
    assert score(segmentation(["1100", "1100"], {1: 7}), truth) == (1, 1, 1)
    assert score(segmentation(["1122", "1122"], {1: 7, 2: 7}), truth) == (1, 1, 1)
    assert score(segmentation(["1122", "1122"], {1: 7, 2: 5}), truth)[2] == 0.5


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a prediction of \(4, 4\) px, got \(1, 2\)"):
        PanopticQuality().add(segmentation(["11"], {1: 7}), TRUTH)


def test_a_real_annotation(shared_data: Path) -> None:
    folder = shared_data / "data" / "panopticapi_sample"
    if not folder.is_dir():
        pytest.skip("no panopticapi_sample")
    annotation = json.loads((folder / "panoptic_examples.json").read_text())["annotations"][0]
    rgb = np.asarray(Image.open(folder / annotation["file_name"]).convert("RGB")).astype(np.int64)
    segments = annotation["segments_info"]
    categories = {item["id"]: item["category_id"] for item in segments}
    crowds = frozenset(item["id"] for item in segments if item["iscrowd"])
    truth = Segmentation(rgb @ np.array([1, 256, 65536]), categories, crowds)
    assert score(truth, truth) == (1, 1, 1)
    # Without its people one category is lost.
    without = {key: category for key, category in categories.items() if category != 1}
    things_lost = score(Segmentation(truth.ids, without), truth)
    num_categories = len(set(categories.values()))
    assert things_lost == pytest.approx(((num_categories - 1) / num_categories,) * 3)
    # One person of 13 is missed: rq 12 / (12 + 1/2) of that category.
    person = next(item["id"] for item in segments if item["category_id"] == 1 and not item["iscrowd"])
    one_lost = {key: category for key, category in categories.items() if key != person}
    expected = (num_categories - 1 + 12 / 12.5) / num_categories
    assert score(Segmentation(truth.ids, one_lost), truth)[0] == pytest.approx(expected)
