"""Evaluations on drawn pictures without a student, whose scores are known from the numbers of the questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from pipelines.evaluation.inference import parquet_bytes
from pipelines.evaluation.records import Prediction, Variant, predictions_to_table
from storage.corpus import Corpus
from storage.keys import content_key
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Mask
from tests.object_corpora import HEIGHT_PX, OBJECTS, WIDTH_PX
from tests.small_corpora import box_region
from tests.toy_predictions import toy_prediction

__all__ = ["iou_of_shift", "shifted_predictions", "write_evaluation"]

_ROWS_PER_FILE = 2_000


@cache
def _box(meant: int, shift_px: int) -> Mask:
    x0, y0, x1, y1 = OBJECTS[meant][1]
    return box_region((x0 + shift_px, y0, min(x1 + shift_px, WIDTH_PX), y1), HEIGHT_PX, WIDTH_PX).mask


def iou_of_shift(number: int, shift_px: int) -> float:
    """The score of an answer that lies so far to the right of the truth."""
    x0, _, x1, _ = OBJECTS[number % len(OBJECTS)][1]
    right = min(x1 + shift_px, WIDTH_PX)
    return (x1 - x0 - shift_px) / (right - x0)


def shifted_predictions(corpus: Corpus, shift_px: Callable[[int], int]) -> list[Prediction]:
    """Answers to all questions of a corpus of `tests.many_samples`, and controls that no list shows.

    Args:
        corpus: that they are about; its samples are numbered.
        shift_px: how far to the right of the truth the answer to a numbered question lies.
    """
    table = corpus.sample_table(["sample_id", "image_id", "family", "split", "turns"])
    rows: list[Prediction] = []
    for sample in table.to_pylist():
        words = sample["turns"][0]["text"]
        number = int(words.rpartition(" ")[2])
        meant, shift = number % len(OBJECTS), shift_px(number)
        rows.append(
            toy_prediction(
                number,
                **{name: sample[name] for name in ("sample_id", "image_id", "family", "split")},
                benchmark="referring" if number % 2 else "other",
                truth_sample_id=sample["sample_id"],
                expression=words,
                question=f"Please segment {words} in this image.",
                answer=f"It is [SEG], {shift} px to the right.",
                masks=(_box(meant, shift),),
                mask_scores=(0.5 + (number % 50) / 100,),
                score=iou_of_shift(number, shift),
            )
        )
    controls = [
        toy_prediction(n, sample_id=row.sample_id, image_id=row.image_id, variant=Variant.SWAPPED)
        for n, row in enumerate(rows[:5])
    ]
    return rows + controls


def write_evaluation(objects: Objects, rows: Sequence[Prediction], corpus_key: str) -> Objects:
    """Publishes predictions as an evaluation without scores.

    Args:
        objects: its prefix.
        rows: the predictions.
        corpus_key: of the corpus that they are about.
    """
    files: list[FileEntry] = []
    for index, start in enumerate(range(0, len(rows), _ROWS_PER_FILE)):
        own = rows[start : start + _ROWS_PER_FILE]
        name, data = f"predictions/trained-{index:05d}.parquet", parquet_bytes(predictions_to_table(own))
        objects.create(name, data)
        files.append(FileEntry.of(name, data, len(own)))
    inputs = {"corpus": corpus_key, "checkpoint": content_key(objects.url)}
    publish(objects, Manifest("evaluation", content_key(inputs), SCHEMA_VERSION, {}, inputs, tuple(files)))
    return objects
