"""Pix2Cap: COCO's panoptic segments with a description each, in two uses with records of their own.

- `segmentation`: the description as an expression, the segment as its target. It stays as it is written, but for the
  final full stop that expressions don't have;
- `visual_prompt`: the segment as visual prompt, answered by its description.

A segment without a description is a reject (`text_empty`) of each use. To the format that is one of 5 characters or
fewer, such as `N/A.`, so it is the source that has no text there, not a recipe that filters it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published, draft_or_reject
from pipelines.curation.families.panoptic import PanopticSource, Picture, Segment
from pipelines.curation.records import Draft, RecordError
from pipelines.curation.steps.fields import shown, string
from pipelines.curation.steps.texts import required_text, single_line
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["Pix2CapSource"]

_MAX_CHARS_OF_NONE = 5
"""A description of so many characters or fewer stands for none."""


class Pix2CapSource(PanopticSource):
    """Pix2Cap-COCO: its own JSON file, with the PNG files and the pictures of COCO 2017."""

    published: ClassVar[Published] = Published(
        url="https://github.com/geshang777/pix2cap",
        size="167,254 descriptions of segments on 20,550 COCO pictures",
    )

    family: ClassVar[str] = "pix2cap"
    kind: Literal["pix2cap"] = "pix2cap"
    """The family's module."""
    annotations: str = "annotations/pix2cap_coco_train.json"
    """The JSON file, under the root."""
    segments: str | None = "annotations/panoptic_train2017"
    """Folder of the PNG files, under the root; null: beside the JSON file, named like it."""
    uses: tuple[Literal["segmentation", "visual_prompt"], ...] = ("segmentation", "visual_prompt")
    """What its segments are made into."""

    def picture_records(self, picture: Picture) -> Iterator[Draft | Reject]:
        """A record per use and segment."""
        for use in self.uses:
            for segment in picture.segments:
                if isinstance(segment, tuple):
                    yield self.reject(f"{segment[0]}/use={use}", segment[1])
                else:
                    yield self._record(picture, segment, use)

    def _record(self, picture: Picture, segment: Segment, use: str) -> Draft | Reject:
        where = f"{picture.locator}/segment_id={segment.segment_id}/use={use}"

        def build() -> Draft:
            description = _description(segment.fields)
            if use == "visual_prompt":
                return self.prompt_draft(picture, where, Task.DESCRIPTION, segment, description)
            turn = Turn(text=description.removesuffix(".").rstrip(), targets=((0,),))
            return self.draft(picture, where, Task.REFERRING, (segment,), turn)

        return draft_or_reject(self.family, self.annotations, where, build)


def _description(fields: dict[str, object]) -> str:
    if fields.get("description") is None:
        raise RecordError(RejectReason.TEXT_EMPTY, "description: expected a text, the segment has none")
    text = single_line(string(fields, "description"))
    if len(text) <= _MAX_CHARS_OF_NONE:
        raise RecordError(
            RejectReason.TEXT_EMPTY,
            f"description: expected more than {_MAX_CHARS_OF_NONE} characters, got {shown(text)}",
        )
    return required_text(text, "description")
