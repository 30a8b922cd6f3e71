from __future__ import annotations

import csv

import pytest

from pipelines.evaluation.config import EvaluationConfig, published_as
from pipelines.evaluation.published import published_scores
from pipelines.evaluation.records import Gap, Score, Variant
from pipelines.evaluation.score_sheet import Sheet, leakage_status, score_sheet


def _score(benchmark: str, metric: str, value: float, variant: Variant = Variant.STANDARD) -> Score:
    return Score(
        benchmark=benchmark,
        variant=variant,
        family=None,
        task=None,
        split=None,
        metric=metric,
        value=value,
        low=value - 0.01,
        high=value + 0.01,
        num_samples=1000,
        num_images=300,
    )


def _sheet(suite: str, *scores: Score, **facts: object) -> Sheet:
    config = EvaluationConfig.model_validate(suite)
    return score_sheet(scores, published_as(config, scores), {"leakage_gate": "remove", **facts})  # type: ignore[dict-item]


def test_published_numbers_stand_below_ones_own_and_are_marked() -> None:
    sheet = _sheet("refcoco", _score("RefCOCO testA", "cIoU", 0.512), _score("RefCOCO testA", "Pr@0.5", 0.6))
    lines = sheet.markdown().splitlines()
    own = next(place for place, line in enumerate(lines) if "| RefCOCO testA | cIoU | this student | 51.2 |" in line)
    assert "50.2 to 52.2" in lines[own]
    assert "measured" in lines[own]
    assert "published" not in lines[own]
    best = next(line for line in lines if "Pixel-SAIL 3B" in line)
    assert "| 82.6 |" in best
    assert "published, not measured: arXiv 2504.10465 v1 table 1" in best
    assert sum("published, not measured" in line for line in lines[own + 1 : -1]) == 18
    assert "Pr@0.5" in lines[-1]  # no published row beside it


def test_losses_and_cider_are_shown_as_they_are() -> None:
    sheet = score_sheet([_score("texts", "text_loss", 1.234), _score("captions", "CIDEr", 0.5)], {}, {})
    assert "| 1.23 |" in sheet.markdown()
    assert "| 0.50 |" in sheet.markdown()


def test_csv_says_of_every_number_whether_it_was_measured() -> None:
    rows = list(csv.DictReader(_sheet("grefcoco", _score("gRefCOCO val", "cIoU", 0.5)).csv().splitlines()))
    assert [row["measured"] for row in rows] == ["true"] + ["false"] * 12
    assert float(rows[0]["value"]) == 0.5
    assert float(next(row["value"] for row in rows if row["system"] == "ReLA -")) == pytest.approx(0.564)
    assert {row["source"] for row in rows[1:]} == {"arXiv 2504.10465 v1 table 1"}


def test_perbench_stands_beside_published_scores_by_the_released_rules_alone() -> None:
    strict = _sheet("perbench", _score("PerBench", "overall", 0.2))
    released = _sheet("perbench", _score("PerBench", "overall_released", 0.2, Variant.RELEASED))
    assert len(strict.lines) == 1
    assert "42.2" in released.text()
    accuracy = _sheet("perbench", _score("PerBench", "accuracy_released", 0.5, Variant.RELEASED)).text()
    assert "74.0" in accuracy  # 0.74 in the paper


def test_region_captions_are_compared_by_meteor_1_5_alone() -> None:
    name = "RefCOCOg region caption"
    assert len(_sheet("region_caption", _score(name, "METEOR", 0.2)).lines) == 1
    assert "17.6" in _sheet("region_caption", _score(name, "METEOR_1.5", 0.2)).text()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"leakage_gate": "remove"}, r"checked \(gate: remove\), none found"),
        (
            {"leakage_gate": "remove", "leakage": {"a": {"samples_removed": 1200, "images": 3}}},
            "1,200 training samples",
        ),
        ({"leakage_gate": "off"}, "NOT CHECKED"),
        ({}, "unknown"),
    ],
)
def test_header_tells_of_leakage(facts: dict, words: str) -> None:
    import re

    assert re.search(words, leakage_status(facts))
    assert score_sheet([], {}, facts).text().startswith("leakage: ")


def test_header_tells_of_relabelled_splits() -> None:
    facts = {"leakage_gate": "remove", "relabelled_splits": {"refs(unc).p": {"val": "train"}}}
    assert "refs(unc).p were given another name: not to be compared" in score_sheet([], {}, facts).text()


def test_benchmarks_that_miss_samples_stand_below_every_form_of_the_table() -> None:
    gaps = (
        Gap(benchmark="PerBench", whole=True, reason="no sample of family perbench; the corpus has toy"),
        Gap(benchmark="mine", whole=False, reason="no question of split testB"),
    )
    sheet = score_sheet([_score("mine", "cIoU", 0.5)], {}, {}, gaps=gaps)
    lines = [
        "no score: PerBench: no sample of family perbench; the corpus has toy",
        "in part: mine: no question of split testB",
    ]
    assert sheet.text().splitlines()[-3:] == ["", *lines]
    assert sheet.markdown().splitlines()[-3:] == ["", *(f"- {line}" for line in lines)]
    rows = list(csv.DictReader(sheet.csv().splitlines()))
    assert [(row["benchmark"], row["measured"], row["value"]) for row in rows] == [
        ("mine", "true", "0.5"),
        ("PerBench", "false", ""),
        ("mine", "false", ""),
    ]
    assert rows[1]["source"] == "no score: no sample of family perbench; the corpus has toy"
    whole = score_sheet([_score("mine", "cIoU", 0.5)], {}, {})
    assert "no score" not in whole.text() + whole.markdown() + whole.csv()


def test_published_scores_are_carried_with_their_source() -> None:
    rows = published_scores()
    assert len(rows) > 200
    assert all(row.source.startswith("arXiv 2504.10465") for row in rows)
    assert all(row.value is None or 0 <= row.value <= 1 for row in rows)
