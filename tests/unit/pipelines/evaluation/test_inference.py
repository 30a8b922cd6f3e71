from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from model.predictor import Answer
from pipelines.evaluation.benchmarks.choices import MultipleChoiceConfig
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.regions import CategoryConfig, DescriptionConfig
from pipelines.evaluation.benchmarks.visual_text import VisualTextReferringConfig
from pipelines.evaluation.inference import (
    answer_questions,
    picture_of,
    read_predictions,
    split_in_shards,
    write_shard,
)
from pipelines.evaluation.metrics.table import score_table
from pipelines.evaluation.records import Variant
from storage.errors import DataError
from storage.objects import Objects
from storage.schema import ImageRecord
from tests.image_records import file_record

CONFIGS = (
    ReferringConfig(),
    DescriptionConfig(),
    CategoryConfig(),
    MultipleChoiceConfig(),
    VisualTextReferringConfig(),
)
BENCHMARKS = {config.kind: config.build() for config in CONFIGS}


def _rows(scenes, save_corpus, wording, student):
    samples = [sample for scene in scenes for sample in scene.samples]
    questions = [q for benchmark in BENCHMARKS.values() for q in benchmark.questions(samples, wording)]
    return answer_questions(
        questions, save_corpus(scenes), student, BENCHMARKS, questions_per_batch=4, max_new_tokens=8
    )


def test_who_reads_the_question_scores_high_and_falls_when_it_is_swapped(scenes, save_corpus, wording, oracle) -> None:
    scores = {
        (score.benchmark, score.variant, score.metric): score
        for score in score_table(_rows(scenes, save_corpus, wording, oracle), BENCHMARKS)
        if score.family is None
    }
    standard, swapped, moved = Variant.STANDARD, Variant.SWAPPED, Variant.MOVED
    assert scores["referring", standard, "cIoU"].value == 1.0
    assert scores["referring", standard, "cIoU"].num_samples == 4
    assert scores["referring", standard, "N_acc"].value == 1.0
    assert scores["referring", standard, "gres_gIoU"].num_samples == 6
    assert scores["referring", swapped, "cIoU"].value == 0.0
    assert scores["referring", swapped, "cIoU"].num_images == 1
    assert scores["description", standard, "attribute_accuracy"].value == 1.0
    assert scores["description", moved, "changed"].value == 1.0
    assert scores["description", moved, "all_attributes"].value == 1.0
    assert scores["category", standard, "accuracy"].value == 1.0
    assert scores["multiple_choice", standard, "accuracy"].value == 1.0
    assert scores["visual_text_referring", standard, "cIoU"].value == 1.0
    assert scores["visual_text_referring", moved, "cIoU"].value == 0.0


class _Watched:
    """A corpus that tells which pictures were read."""

    def __init__(self, corpus) -> None:
        self._corpus = corpus
        self.read: dict[str, threading.Event] = defaultdict(threading.Event)

    def image(self, image_id: str) -> ImageRecord:
        record = self._corpus.image(image_id)
        self.read[image_id].set()
        return record


def test_the_next_pictures_are_read_while_the_student_answers(scenes, save_corpus, wording, oracle) -> None:
    samples = [sample for scene in scenes for sample in scene.samples]
    benchmark = ReferringConfig(variants=(Variant.STANDARD,)).build()
    questions = benchmark.questions(samples, wording)
    last = questions[-1].image_id
    per_picture = sum(question.image_id != last for question in questions)
    corpus = _Watched(save_corpus(scenes))
    seen: list[bool] = []

    class Student:
        def answer(self, requests, max_new_tokens: int = 64):
            seen.append(corpus.read[last].wait(timeout=30))
            return oracle.answer(requests)

    rows = answer_questions(
        questions, corpus, Student(), {"referring": benchmark}, questions_per_batch=per_picture, max_new_tokens=8
    )
    assert len(seen) > 1
    assert all(seen)
    assert [row.sample_id for row in rows] == [question.sample_id for question in questions]


def test_an_answer_that_cannot_be_judged_ends_the_run(scenes, save_corpus, wording) -> None:
    samples = [sample for scene in scenes for sample in scene.samples]
    benchmark = ReferringConfig(variants=(Variant.STANDARD,)).build()

    class Student:
        def answer(self, requests, max_new_tokens: int = 64):
            return [Answer("It is [SEG].", (np.ones((5, 5), bool),), (1.0,)) for _ in requests]

    with pytest.raises(DataError, match=r"expected masks of \(24, 32\) px .* got \(5, 5\)"):
        answer_questions(
            benchmark.questions(samples, wording),
            save_corpus(scenes),
            Student(),
            {"referring": benchmark},
            questions_per_batch=1,
            max_new_tokens=8,
        )


def test_scores_are_listed_by_family_where_there_are_several(scenes, save_corpus, wording, oracle) -> None:
    scores = score_table(_rows(scenes, save_corpus, wording, oracle), BENCHMARKS)
    groups = {(s.family, s.task, s.split) for s in scores if s.benchmark == "referring"}
    assert groups == {(None, None, None), ("toy", "referring", "val"), ("none", "referring", "val")}
    assert all(s.low <= s.value <= s.high for s in scores)


def test_shards_hold_one_student_each_and_every_question_once(scenes, wording) -> None:
    samples = [sample for scene in scenes for sample in scene.samples]
    questions = ReferringConfig().build().questions(samples, wording)
    shards = split_in_shards(questions, 4)
    assert list(shards) == [f"predictions/{who}-{n:05d}.parquet" for who in ("trained", "untrained") for n in (0, 1)]
    assert sorted(q.sample_id for shard in shards.values() for q in shard) == sorted(q.sample_id for q in questions)
    for name, shard in shards.items():
        assert {q.variant is Variant.UNTRAINED for q in shard} == {"untrained" in name}


def test_predictions_survive_storage(scenes, save_corpus, wording, oracle, tmp_path) -> None:
    rows = _rows(scenes, save_corpus, wording, oracle)
    objects = Objects.open(str(tmp_path / "out"))
    assert write_shard(objects, "predictions/trained-00000.parquet", rows)
    assert not write_shard(objects, "predictions/trained-00000.parquet", rows[:1])
    kept = read_predictions(objects)
    assert [row.mask_scores for row in kept] == [pytest.approx(row.mask_scores) for row in rows]
    assert [row.masks for row in kept] == [row.masks for row in rows]
    assert [row.prompts for row in kept] == [row.prompts for row in rows]
    assert [row.score for row in kept] == [row.score for row in rows]


def test_picture_that_cannot_be_read_is_named() -> None:
    record = replace(file_record(b"no picture", 1, 1), image_id="abc")
    with pytest.raises(DataError, match=r"image abc: .*expected a readable picture"):
        picture_of(record)


def test_picture_may_lie_elsewhere(scenes, tmp_path) -> None:
    record = scenes[0].record
    assert record.data is not None
    (tmp_path / "p.png").write_bytes(record.data)
    elsewhere = replace(record, data=None, uri=str(tmp_path / "p.png"))
    assert picture_of(elsewhere).tobytes() == picture_of(record).tobytes()
