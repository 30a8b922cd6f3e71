"""MUSE: questions about a picture, each answered with the masks of one or several objects.

A row is a picture with `questions`, for each of them under `answers` the objects that are meant, and under
`text_answers` a sentence in which `{seg}` stands once for each object, or null. A question is one record. The pictures
are of three COCO folders: `file_name` lies in `train2014`, without it the last part of `coco_url` in `train2017` or
`val2017`. Objects keep their `category_name`; for `rephrased_name` the schema has no place, nor is `ann_list`, all
objects of the picture, read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published, Source, draft_or_reject, rejected
from pipelines.curation.records import Draft, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.coco import checked_segmentation
from pipelines.curation.steps.fields import integer, mapping, sequence, shown, string, within
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import SEG, multi_line, required_text, single_line
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["MuseSource"]

_FAMILY = "muse"
_SLOT = "{seg}"
"""Stands in a text answer for an object."""
_RELEASES_BY_URL = ("train2017", "val2017")


class MuseSource(Source):
    """Files of MUSE."""

    published: ClassVar[Published] = Published(
        url="https://github.com/MaverickRen/PixelLM",
        size="246,000 questions and answers on COCO and LVIS pictures",
    )

    kind: Literal["muse"] = "muse"
    """The family's module."""
    images: str = "images"
    """Folder under `image_root` with the folders `train2014`, `train2017` and `val2017`; empty: `image_root` itself."""
    questions: tuple[str, ...] = ("muse/MUSE_train.json",)
    """Files of questions, under the root."""
    split: str = "train"
    """Split of all its records; the format has none."""

    def source_files(self) -> tuple[str, ...]:
        """The files of questions."""
        return self.questions

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per question, and one per row whose lists can't be read."""
        for name in self.questions:
            for row, value in enumerate(files.rows(name)):
                yield from self._row(name, f"row={row}", value)

    def _row(self, name: str, locator: str, value: object) -> Iterator[Draft | Reject]:
        try:
            record = mapping(value, "record")
            questions = sequence(record, "questions")
            if not questions:
                raise RecordError(RejectReason.TEXT_EMPTY, "questions: expected at least one, got none")
            answers = _per_question(record, "answers", len(questions))
            texts: list[object] = [None] * len(questions)
            if record.get("text_answers") is not None:
                texts = _per_question(record, "text_answers", len(questions))
        except RecordError as error:
            yield rejected(_FAMILY, name, locator, error)
            return
        for place, (question, objects, text) in enumerate(zip(questions, answers, texts, strict=True)):
            where = f"{locator}/questions[{place}]"
            build = partial(self._draft, name, where, record, place, question, objects, text)
            yield draft_or_reject(_FAMILY, name, where, build)

    def _draft(
        self,
        name: str,
        locator: str,
        record: dict[str, object],
        place: int,
        question: object,
        value: object,
        text: object,
    ) -> Draft:
        objects = sequence({"answers": value}, "answers")
        if not objects:
            raise RecordError(RejectReason.ANNOTATION_MISSING, "answers: expected at least one object, got none")
        regions = tuple(_region(item, f"answers[{place}][{number}]") for number, item in enumerate(objects))
        turn = Turn(
            text=_question(question),
            answer=None if text is None else _answer(text, len(objects)),
            targets=tuple((number,) for number in range(len(objects))),
        )
        return Draft(
            family=_FAMILY,
            task=Task.REASONING,
            split=self.split_name(self.split),
            image=self._image(record),
            regions=regions,
            turns=(turn,),
            source_file=name,
            locator=locator,
        )

    def _image(self, record: dict[str, object]) -> SourceImage:
        if record.get("file_name") is not None:
            release, file_name = "train2014", string(record, "file_name")
        else:
            url = string(record, "coco_url")
            *folders, file_name = url.split("/")
            found = [release for release in _RELEASES_BY_URL if release in folders]
            if len(found) != 1:
                raise RecordError(
                    RejectReason.FIELD_INVALID, f"coco_url: expected a file in train2017 or val2017, got {shown(url)}"
                )
            release = found[0]
        return SourceImage(
            path=safe_join(f"{self.images}/{release}", file_name),
            height=integer(record, "height", minimum=1),
            width=integer(record, "width", minimum=1),
            coco_id=coco_id_of(file_name),
        )


def _per_question(record: dict[str, object], key: str, num_questions: int) -> list[object]:
    """The list under `key`, which has one entry per question."""
    values = sequence(record, key)
    if len(values) != num_questions:
        raise RecordError(
            RejectReason.FIELD_INVALID, f"{key}: expected one for each of {num_questions} questions, got {len(values)}"
        )
    return values


def _question(value: object) -> str:
    text = single_line(string({"question": value}, "question"))
    if _SLOT in text:
        raise RecordError(RejectReason.PLACEHOLDER_MISMATCH, f"question: {_SLOT} belongs to answers")
    return required_text(text, "question")


def _answer(value: object, num_objects: int) -> str:
    text = multi_line(string({"text_answer": value}, "text_answer"))
    if text.count(_SLOT) != num_objects:
        raise RecordError(
            RejectReason.PLACEHOLDER_MISMATCH,
            f"text_answer: expected {_SLOT} once for each of {num_objects} objects, got it {text.count(_SLOT)} times",
        )
    return text.replace(_SLOT, SEG)


def _region(value: object, where: str) -> DraftRegion:
    with within(where):
        fields = mapping(value, "object")
        return DraftRegion(
            segmentation=checked_segmentation(fields.get("segmentation")),
            category=string(fields, "category_name"),
            source_id=where,
        )
