"""Users' own data: JSON Lines, JSON or Parquet in the schema of docs/own-data.md, one row per sample.

A row has `image` and at most one of the fields that say what it is about: `expression`, `category`, `caption`,
`description`, `question` or `turns`; without any, the picture stands alone. `regions` are masks (`segmentation`: the
only one); `<region1>` in a text points at the first of them, and each `[SEG]` of an answer takes the next that nothing
points at. Regions are numbered from 1. Null is as good as absent, so that Parquet can hold rows of several forms; a
field that isn't known is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from pydantic import Field, field_validator

from pipelines.curation.families.base import Source, draft_or_reject
from pipelines.curation.records import Draft, RecordError, SourceImage
from pipelines.curation.steps.fields import optional_integer, sequence, shown, string
from pipelines.curation.steps.generic_rows import (
    RowTurn,
    known_fields,
    placed,
    row_prompts,
    row_regions,
    row_targets,
    row_turn,
    spoken,
)
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import expression, region_token, required_text, single_line
from pipelines.curation.steps.webdataset import expand_shards
from storage.schema import Reject, RejectReason, Task, Turn, VisualPrompt

__all__ = ["GenericSource", "known_row_fields"]

_SUFFIXES = (".jsonl", ".json", ".parquet")
_QUESTIONS = (Task.REASONING, Task.CONVERSATION, Task.MULTIPLE_CHOICE, Task.VISUAL_TEXT_REFERRING)
_TASKS: dict[str, tuple[Task, ...]] = {
    "expression": (Task.REFERRING,),
    "category": (Task.SEMANTIC, Task.INSTANCE, Task.CATEGORY),
    "caption": (Task.CAPTION, Task.GROUNDED_CAPTION),
    "description": (Task.DESCRIPTION,),
    "question": _QUESTIONS,
    "turns": _QUESTIONS,
    "image": (Task.UNLABELLED,),
}
"""Tasks by the field that says what a row is about; of `category` the first is meant if the row doesn't say."""
_EVERYWHERE = {"image", "split", "task", "height", "width"}
_MASKS = {"regions", "segmentation"}
_GOES_WITH: dict[str, set[str]] = {
    "expression": _MASKS,
    "category": {*_MASKS, "prompts"},
    "caption": {*_MASKS, "targets"},
    "description": {*_MASKS, "prompts"},
    "question": {*_MASKS, "prompts", "answer", "options", "targets"},
    "turns": {*_MASKS, "prompts"},
    "image": set(),
}
_FIELDS = {*_EVERYWHERE, *_TASKS, *(field for fields in _GOES_WITH.values() for field in fields)}
_OF_TURN = ("question", "answer", "options", "targets")


class GenericSource(Source):
    """Files in the schema of docs/own-data.md."""

    kind: Literal["generic"] = "generic"
    """The family's module."""
    images: str = ""
    """Folder of the images under `image_root`, or an archive that holds them; empty: `image_root` itself."""
    rows: tuple[str, ...] = Field(default=("rows.jsonl",), min_length=1)
    """Files of rows under the root: `.jsonl`, `.json` (a list) or `.parquet`; `{00000..00099}` stands for a range of
    numbers, as in WebDataset."""
    family: str = Field(default="generic", pattern=r"^[A-Za-z0-9_+.-]+$")
    """What its samples are called by, in mixtures and in reports."""
    split: str = Field(default="train", min_length=1)
    """Split of the rows that name none."""

    @field_validator("rows")
    @classmethod
    def _known_format(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name.endswith(_SUFFIXES):
                raise ValueError(f"{name}: expected a file whose name ends with {', '.join(_SUFFIXES)}")
        return names

    def source_files(self) -> tuple[str, ...]:
        """The files of rows; painted masks are read picture by picture."""
        return tuple(name for pattern in self.rows for name in expand_shards(pattern))

    def parts(self) -> tuple[Source, ...]:
        """One for each file of rows."""
        return tuple(self.model_copy(update={"rows": (name,)}) for name in self.source_files())

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per row."""
        for name in self.source_files():
            for row, value in enumerate(files.rows(name)):
                locator = f"row={row}"
                yield draft_or_reject(self.family, name, locator, partial(self._draft, name, locator, value))

    def _draft(self, name: str, locator: str, value: object) -> Draft:
        record = known_fields(value, "row", _FIELDS)
        subject = _subject(record)
        regions = row_regions(record)
        prompts, turns = placed(_turns(subject, record, len(regions)), row_prompts(record, len(regions)), len(regions))
        image = string(record, "image")
        return Draft(
            family=self.family,
            task=_task(subject, record, turns, prompts),
            split=self.split_name(required_text(string(record, "split"), "split") if "split" in record else self.split),
            image=SourceImage(
                path=safe_join(self.images, image),
                height=optional_integer(record, "height", minimum=1),
                width=optional_integer(record, "width", minimum=1),
                coco_id=coco_id_of(image),
            ),
            regions=regions,
            prompts=prompts,
            turns=turns,
            source_file=name,
            locator=locator,
        )


def known_row_fields() -> set[str]:
    """Every field that a row may have."""
    return set(_FIELDS)


def _subject(record: dict[str, object]) -> str:
    """The field that says what a row is about; `image` if none does."""
    subjects = [field for field in _TASKS if field in record and field != "image"]
    if len(subjects) > 1:
        raise RecordError(
            RejectReason.FIELD_INVALID,
            f"row: expected one of {', '.join(subjects)}, got all of them; make rows of them",
        )
    subject = subjects[0] if subjects else "image"
    lost = sorted(set(record) - _EVERYWHERE - _GOES_WITH[subject] - {subject})
    if lost:
        where = "no field that says what the row is about" if subject == "image" else subject
        raise RecordError(RejectReason.FIELD_INVALID, f"row: {', '.join(lost)} doesn't go with {where}")
    return subject


def _said_task(record: dict[str, object]) -> str | None:
    return string(record, "task") if "task" in record else None


def _turns(subject: str, record: dict[str, object], num_regions: int) -> list[RowTurn]:
    if subject == "image":
        return []
    if subject == "question":
        return [row_turn({field: record[field] for field in _OF_TURN if field in record}, num_regions)]
    if subject == "turns":
        rows = [known_fields(turn, "turn", _OF_TURN) for turn in sequence(record, "turns")]
        if not rows:
            raise RecordError(RejectReason.TEXT_EMPTY, "turns: expected at least one, got none")
        return [row_turn(row, num_regions) for row in rows]
    if subject == "caption":
        return [RowTurn("", spoken(record, "caption"), targets=row_targets(record, num_regions))]
    if subject == "description":
        return [RowTurn(region_token(1), spoken(record, "description"))]
    every = tuple(range(num_regions))
    if subject == "expression":
        # No region is an answer of its own, but only if the row says so.
        if not _MASKS & set(record):
            raise RecordError(
                RejectReason.ANNOTATION_MISSING,
                "expression: expected segmentation or regions beside it; `regions: []` says that nothing is meant",
            )
        return [RowTurn(expression(string(record, "expression")), targets=(every,))]
    phrase = required_text(single_line(string(record, "category")), "category")
    if not every and "prompts" not in record:
        raise RecordError(RejectReason.ANNOTATION_MISSING, "category: expected segmentation or regions beside it")
    if _said_task(record) == Task.CATEGORY:
        return [RowTurn(region_token(1), phrase)]
    is_instance = _said_task(record) == Task.INSTANCE
    return [RowTurn(phrase, targets=tuple((place,) for place in every) if is_instance else (every,))]


def _task(subject: str, record: dict[str, object], turns: tuple[Turn, ...], prompts: tuple[VisualPrompt, ...]) -> Task:
    """The task that a row names, which must go with what it is about, or that follows from its fields."""
    said = _said_task(record)
    if said is not None:
        if said not in _TASKS[subject]:
            known = ", ".join(_TASKS[subject])
            raise RecordError(
                RejectReason.FIELD_INVALID, f"task: expected {known} for a row of {subject}, got {shown(said)}"
            )
        task = Task(said)
    elif subject in ("question", "turns"):
        task = _task_of_questions(turns, prompts)
    elif subject == "caption":
        task = Task.GROUNDED_CAPTION if turns[0].targets else Task.CAPTION
    else:
        task = _TASKS[subject][0]
    _check_answers(task, turns)
    return task


def _task_of_questions(turns: tuple[Turn, ...], prompts: tuple[VisualPrompt, ...]) -> Task:
    if any(turn.options for turn in turns):
        return Task.MULTIPLE_CHOICE
    if any(turn.targets for turn in turns):
        return Task.VISUAL_TEXT_REFERRING if prompts else Task.REASONING
    return Task.CONVERSATION


def _check_answers(task: Task, turns: tuple[Turn, ...]) -> None:
    for turn in turns:
        if turn.answer is None and task in _QUESTIONS and not any(turn.targets):
            raise RecordError(RejectReason.FIELD_INVALID, "answer: expected it, or regions that answer, got neither")
        if task is Task.MULTIPLE_CHOICE and not turn.options:
            raise RecordError(RejectReason.FIELD_INVALID, "options: expected at least one for multiple_choice")
