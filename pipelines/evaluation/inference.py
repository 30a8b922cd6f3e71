"""Questions in, judged predictions out: one shard at a time, without Ray."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from model.predictor import Predictor, Request
from pipelines.evaluation.records import (
    Answered,
    AnswerLike,
    Benchmark,
    Prediction,
    Question,
    Truth,
    Variant,
    predictions_to_table,
    table_to_predictions,
)
from storage.corpus import Corpus, image_bytes
from storage.errors import DataError
from storage.manifest import FileEntry
from storage.masks import area_px, decode_mask, decode_masks
from storage.objects import Objects
from storage.pictures import open_picture
from storage.schema import ImageRecord, Mask

__all__ = [
    "LoadStudent",
    "Reader",
    "Student",
    "answer_questions",
    "joined_bitmap",
    "load_student",
    "picture_of",
    "read_predictions",
    "shard_name",
    "split_in_shards",
    "write_shard",
]


class Student(Protocol):
    """Whoever answers; `model.predictor.Predictor` is one."""

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64) -> Sequence[AnswerLike]:
        """One answer per request, in order."""
        ...


class Reader(Protocol):
    """Whoever can say how likely it holds a text; `model.predictor.Predictor` is one."""

    def read(self, requests: Sequence[Request], answers: Sequence[str]) -> Sequence[tuple[float, int]]:
        """Cross-entropy of each answer in nats, summed over its tokens, and their number."""
        ...


LoadStudent = Callable[[Objects, str, bool], Student]
"""Makes a student from a checkpoint, a device, and whether it is to be left untrained."""


def load_student(checkpoint: Objects, device: str, untrained: bool) -> Student:
    """The student of a checkpoint, or one of the same shape with random weights."""
    return Predictor.load_untrained(checkpoint, device) if untrained else Predictor.load(checkpoint, device)


def picture_of(record: ImageRecord) -> Image.Image:
    """An image of the corpus in RGB, as stored (EXIF orientation not applied).

    Raises:
        DataError: its bytes are gone, others than they were, or no picture.
    """
    data = image_bytes(record)
    try:
        return open_picture(data).convert("RGB")
    except OSError as error:
        raise DataError(f"image {record.image_id}: {error}; expected a readable picture; run curate again") from error


def split_in_shards(questions: Sequence[Question], questions_per_shard: int) -> dict[str, list[Question]]:
    """Questions by the name of the file that their predictions go to; a shard is answered by one student."""
    shards: dict[str, list[Question]] = {}
    for untrained in (False, True):
        own = [question for question in questions if (question.variant is Variant.UNTRAINED) is untrained]
        for index, start in enumerate(range(0, len(own), questions_per_shard)):
            shards[shard_name(untrained, index)] = own[start : start + questions_per_shard]
    return shards


def shard_name(untrained: bool, index: int) -> str:
    """Key of one file of predictions.

    >>> shard_name(False, 7)
    'predictions/trained-00007.parquet'
    """
    return f"predictions/{'untrained' if untrained else 'trained'}-{index:05d}.parquet"


def answer_questions(
    questions: Sequence[Question],
    corpus: Corpus,
    student: Student,
    benchmarks: Mapping[str, Benchmark],
    *,
    questions_per_batch: int,
    max_new_tokens: int,
) -> list[Prediction]:
    """Asks the student and judges its answers.

    While it answers a batch, one thread decodes the pictures of the next and another judges the one before.

    Args:
        questions: clustered by image.
        corpus: where the pictures lie.
        student: who answers.
        benchmarks: by name; they judge.
        questions_per_batch: questions given to the student at once.
        max_new_tokens: upper bound of an answer, in tokens.

    Returns:
        One row per question, and one more for each that is also scored against a swapped truth or by released rules.
    """
    batches = [
        questions[start : start + questions_per_batch] for start in range(0, len(questions), questions_per_batch)
    ]
    rows: list[Prediction] = []
    judged: Future[list[Prediction]] | None = None
    with ThreadPoolExecutor(2, thread_name_prefix="evaluate") as threads:
        for batch, pictures in _read_ahead(batches, corpus, threads):
            answers = _answers(batch, student, pictures, max_new_tokens)
            again = _asked_again(batch, answers, student, pictures, max_new_tokens)
            if judged is not None:
                rows += judged.result()
            judged = threads.submit(_judged_batch, batch, answers, again, benchmarks)
        return rows if judged is None else rows + judged.result()


def _answers(
    batch: Sequence[Question], student: Student, pictures: Mapping[str, Image.Image], max_new_tokens: int
) -> list[Answered]:
    """What the student says to each question, or how likely it holds the truth's text where that is to be read."""
    given: dict[int, Answered] = {}
    asked = [place for place, question in enumerate(batch) if not question.read]
    if asked:
        answers = student.answer([_request(batch[place], pictures) for place in asked], max_new_tokens)
        given |= zip(asked, map(Answered.of, answers), strict=True)
    read = [place for place, question in enumerate(batch) if question.read]
    if read:
        texts = [batch[place].truth.text for place in read]
        found = cast("Reader", student).read([_request(batch[place], pictures) for place in read], texts)
        for place, text, (nats, num_tokens) in zip(read, texts, found, strict=True):
            given[place] = Answered(text=text, nats=nats, num_tokens=num_tokens)
    return [given[place] for place in range(len(batch))]


def _read_ahead(
    batches: Iterable[Sequence[Question]], corpus: Corpus, threads: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[Question], dict[str, Image.Image]]]:
    """Batches with their pictures, those of the next one being decoded meanwhile."""

    def pictures_of(batch: Sequence[Question]) -> dict[str, Image.Image]:
        return {image_id: picture_of(corpus.image(image_id)) for image_id in {q.image_id for q in batch}}

    waiting: deque[tuple[Sequence[Question], Future[dict[str, Image.Image]]]] = deque()
    for batch in batches:
        waiting.append((batch, threads.submit(pictures_of, batch)))
        if len(waiting) > 1:
            first, pictures = waiting.popleft()
            yield first, pictures.result()
    for last, pictures in waiting:
        yield last, pictures.result()


def _request(question: Question, pictures: Mapping[str, Image.Image], answer_prefix: str = "") -> Request:
    return Request(
        image=pictures[question.image_id],
        text=question.text,
        visual_prompts=tuple(decode_mask(mask) for mask in question.prompts),
        answer_prefix=answer_prefix,
    )


def _asked_again(
    batch: Sequence[Question],
    answers: Sequence[Answered],
    student: Student,
    pictures: Mapping[str, Image.Image],
    max_new_tokens: int,
) -> dict[int, AnswerLike]:
    """Second answers by their places in the batch, of questions that got no mask and are to be asked again."""
    places = [
        place
        for place, (question, answer) in enumerate(zip(batch, answers, strict=True))
        if question.released and question.retry_prefix and not len(answer.masks)
    ]
    if not places:
        return {}
    requests = [_request(batch[place], pictures, batch[place].retry_prefix) for place in places]
    return dict(zip(places, student.answer(requests, max_new_tokens), strict=True))


def _judged_batch(
    batch: Sequence[Question],
    answers: Sequence[Answered],
    again: Mapping[int, AnswerLike],
    benchmarks: Mapping[str, Benchmark],
) -> list[Prediction]:
    """The rows of a batch; `again` holds second answers by their places in it."""
    rows: list[Prediction] = []
    for place, (question, answer) in enumerate(zip(batch, answers, strict=True)):
        benchmark = benchmarks[question.benchmark]
        rows.append(_judged(benchmark, question, question.variant, question.truth, answer))
        if question.swapped is not None:
            rows.append(_judged(benchmark, question, Variant.SWAPPED, question.swapped, answer))
        if question.released:
            second = Answered.of(again[place]) if place in again else answer
            rows.append(_judged(benchmark, question, Variant.RELEASED, question.truth, second))
    return rows


def _judged(benchmark: Benchmark, question: Question, variant: Variant, truth: Truth, answer: Answered) -> Prediction:
    verdict = benchmark.judge(replace(question, variant=variant), truth, answer)
    return Prediction(
        benchmark=question.benchmark,
        variant=variant,
        sample_id=question.sample_id,
        turn=question.turn,
        image_id=question.image_id,
        family=question.family,
        task=question.task,
        split=question.split,
        expression=question.expression,
        question=question.text,
        prompts=question.prompts,
        answer=answer.text,
        masks=answer.masks,
        mask_scores=answer.scores,
        truth_sample_id=truth.sample_id,
        truth_turn=truth.turn,
        truth_text=truth.text,
        references=truth.references,
        num_targets=len(truth.masks),
        truth_area_px=sum(area_px(mask) for mask in truth.masks),
        intersection_px=verdict.intersection_px,
        union_px=verdict.union_px,
        no_target=verdict.no_target,
        predicted_no_target=verdict.predicted_no_target,
        ious=verdict.ious,
        score=verdict.score,
        boundary_f=verdict.boundary_f,
        nats=answer.nats,
        num_tokens=answer.num_tokens,
    )


def write_shard(objects: Objects, name: str, rows: Sequence[Prediction]) -> bool:
    """Writes one file of predictions, create-only; False if it was there already."""
    return objects.create(name, parquet_bytes(predictions_to_table(rows)))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as one Parquet file; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_predictions(objects: Objects, names: Sequence[str] | None = None) -> list[Prediction]:
    """Predictions of an evaluation, in order of their files.

    Args:
        objects: the evaluation's prefix.
        names: keys of the files; None: all that are there.
    """
    if names is None:
        names = [info.key for info in objects.list("predictions")]
    return [row for name in names for row in table_to_predictions(pq.read_table(io.BytesIO(objects.read(name))))]


def read_shard(objects: Objects, name: str) -> tuple[list[Prediction], FileEntry]:
    """One file of predictions and its entry for the manifest."""
    data = objects.read(name)
    rows = table_to_predictions(pq.read_table(io.BytesIO(data)))
    return rows, FileEntry.of(name, data, len(rows))


def joined_bitmap(masks: Sequence[Mask]) -> NDArray[np.bool_] | None:
    """All masks in one bool (height, width) array; None for none."""
    return np.logical_or.reduce(decode_masks(masks)) if masks else None


def truth_bitmap(truth: Truth) -> NDArray[np.bool_] | None:
    """All masks of a truth in one bool (height, width) array; None if it has none."""
    return joined_bitmap(truth.masks)
