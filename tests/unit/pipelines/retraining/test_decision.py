"""Who becomes the champion: better beyond noise, and nothing guarded falls."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.evaluation.comparison import Difference
from pipelines.evaluation.records import Score, Variant
from pipelines.retraining.config import RetrainConfig
from pipelines.retraining.decision import FIRST, check_scores, judge
from storage.errors import UsageError

_GUARDED = {"benchmark": "regions", "metric": "METEOR", "max_fall": 0.01}


def _difference(
    low: float, high: float, benchmark: str = "referring", metric: str = "cIoU", variant: Variant = Variant.STANDARD
) -> Difference:
    return Difference(
        benchmark=benchmark,
        variant=variant,
        metric=metric,
        first=0.5,
        second=0.5 + (low + high) / 2,
        low=low,
        high=high,
        share_above=0.5,
        num_samples=40,
        num_images=10,
    )


def _config(**changes: Any) -> RetrainConfig:
    return RetrainConfig.model_validate(changes)


@pytest.mark.parametrize(
    ("low", "high", "min_gain", "promoted", "reason"),
    [
        (0.01, 0.05, 0.0, True, "referring cIoU: better: +3.00 (+1.00 to +5.00)"),
        (-0.05, -0.01, 0.0, False, "referring cIoU: worse: -3.00 (-5.00 to -1.00)"),
        (-0.01, 0.05, 0.0, False, "referring cIoU: within noise: +2.00 (-1.00 to +5.00)"),
        (0.0, 0.0, 0.0, False, "referring cIoU: within noise: +0.00 (+0.00 to +0.00)"),
        (0.01, 0.05, 0.005, True, "referring cIoU: better by more than 0.50: +3.00 (+1.00 to +5.00)"),
        (0.01, 0.05, 0.02, False, "referring cIoU: better, but it may be by less than 2.00: +3.00 (+1.00 to +5.00)"),
        (0.01, 0.05, 0.01, False, "referring cIoU: better, but it may be by less than 1.00: +3.00 (+1.00 to +5.00)"),
    ],
    ids=["better", "worse", "within noise", "the same", "by enough", "by too little", "by just that"],
)
def test_the_interval_decides(low: float, high: float, min_gain: float, promoted: bool, reason: str) -> None:
    verdict = judge([_difference(low, high)], _config(min_gain=min_gain))
    assert (verdict.promoted, verdict.reasons) == (promoted, (reason,))
    (figure,) = verdict.figures
    assert (figure.role, figure.benchmark, figure.variant, figure.metric) == (
        *("decides", "referring"),
        *("standard", "cIoU"),
    )
    assert (figure.champion, figure.low, figure.high, figure.num_images) == (0.5, low, high, 10)


@pytest.mark.parametrize(
    ("low", "high", "refused_if", "holds", "told"),
    [
        (-0.009, 0.02, "possible", True, "holds"),
        (-0.01, 0.02, "possible", True, "holds"),
        (-0.02, 0.04, "possible", False, "may fall, 1.00 allowed"),
        (-0.02, 0.04, "shown", True, "holds"),
        (-0.05, -0.01, "shown", True, "holds"),
        (-0.05, -0.011, "shown", False, "falls, 1.00 allowed"),
        (-0.05, -0.011, "possible", False, "falls, 1.00 allowed"),
    ],
)
def test_a_guarded_score_must_not_fall(low: float, high: float, refused_if: str, holds: bool, told: str) -> None:
    config = _config(guarded=[{**_GUARDED, "refused_if": refused_if}])
    verdict = judge([_difference(low, high, "regions", "METEOR"), _difference(0.01, 0.05)], config)
    assert verdict.promoted == holds
    assert verdict.reasons[-1].startswith(f"regions METEOR: {told}: ")
    assert len(verdict.reasons) == (2 if holds else 1)
    assert [(figure.role, figure.metric) for figure in verdict.figures] == [("decides", "cIoU"), ("guarded", "METEOR")]


def test_everything_against_it_is_told() -> None:
    config = _config(guarded=[_GUARDED, {**_GUARDED, "metric": "CIDEr", "max_fall": 0.1}])
    rows = [
        _difference(-0.05, -0.01),
        _difference(-0.05, -0.02, "regions", "METEOR"),
        _difference(-0.5, -0.2, "regions", "CIDEr"),
    ]
    assert judge(rows, config).reasons == (
        "referring cIoU: worse: -3.00 (-5.00 to -1.00)",
        "regions METEOR: falls, 1.00 allowed: -3.50 (-5.00 to -2.00)",
        "regions CIDEr: falls, 0.10 allowed: -0.35 (-0.50 to -0.20)",
    )


@pytest.mark.parametrize("guarded", [[], [_GUARDED]], ids=["alone", "guarded"])
def test_a_score_that_is_no_number_refuses(guarded: list[dict[str, object]]) -> None:
    rows = [_difference(0.01, 0.05)] if guarded else [_difference(0.01, 0.05, "regions", "METEOR")]
    verdict = judge(rows, _config(guarded=guarded))
    missing = "regions METEOR" if guarded else "referring cIoU"
    assert (verdict.promoted, verdict.reasons) == (
        False,
        (f"{missing}: no difference, since it isn't a number for both",),
    )


def test_rules_of_a_score_are_its_own() -> None:
    config = _config(decides={"metric": "gIoU", "variant": "released"})
    rows = [_difference(-0.05, -0.01, metric="gIoU"), _difference(0.01, 0.05, metric="gIoU", variant=Variant.RELEASED)]
    verdict = judge(rows, config)
    assert (verdict.promoted, verdict.reasons) == (
        True,
        ("referring gIoU (released): better: +3.00 (+1.00 to +5.00)",),
    )


def test_the_first_is_promoted() -> None:
    assert (FIRST.promoted, FIRST.reasons, FIRST.figures) == (True, ("the first version",), ())


def _score(metric: str, family: str | None = None) -> Score:
    return Score(
        benchmark="referring",
        variant=Variant.STANDARD,
        family=family,
        task=None,
        split=None,
        metric=metric,
        value=0.5,
        low=0.4,
        high=0.6,
        num_samples=40,
        num_images=10,
    )


def test_scores_that_are_compared_are_looked_for() -> None:
    scores = [_score("cIoU"), _score("gIoU"), _score("one_family", "refcoco")]
    check_scores(scores, _config(guarded=[{"metric": "gIoU", "max_fall": 0.01}]))
    for metric in ("ciou", "one_family"):
        told = rf"expected a score referring {metric} of the evaluation, got referring cIoU standard, referring gIoU"
        with pytest.raises(UsageError, match=rf"{told} standard; correct retrain.decides"):
            check_scores(scores, _config(decides={"metric": metric}))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="expected no init or pixel_tokens, since training goes on from"):
        _config(training={"init": "runs/x", "pixel_tokens": "drawn", "num_steps": 3})
    with pytest.raises(ValidationError, match="expected a score of which more is better, got the loss 'text_loss'"):
        _config(decides={"benchmark": "text_loss", "metric": "text_loss"})
    with pytest.raises(ValidationError, match="guarded: expected each score once, got regions METEOR, regions METEOR"):
        _config(guarded=[_GUARDED, _GUARDED])
    with pytest.raises(UsageError, match="expected scores of referring, as evaluation asks, got regions; correct"):
        _config(guarded=[_GUARDED]).check_benchmarks({"referring": 1})
