"""COCO's panoptic format: a JSON file that lists the segments of each picture, and a PNG per picture that paints them.

What the families in this format have in common; each makes its own records of a picture's segments.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipelines.curation.families.base import Source, rejected
from pipelines.curation.records import Draft, DraftRegion, PanopticSegment, RecordError, SourceImage
from pipelines.curation.steps.coco import CocoIndex
from pipelines.curation.steps.fields import integer, mapping, sequence, string
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import category_phrase, region_token, required_text
from storage.schema import PromptKind, Reject, RejectReason, Task, Turn, VisualPrompt

__all__ = ["PanopticSource", "Picture", "Segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment of a picture."""

    segment_id: int
    category_id: int
    phrase: str
    """The category in words."""
    is_thing: bool
    is_crowd: bool
    region: DraftRegion
    fields: dict[str, object]
    """The row under `segments_info`, with what a family adds to the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture and its segments; in place of one that can't be read, its locator and the error."""

    locator: str
    image: SourceImage
    segments: list[Segment | tuple[str, RecordError]]


class PanopticSource(Source):
    """Annotations in COCO's panoptic format, of one release and split."""

    family: ClassVar[str]
    """The `family` of the samples."""
    annotations: str = "annotations/panoptic_train2017.json"
    """The JSON file, under the root."""
    segments: str | None = None
    """Folder of the PNG files, under the root; null: beside the JSON file, named like it."""
    images: str = "train2017"
    """Folder of the images under `image_root`."""
    split: str = "train"
    """Split of all its records; the format has none."""

    def source_files(self) -> tuple[str, ...]:
        """The JSON file; the PNGs are read picture by picture."""
        return (self.annotations,)

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """The records of every use, picture by picture."""
        index = CocoIndex(files, self.annotations)
        for row, (_, value) in enumerate(files.tables(self.annotations, "annotations")):
            locator = f"row={row}"
            try:
                annotation = mapping(value, "annotation")
                locator = f"image_id={integer(annotation, 'image_id')}"
                picture = self._picture(annotation, locator, index)
            except RecordError as error:
                yield self.reject(locator, error)
                continue
            yield from self.picture_records(picture)

    @abstractmethod
    def picture_records(self, picture: Picture) -> Iterator[Draft | Reject]:
        """The records of one picture."""

    def reject(self, locator: str, error: RecordError) -> Reject:
        """The reject of a record that gives no draft."""
        return rejected(self.family, self.annotations, locator, error)

    def prompt_draft(self, picture: Picture, locator: str, task: Task, segment: Segment, answer: str) -> Draft:
        """A draft whose one visual prompt is the mask of a segment."""
        turn = Turn(text=region_token(1), answer=answer)
        prompts = (VisualPrompt(kind=PromptKind.MASK, region=0),)
        return self.draft(picture, locator, task, (segment,), turn, prompts)

    def draft(
        self,
        picture: Picture,
        locator: str,
        task: Task,
        segments: tuple[Segment, ...],
        turn: Turn,
        prompts: tuple[VisualPrompt, ...] = (),
    ) -> Draft:
        """A draft whose regions are these segments."""
        return Draft(
            family=self.family,
            task=task,
            split=self.split_name(self.split),
            image=picture.image,
            regions=tuple(segment.region for segment in segments),
            prompts=prompts,
            turns=(turn,),
            source_file=self.annotations,
            locator=locator,
        )

    def _picture(self, annotation: dict[str, object], locator: str, index: CocoIndex) -> Picture:
        image = index.image(integer(annotation, "image_id"), self.images)
        png = safe_join(self.segments or self.annotations.removesuffix(".json"), string(annotation, "file_name"))
        rows = sequence(annotation, "segments_info")
        if not rows:
            raise RecordError(RejectReason.ANNOTATION_MISSING, "segments_info: expected at least one segment, got none")
        segments: list[Segment | tuple[str, RecordError]] = []
        seen: set[int] = set()
        for place, row in enumerate(rows):
            where = f"{locator}/segments_info[{place}]"
            try:
                segment = _segment(row, index, png)
                if segment.segment_id in seen:
                    raise RecordError(RejectReason.FIELD_INVALID, f"id: {segment.segment_id} stands here twice")
                seen.add(segment.segment_id)
                segments.append(segment)
            except RecordError as error:
                segments.append((where, error))
        return Picture(locator=locator, image=image, segments=segments)


def _segment(row: object, index: CocoIndex, png: str) -> Segment:
    fields = mapping(row, "segment")
    segment_id = integer(fields, "id", minimum=1)
    category_id = integer(fields, "category_id")
    category = index.category_row(category_id)
    name = string(category, "name")
    return Segment(
        segment_id=segment_id,
        category_id=category_id,
        phrase=required_text(category_phrase(name), "category name"),
        is_thing=integer(category, "isthing") == 1,
        is_crowd=integer(fields, "iscrowd") == 1 if "iscrowd" in fields else False,
        region=DraftRegion(
            segmentation=PanopticSegment(path=png, segment_id=segment_id), category=name, source_id=str(segment_id)
        ),
        fields=fields,
    )
