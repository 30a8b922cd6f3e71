from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from model.predictor import Request
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.text_loss import TextLossConfig
from pipelines.evaluation.inference import answer_questions
from pipelines.evaluation.metrics.table import score_table
from pipelines.evaluation.records import Variant, predictions_to_table, table_to_predictions
from storage.schema import Task

BENCHMARKS = {"text_loss": TextLossConfig().build(), "referring": ReferringConfig(boundary=True).build()}


class _Reader:
    """Answers as the oracle does; texts cost two nats a word and one for their end."""

    def __init__(self, oracle) -> None:
        self._oracle = oracle
        self.read_texts: list[tuple[str, str, int]] = []

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64):
        return self._oracle.answer(requests)

    def read(self, requests: Sequence[Request], answers: Sequence[str]) -> list[tuple[float, int]]:
        self.read_texts += [(r.text, a, len(r.visual_prompts)) for r, a in zip(requests, answers, strict=True)]
        return [(2.0 * len(answer.split()) + 1.0, len(answer.split()) + 1) for answer in answers]


def _rows(scenes, save_corpus, wording, student):
    samples = [sample for scene in scenes for sample in scene.samples]
    questions = [question for benchmark in BENCHMARKS.values() for question in benchmark.questions(samples, wording)]
    # Both kinds meet in one batch.
    questions.sort(key=lambda question: (question.image_id, question.sample_id, question.variant.value))
    return answer_questions(
        questions, save_corpus(scenes), student, BENCHMARKS, questions_per_batch=7, max_new_tokens=8
    )


def test_answers_in_words_are_read_and_all_others_are_answered(scenes, save_corpus, wording, oracle) -> None:
    reader = _Reader(oracle)
    rows = _rows(scenes, save_corpus, wording, reader)
    read = [row for row in rows if row.benchmark == "text_loss"]
    assert sorted(reader.read_texts) == sorted(
        [("describe <region1>", f"<region1>: a {colour} square", 1) for colour in ("red", "green", "blue", "red")]
        + [(row.question, row.answer, 1) for row in read if row.task == "multiple_choice"]
    )
    assert {row.task for row in read} == {"description", "multiple_choice"}
    assert all(row.answer == row.truth_text for row in read)
    assert all(row.num_tokens == len(row.answer.split()) + 1 for row in read)
    assert all(row.score == pytest.approx(math.exp(-row.nats / row.num_tokens)) for row in read)
    scores = {(s.benchmark, s.variant, s.metric): s for s in score_table(rows, BENCHMARKS) if s.overall}
    words = sum(len(row.answer.split()) for row in read)
    assert scores["text_loss", Variant.STANDARD, "text_loss"].value == pytest.approx(
        (2 * words + len(read)) / (words + len(read))
    )
    assert scores["referring", Variant.STANDARD, "cIoU"].value == 1.0
    assert scores["referring", Variant.STANDARD, "boundary_F"].value == 1.0


def test_only_answers_without_masks_are_read(scenes, wording) -> None:
    samples = [sample for scene in scenes for sample in scene.samples]
    asked = TextLossConfig(tasks=(Task.CATEGORY,), variants=(Variant.STANDARD, Variant.UNTRAINED)).build()
    questions = asked.questions(samples, wording)
    assert {question.task for question in questions} == {"category"}
    assert all(question.read for question in questions)
    assert {question.variant for question in questions} == {Variant.STANDARD, Variant.UNTRAINED}


def test_what_was_read_survives_storage(scenes, save_corpus, wording, oracle) -> None:
    rows = _rows(scenes, save_corpus, wording, _Reader(oracle))
    back = table_to_predictions(predictions_to_table(rows))
    assert [row for row in back if row.benchmark == "text_loss"] == [r for r in rows if r.benchmark == "text_loss"]
    assert [row.boundary_f for row in back] == [row.boundary_f for row in rows]
    assert {row.boundary_f for row in back if row.variant is Variant.STANDARD} == {1.0, None}
