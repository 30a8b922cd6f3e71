from __future__ import annotations

import pytest

from pipelines.evaluation.records import Variant
from pipelines.report.zoo import breakdowns, least_certain, length_class, size_class
from tests.toy_predictions import toy_prediction


@pytest.mark.parametrize(
    ("area", "targets", "label"),
    [(1023, 1, "small"), (1024, 1, "medium"), (9215, 1, "medium"), (9216, 1, "large"), (2000, 2, "small")],
)
def test_sizes_are_cocos(area: int, targets: int, label: str) -> None:
    found = size_class(toy_prediction(0, truth_area_px=area, num_targets=targets))
    assert found is not None
    assert found.startswith(label)
    assert size_class(toy_prediction(0, truth_area_px=0)) is None


def test_lengths_count_words_without_placeholders() -> None:
    assert length_class(toy_prediction(0, expression="<region1>")) is None
    assert length_class(toy_prediction(0, expression="the ring left of <region1>")) == "4 to 6 words"
    assert length_class(toy_prediction(0, expression=" ".join(["so"] * 11))) == "11 words and more"


def test_slices_have_means_and_intervals_in_order() -> None:
    rows = [toy_prediction(place, score=0.2 + 0.01 * place, truth_area_px=100) for place in range(10)]
    rows += [toy_prediction(place, score=0.8, truth_area_px=20_000, family="other") for place in range(10, 20)]
    rows += [toy_prediction(20, variant=Variant.SWAPPED, score=0.0)]
    found = {cut.by: cut.slices for cut in breakdowns(rows)}
    assert found.keys() == {"object size", "family"}  # all expressions are of one length
    small, large = found["object size"]
    assert (small.label[:5], large.label[:5]) == ("small", "large")
    assert small.value == pytest.approx(0.245)
    assert small.low < small.value < small.high
    assert (large.value, large.low, large.high) == pytest.approx((0.8, 0.8, 0.8))
    assert [part.label for part in found["family"]] == ["other", "toy"]


def test_least_certain_goes_by_the_worst_mask() -> None:
    rows = [toy_prediction(0, mask_scores=(0.9, 0.6)), toy_prediction(1, mask_scores=(0.7,)), toy_prediction(2)]
    assert [row.sample_id for row in least_certain(rows)] == ["s0000", "s0001"]
