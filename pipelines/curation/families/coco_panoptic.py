"""COCO panoptic: a JSON file that lists the segments of each picture, and a PNG per picture that paints them.

Three uses, each with records of its own:

- `instance`: a thing category, one mask per instance (a crowd segment is no instance: rejected);
- `semantic`: a category, one mask of all its segments;
- `category`: a segment as visual prompt, answered by its category.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipelines.curation.families.base import Source, rejected
from pipelines.curation.records import Draft, DraftRegion, PanopticSegment, RecordError, SourceImage
from pipelines.curation.steps.coco import CocoIndex
from pipelines.curation.steps.fields import integer, mapping, sequence, string
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import category_phrase, region_token, required_text
from storage.schema import PromptKind, Reject, RejectReason, Task, Turn, VisualPrompt

__all__ = ["CocoPanopticSource"]

_FAMILY = "coco_panoptic"
_TASKS = {"instance": Task.INSTANCE, "semantic": Task.SEMANTIC}


class CocoPanopticSource(Source):
    """Panoptic annotations of one COCO release and split."""

    kind: Literal["coco_panoptic"] = "coco_panoptic"
    """The family's module."""
    annotations: str = "annotations/panoptic_train2017.json"
    """The JSON file, under the root."""
    segments: str | None = None
    """Folder of the PNG files, under the root; null: beside the JSON file, named like it."""
    images: str = "train2017"
    """Folder of the images under `image_root`."""
    split: str = "train"
    """Split of all its records; the format has none."""
    uses: tuple[Literal["instance", "semantic", "category"], ...] = ("instance", "semantic", "category")
    """What its segments are made into."""

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
                yield rejected(_FAMILY, self.annotations, locator, error)
                continue
            for use in self.uses:
                yield from self._category_use(picture) if use == "category" else self._group_use(picture, use)

    def _picture(self, annotation: dict[str, object], locator: str, index: CocoIndex) -> _Picture:
        image = index.image(integer(annotation, "image_id"), self.images)
        png = safe_join(self.segments or self.annotations.removesuffix(".json"), string(annotation, "file_name"))
        rows = sequence(annotation, "segments_info")
        if not rows:
            raise RecordError(RejectReason.ANNOTATION_MISSING, "segments_info: expected at least one segment, got none")
        segments: list[_Segment | tuple[str, RecordError]] = []
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
        return _Picture(locator=locator, image=image, segments=segments)

    def _category_use(self, picture: _Picture) -> Iterator[Draft | Reject]:
        """A record per segment."""
        for segment in picture.segments:
            if isinstance(segment, tuple):
                yield rejected(_FAMILY, self.annotations, f"{segment[0]}/use=category", segment[1])
                continue
            turn = Turn(text=region_token(1), answer=segment.phrase)
            yield self._draft(picture, f"segment_id={segment.segment_id}/use=category", Task.CATEGORY, (segment,), turn)

    def _group_use(self, picture: _Picture, use: str) -> Iterator[Draft | Reject]:
        """A record per category, and one per segment that can't be part of any."""
        groups: dict[int, list[_Segment]] = {}
        for segment in picture.segments:
            if isinstance(segment, tuple):
                yield rejected(_FAMILY, self.annotations, f"{segment[0]}/use={use}", segment[1])
            elif use == "semantic" or (segment.is_thing and not segment.is_crowd):
                groups.setdefault(segment.category_id, []).append(segment)
            elif segment.is_thing:
                error = RecordError(RejectReason.FILTERED, "iscrowd: a crowd isn't one instance")
                where = f"{picture.locator}/segment_id={segment.segment_id}/use={use}"
                yield rejected(_FAMILY, self.annotations, where, error)
        for category_id, members in groups.items():
            places = tuple(range(len(members)))
            targets = (places,) if use == "semantic" else tuple((place,) for place in places)
            turn = Turn(text=members[0].phrase, targets=targets)
            yield self._draft(picture, f"category_id={category_id}/use={use}", _TASKS[use], tuple(members), turn)

    def _draft(self, picture: _Picture, where: str, task: Task, segments: tuple[_Segment, ...], turn: Turn) -> Draft:
        return Draft(
            family=_FAMILY,
            task=task,
            split=self.split_name(self.split),
            image=picture.image,
            regions=tuple(segment.region for segment in segments),
            prompts=(VisualPrompt(kind=PromptKind.MASK, region=0),) if task is Task.CATEGORY else (),
            turns=(turn,),
            source_file=self.annotations,
            locator=f"{picture.locator}/{where}",
        )


@dataclass(frozen=True, slots=True)
class _Segment:
    segment_id: int
    category_id: int
    phrase: str
    is_thing: bool
    is_crowd: bool
    region: DraftRegion


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    locator: str
    image: SourceImage
    segments: list[_Segment | tuple[str, RecordError]]


def _segment(row: object, index: CocoIndex, png: str) -> _Segment:
    fields = mapping(row, "segment")
    segment_id = integer(fields, "id", minimum=1)
    category_id = integer(fields, "category_id")
    category = index.category_row(category_id)
    name = string(category, "name")
    return _Segment(
        segment_id=segment_id,
        category_id=category_id,
        phrase=required_text(category_phrase(name), "category name"),
        is_thing=integer(category, "isthing") == 1,
        is_crowd=integer(fields, "iscrowd") == 1 if "iscrowd" in fields else False,
        region=DraftRegion(
            segmentation=PanopticSegment(path=png, segment_id=segment_id), category=name, source_id=str(segment_id)
        ),
    )
