"""COCO panoptic: the segments of a picture, in three uses with records of their own.

- `instance`: a thing category, one mask per instance (a crowd segment is no instance: rejected);
- `semantic`: a category, one mask of all its segments;
- `category`: a segment as visual prompt, answered by its category.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published
from pipelines.curation.families.panoptic import PanopticSource, Picture, Segment
from pipelines.curation.records import Draft, RecordError
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["CocoPanopticSource"]

_TASKS = {"instance": Task.INSTANCE, "semantic": Task.SEMANTIC}


class CocoPanopticSource(PanopticSource):
    """Panoptic annotations of one COCO release and split."""

    family: ClassVar[str] = "coco_panoptic"
    published: ClassVar[Published] = Published(
        url="https://cocodataset.org/#download",
        licence="CC BY 4.0",
        size="118,287 pictures (train2017) and 5,000 (val2017); annotations 821 MB",
    )

    kind: Literal["coco_panoptic"] = "coco_panoptic"
    """The family's module."""
    uses: tuple[Literal["instance", "semantic", "category"], ...] = ("instance", "semantic", "category")
    """What its segments are made into."""

    def picture_records(self, picture: Picture) -> Iterator[Draft | Reject]:
        """The records of every use."""
        for use in self.uses:
            yield from self._category_use(picture) if use == "category" else self._group_use(picture, use)

    def _category_use(self, picture: Picture) -> Iterator[Draft | Reject]:
        """A record per segment."""
        for segment in picture.segments:
            if isinstance(segment, tuple):
                yield self.reject(f"{segment[0]}/use=category", segment[1])
                continue
            where = f"{picture.locator}/segment_id={segment.segment_id}/use=category"
            yield self.prompt_draft(picture, where, Task.CATEGORY, segment, segment.phrase)

    def _group_use(self, picture: Picture, use: str) -> Iterator[Draft | Reject]:
        """A record per category, and one per segment that can't be part of any."""
        groups: dict[int, list[Segment]] = {}
        for segment in picture.segments:
            if isinstance(segment, tuple):
                yield self.reject(f"{segment[0]}/use={use}", segment[1])
            elif use == "semantic" or (segment.is_thing and not segment.is_crowd):
                groups.setdefault(segment.category_id, []).append(segment)
            elif segment.is_thing:
                error = RecordError(RejectReason.FILTERED, "iscrowd: a crowd isn't one instance")
                yield self.reject(f"{picture.locator}/segment_id={segment.segment_id}/use={use}", error)
        for category_id, members in groups.items():
            places = tuple(range(len(members)))
            targets = (places,) if use == "semantic" else tuple((place,) for place in places)
            turn = Turn(text=members[0].phrase, targets=targets)
            where = f"{picture.locator}/category_id={category_id}/use={use}"
            yield self.draft(picture, where, _TASKS[use], tuple(members), turn)
