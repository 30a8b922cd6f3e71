from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.comparison import compare_evaluations, paired_differences
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.metrics.interval import bootstrap_interval
from pipelines.evaluation.pipeline import evaluate
from pipelines.evaluation.records import Prediction, Variant
from storage.errors import DataError, ObjectNotFound, UsageError
from storage.objects import Objects
from tests.toy_predictions import toy_prediction

BENCHMARKS = {"referring": ReferringConfig().build()}


def _rows(intersections: np.ndarray) -> list[Prediction]:
    """Two questions on each picture."""
    return [
        toy_prediction(
            place, image_id=f"i{place // 2:04d}", intersection_px=int(value), union_px=100, score=value / 100
        )
        for place, value in enumerate(intersections)
    ]


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 95, 400)


def test_a_small_but_even_gain_is_beyond_noise_when_paired(counts) -> None:
    differences = paired_differences(_rows(counts), _rows(counts + 2)[::-1], BENCHMARKS)
    ciou = next(row for row in differences if row.metric == "cIoU")
    assert ciou.value == pytest.approx(0.02)
    assert (ciou.low, ciou.high) == pytest.approx((0.02, 0.02))
    assert ciou.beyond_noise
    assert ciou.share_above == 1.0
    assert (ciou.num_samples, ciou.num_images) == (400, 200)
    # Unpaired, the interval of one score alone is more than twice the gain.
    low, high = bootstrap_interval(
        BENCHMARKS["referring"].metrics(Variant.STANDARD, _rows(counts), [])["cIoU"],
        [row.image_id for row in _rows(counts)],
    )
    assert high - low > 0.04


def test_chance_is_within_noise(counts) -> None:
    other = np.random.default_rng(1).permutation(counts)
    ciou = next(row for row in paired_differences(_rows(counts), _rows(other), BENCHMARKS) if row.metric == "cIoU")
    assert ciou.low < 0 < ciou.high
    assert not ciou.beyond_noise
    back = next(row for row in paired_differences(_rows(other), _rows(counts), BENCHMARKS) if row.metric == "cIoU")
    assert (back.low, back.high) == pytest.approx((-ciou.high, -ciou.low))


def test_other_questions_are_an_error_that_names_them(counts) -> None:
    with pytest.raises(
        UsageError, match=r"got 1 of the first alone and 0 of the second alone, such as referring / sample s0399"
    ):
        paired_differences(_rows(counts), _rows(counts[:-1]), BENCHMARKS)
    with pytest.raises(DataError, match="expected each question once, got 1 of them again"):
        paired_differences(_rows(counts), [*_rows(counts), _rows(counts)[0]], BENCHMARKS)
    changed = _rows(counts)
    changed[5] = replace(changed[5], truth_area_px=7)
    with pytest.raises(UsageError, match=r"sample s0005 turn 0 \(standard\): expected the same truth_area_px of both"):
        paired_differences(_rows(counts), changed, BENCHMARKS)


def test_evaluations_in_a_store_are_compared(scenes, save_corpus, oracle, tmp_path) -> None:
    class Blind:
        def answer(self, requests, max_new_tokens: int = 64):
            return [replace(answer, masks=(), text="No target [SEG].") for answer in oracle.answer(requests)]

    corpus = save_corpus(scenes)
    config = EvaluationConfig(benchmarks=(ReferringConfig(variants=(Variant.STANDARD,)),))
    places = {}
    for name, student in (("blind", Blind()), ("oracle", oracle)):
        checkpoint = Objects.open(f"memory://{tmp_path.name}-{name}")
        checkpoint.create("config.json", f'"{name}"'.encode())
        places[name] = Objects.open(f"memory://{tmp_path.name}-{name}-scores")
        evaluate(corpus, checkpoint, config, places[name], load=lambda *_, student=student: student)
    found = {row.metric: row for row in compare_evaluations(places["blind"], places["oracle"])}
    assert (found["cIoU"].first, found["cIoU"].second) == (0.0, 1.0)
    assert "measured" in places["oracle"].read("scores.md").decode()
    assert places["oracle"].read("scores.txt").decode().startswith("leakage: ")
    assert places["oracle"].read("scores.csv").decode().startswith("benchmark,variant")
    with pytest.raises(ObjectNotFound, match="expected a finished evaluation, got no manifest"):
        compare_evaluations(places["blind"], Objects.open(f"memory://{tmp_path.name}-nothing"))
    other = Objects.open(f"memory://{tmp_path.name}-other-scores")
    evaluate(corpus, checkpoint, config.model_copy(update={"seed": 5}), other, load=lambda *_: oracle)
    with pytest.raises(UsageError, match="got others in seed; evaluate both with the same `evaluation`"):
        compare_evaluations(places["oracle"], other)
