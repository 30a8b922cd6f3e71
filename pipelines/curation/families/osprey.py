"""Osprey-724k: regions described at length, and conversations about regions.

Both forms list the regions of a picture under `annotation` and name them `<region1>`, `<region2>`,
... in the text. A description starts with the region it describes (`<region2>: A cup ...`) and is
one record; so is a whole conversation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published, Source, draft_or_reject, rejected
from pipelines.curation.records import Draft, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.coco import checked_segmentation
from pipelines.curation.steps.conversations import conversation_turns
from pipelines.curation.steps.fields import mapping, optional_integer, sequence, shown, string
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import (
    normalise_placeholders,
    region_numbers,
    region_token,
    renumber_regions,
    required_text,
    single_line,
)
from storage.schema import PromptKind, Reject, RejectReason, Task, Turn, VisualPrompt

__all__ = ["OspreySource"]

_FAMILY = "osprey"
_RELEASE_PREFIX = "COCO_train2014_"


class OspreySource(Source):
    """Files of Osprey-724k in either form."""

    published: ClassVar[Published] = Published(
        url="https://huggingface.co/datasets/AntGroup-MI/Osprey-724K",
        licence="CC BY-NC 4.0",
        size="about 724,000 descriptions and conversations; 519 MB",
    )

    kind: Literal["osprey"] = "osprey"
    """The family's module."""
    descriptions: tuple[str, ...] = ("osprey/osprey_detail_description.json",)
    """Files of the detail description form, under the root."""
    conversations: tuple[str, ...] = ()
    """Files of the conversation form (conversation, part, LVIS positive and negative, short form)."""
    image_names: Literal["as_given", "without_release"] = "as_given"
    """`without_release` drops `COCO_train2014_`, for images that lie in a folder of the 2017 release."""
    split: str = "train"
    """Split of all its records; the format has none."""

    def source_files(self) -> tuple[str, ...]:
        """Descriptions, then conversations."""
        return (*self.descriptions, *self.conversations)

    def parts(self) -> tuple[Source, ...]:
        """One for each file."""
        described = (self.model_copy(update={"descriptions": (n,), "conversations": ()}) for n in self.descriptions)
        asked = (self.model_copy(update={"descriptions": (), "conversations": (n,)}) for n in self.conversations)
        return (*described, *asked)

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per description and one per conversation."""
        for name in self.descriptions:
            for row, value in enumerate(files.rows(name)):
                yield from self._descriptions(name, row, value)
        for name in self.conversations:
            for row, value in enumerate(files.rows(name)):
                yield draft_or_reject(_FAMILY, name, f"row={row}", _Conversation(self, name, row, value).draft)

    def _descriptions(self, name: str, row: int, value: object) -> Iterator[Draft | Reject]:
        locator = f"row={row}"
        try:
            record = mapping(value, "record")
            texts = sequence(record, "description")
            if not texts:
                raise RecordError(RejectReason.TEXT_EMPTY, "description: expected at least one, got none")
        except RecordError as error:
            yield rejected(_FAMILY, name, locator, error)
            return
        for place in range(len(texts)):
            build = _Description(self, name, row, record, texts, place).draft
            yield draft_or_reject(_FAMILY, name, f"{locator}/description[{place}]", build)

    def draft(self, name: str, locator: str, task: Task, record: dict[str, object], turns: list[Turn]) -> Draft:
        """A draft whose prompts are the regions that the turns name, in order of their first mention.

        Raises:
            RecordError: a region is named that `annotation` doesn't list, or a field is wrong.
        """
        annotations = sequence(record, "annotation")
        numbers = region_numbers(*(text for turn in turns for text in (turn.text, turn.answer or "")))
        unknown = [number for number in numbers if not 1 <= number <= len(annotations)]
        if unknown:
            raise RecordError(
                RejectReason.PLACEHOLDER_MISMATCH,
                f"<region{unknown[0]}> is named, but annotation lists {len(annotations)} regions",
            )
        places = {number: place for place, number in enumerate(numbers, start=1)}
        return Draft(
            family=_FAMILY,
            task=task,
            split=self.split_name(self.split),
            image=self._image(record),
            regions=tuple(_region(annotations[number - 1], number) for number in numbers),
            prompts=tuple(VisualPrompt(kind=PromptKind.MASK, region=place) for place in range(len(numbers))),
            turns=tuple(
                Turn(text=renumber_regions(turn.text, places), answer=renumber_regions(turn.answer or "", places))
                for turn in turns
            ),
            source_file=name,
            locator=locator,
        )

    def _image(self, record: dict[str, object]) -> SourceImage:
        name = string(record, "file_name")
        coco_id = coco_id_of(name)
        if self.image_names == "without_release":
            name = name.removeprefix(_RELEASE_PREFIX)
        return SourceImage(
            path=safe_join(self.images, name),
            height=optional_integer(record, "height", minimum=1),
            width=optional_integer(record, "width", minimum=1),
            coco_id=coco_id,
        )


class _Description:
    """One description of one row."""

    def __init__(
        self, source: OspreySource, name: str, row: int, record: dict[str, object], texts: list[object], place: int
    ) -> None:
        self._source, self._name, self._record = source, name, record
        self._locator = f"row={row}/description[{place}]"
        self._text = texts[place]

    def draft(self) -> Draft:
        """A DESCRIPTION: the prompt is the region that the text starts with."""
        text = normalise_placeholders(single_line(string({"description": self._text}, "description")))
        numbers = region_numbers(text)
        subject = region_token(numbers[0]) if numbers else ""
        if not numbers or not text.startswith(subject):
            raise RecordError(
                RejectReason.PLACEHOLDER_MISMATCH, f"description: expected to start with <regionN>:, got {shown(text)}"
            )
        answer = text.removeprefix(subject).lstrip(" :")
        turn = Turn(text=subject, answer=required_text(answer, "description", text))
        return self._source.draft(self._name, self._locator, Task.DESCRIPTION, self._record, [turn])


class _Conversation:
    """One row of the conversation form."""

    def __init__(self, source: OspreySource, name: str, row: int, value: object) -> None:
        self._source, self._name, self._value = source, name, value
        self._locator = f"row={row}"

    def draft(self) -> Draft:
        """A CONVERSATION: human and gpt in turn."""
        record = mapping(self._value, "record")
        turns = conversation_turns(record, normalise_placeholders)
        return self._source.draft(self._name, self._locator, Task.CONVERSATION, record, turns)


def _region(value: object, number: int) -> DraftRegion:
    annotation = mapping(value, f"annotation[{number - 1}]")
    return DraftRegion(
        segmentation=checked_segmentation(annotation.get("segmentation")), category=None, source_id=str(number)
    )
