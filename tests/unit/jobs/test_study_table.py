"""Means over seeds, differences by seed, steps to a target, and what the study says of its claims."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from jobs.study import StudyClaim
from jobs.study_report import markdown, verdict
from jobs.study_table import mean_interval, steps_to_reach
from tests.small_studies import small_result, small_study

RUNS = [{"name": "plain"}, {"name": "more"}]


def _study(**changes: object):
    metrics = [{"label": "cIoU"}]
    return small_study(**{"runs": RUNS, "baseline": "plain", "metrics": metrics, "seeds": [0, 1, 2], **changes})


def _claim(**fields: object) -> StudyClaim:
    return StudyClaim.model_validate({"text": "It helps", "run": "more", "than": "plain", "metric": "cIoU", **fields})


def test_intervals_are_those_of_students_t() -> None:
    values = [0.41, 0.44, 0.52]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert str(mean_interval([0.41])) == "0.410"


def test_differences_are_paired_by_seed() -> None:
    """Both runs vary by seed far more than they differ, and differ by the same in each."""
    result = small_result({"plain": [0.2, 0.4, 0.6], "more": [0.25, 0.45, 0.65]})
    difference = result.difference("more", "cIoU")
    assert difference is not None
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.05, 0.05, 0.05))
    assert result.estimate("more", "cIoU").low < 0
    text = "\n".join(markdown(_study(), result))
    assert "| plain | 3 | 0.400 (-0.097 to 0.897) |" in text
    assert "| more | 3 | 0.450 (-0.047 to 0.947) |" in text
    assert "| more | 0.050 (0.050 to 0.050) |" in text
    assert "- cIoU, more: 0.250, 0.450, 0.650" in text
    assert "finished" not in text


def test_a_single_seed_has_the_interval_over_pictures() -> None:
    text = "\n".join(markdown(_study(seeds=[0]), small_result({"plain": [0.4], "more": [0.5]})))
    assert "| more | 1 | 0.500 (0.400 to 0.700) |" in text
    assert "| more | 0.100 |" in text
    assert "say nothing of how far another seed would lie" in text


def test_what_is_finished_is_told_without_the_rest() -> None:
    """A difference is taken over the seeds of which both are there."""
    result = small_result({"plain": [0.2, 0.4, None], "more": [None, 0.5, 0.9]})
    difference = result.difference("more", "cIoU")
    assert difference is not None
    assert difference.value == pytest.approx(0.1)
    assert math.isnan(difference.low)
    text = "\n".join(markdown(_study(), result))
    assert "4 of 6 runs are finished. Missing: plain: seed 2; more: seed 0." in text
    assert "| more | 2 | 0.700" in text
    assert json.dumps(result.to_json())
    assert result.to_json()["missing"] == [["plain", 2], ["more", 0]]


def test_a_study_that_has_not_begun_says_so() -> None:
    text = "\n".join(markdown(_study(), small_result({"plain": [None, None], "more": [None, None]})))
    assert "0 of 4 runs are finished. Missing: plain: seed 0, 1; more: seed 0, 1." in text
    assert "|" not in text


def test_without_its_baseline_a_run_has_scores_and_no_difference() -> None:
    result = small_result({"plain": [None], "more": [0.5]})
    assert result.difference("more", "cIoU") is None
    text = "\n".join(markdown(_study(seeds=[0], claims=[_claim(expects="more").model_dump()]), result))
    assert "Less plain" not in text
    assert "- **It helps**: cIoU, more less plain: not measured yet" in text


@pytest.mark.parametrize(
    ("target", "expected"), [(0.35, 175.0), (0.2, 100.0), (0.1, 100.0), (0.4, 200.0), (0.45, None)]
)
def test_steps_to_a_target_lie_between_two_validations(target: float, expected: float | None) -> None:
    """The first time counts, also where the curve falls again; before the first validation nothing is known."""
    curve = [(100, 0.2), (200, 0.4), (300, 0.3), (400, 0.4)]
    found = steps_to_reach(curve, target)
    assert found == (None if expected is None else pytest.approx(expected))


def test_steps_are_counted_to_the_last_score_of_the_same_seed() -> None:
    curves = {"plain": [[0.1, 0.3], [0.2, 0.4], [0.2, 0.4]], "more": [[0.2, 0.4], [0.6, 0.7], [0.1, 0.3]]}
    result = small_result({"plain": [0.3, 0.4, 0.4], "more": [0.4, 0.7, 0.3]}, curves)
    assert result.steps_to("more", "plain") == {0: pytest.approx(150.0), 1: 100.0, 2: None}
    assert result.steps_to("plain", "plain") == {0: 200.0, 1: 200.0, 2: 200.0}
    text = "\n".join(markdown(_study(steps_to=["plain"]), result))
    assert "| more | 150, 100; never with 1 of 3 seeds |" in text
    assert "| plain | 200 (200 to 200) |" in text
    assert verdict(_claim(metric=None, expects="less"), result).endswith(
        "does not hold, it is reached with 2 of 3 seeds"
    )


def test_fewer_steps_are_a_claim_like_others() -> None:
    curves = {"plain": [[0.1, 0.3]] * 3, "more": [[0.2, 0.4], [0.3, 0.4], [0.28, 0.4]]}
    result = small_result({"plain": [0.3] * 3, "more": [0.4] * 3}, curves)
    told = verdict(_claim(metric=None, expects="less"), result)
    assert told.startswith("**It helps**: steps to plain's last validation cIoU, more less plain: -78 (")
    assert told.endswith("): holds, all below 0")
    assert verdict(_claim(metric=None, expects="less"), small_result({"plain": [0.3], "more": [0.4]})).endswith(
        "not measured yet"
    )


@pytest.mark.parametrize(
    ("more", "fields", "end"),
    [
        ([0.25, 0.45, 0.66], {"expects": "more"}, "holds, all above 0"),
        ([0.25, 0.45, 0.66], {"expects": "less"}, "does not hold, nothing is below 0"),
        ([0.15, 0.45, 0.65], {"expects": "more"}, "not shown, not all is above 0"),
        ([0.201, 0.402, 0.601], {"expects": "within", "margin": 0.01}, "holds, all above -0.01 and below 0.01"),
        (
            [0.25, 0.45, 0.66],
            {"expects": "within", "margin": 0.01},
            "does not hold, nothing is above -0.01 and below 0.01",
        ),
        ([0.21, 0.39, 0.6], {"expects": "within", "margin": 0.01}, "not shown, not all is above -0.01 and below 0.01"),
        ([0.25, 0.45, 0.66], {"expects": "not_less", "margin": 0.01}, "holds, all above -0.01"),
        ([0.25, 0.45, 0.66], {"expects": "not_more", "margin": 0.01}, "does not hold, nothing is below 0.01"),
        ([0.2], {"expects": "more"}, "one seed, so that nothing can be said yet"),
        ([0.25, 0.45, 0.65], {"expects": "stated"}, "more less plain: 0.050 (0.050 to 0.050)"),
    ],
)
def test_verdicts_go_by_the_interval(more: list[float], fields: dict[str, object], end: str) -> None:
    result = small_result({"plain": [0.2, 0.4, 0.6][: len(more)], "more": more})
    assert verdict(_claim(**fields), result).endswith(end)
