"""ReasonSeg from its files to its scores: areas to be ignored count in neither intersection nor union."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from model.predictor import Answer
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.testing import write_picture
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import answer_questions
from pipelines.evaluation.pipeline import default_wording, plan_questions
from pipelines.evaluation.records import Variant
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.masks import area_px
from storage.objects import Objects

_HEIGHT, _WIDTH = 48, 64


def _shape(label: str, x0: int, x1: int) -> dict[str, object]:
    return {"label": label, "points": [[x0, 10], [x1, 10], [x1, 30], [x0, 30]]}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """One picture: the target from column 10 to 30, and an area to be ignored from there to 40."""
    folder = tmp_path / "ReasonSeg/val"
    write_picture(folder / "tea.jpg", height=_HEIGHT, width=_WIDTH)
    shapes = [_shape("target", 10, 30), _shape("ignore", 30, 40)]
    record = {"shapes": shapes, "text": ["What holds tea?"], "is_sentence": True}
    (folder / "tea.json").write_text(json.dumps(record))
    output = Objects.open(tmp_path / "corpus")
    source = {"kind": "reason_seg", "folders": {"val": "ReasonSeg/val"}}
    curate_local(CurationConfig.model_validate({"root": str(tmp_path), "sources": [source]}), output, NullProgress())
    return Corpus.open(output)


def test_the_corpus_keeps_what_is_to_be_ignored(corpus: Corpus) -> None:
    (sample,) = corpus.samples()
    (region,) = sample.regions
    assert region.ignored is not None
    assert (area_px(region.mask), area_px(region.ignored)) == (400, 200)


@pytest.mark.parametrize(
    ("columns", "intersection_px", "union_px"),
    [
        ((10, 30), 400, 400),
        ((10, 37), 400, 400),  # what lies in the ignored area costs nothing
        ((30, 40), 0, 400),  # nor does it earn anything
        ((10, 45), 400, 500),
        ((20, 45), 200, 500),
    ],
)
def test_answers_are_scored_without_ignored_pixels(
    corpus: Corpus, columns: tuple[int, int], intersection_px: int, union_px: int
) -> None:
    mask = np.zeros((_HEIGHT, _WIDTH), np.bool_)
    mask[10:30, slice(*columns)] = True

    class Student:
        def answer(self, requests, max_new_tokens: int = 64) -> list[Answer]:
            return [Answer("It is [SEG].", (mask,), (0.9,)) for _ in requests]

    config = EvaluationConfig.model_validate("reason_seg")
    benchmarks = config.built()
    questions = plan_questions(corpus, config, default_wording(config))
    (row,) = answer_questions(questions, corpus, Student(), benchmarks, questions_per_batch=4, max_new_tokens=8)
    assert (row.benchmark, row.intersection_px, row.union_px) == ("ReasonSeg val", intersection_px, union_px)
    scores = benchmarks[row.benchmark].metrics(Variant.STANDARD, [row], [row])
    assert scores["cIoU"].value == intersection_px / union_px
    assert scores["gIoU"].value == pytest.approx(intersection_px / (union_px + 1e-5), abs=1e-12)
