"""What a family reader hands on: a record of its source, not yet checked against the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from storage.schema import RejectReason, Task, Turn, VisualPrompt

__all__ = [
    "PICTURE_FORGOTTEN",
    "CocoSegmentation",
    "Draft",
    "DraftRegion",
    "MaskFile",
    "PaintedShapes",
    "PanopticSegment",
    "RecordError",
    "SourceImage",
]

CocoSegmentation: TypeAlias = "list[list[float]] | dict[str, object]"
"""Polygons (x, y alternating, px), uncompressed RLE (`counts` a list) or compressed RLE (`counts` text or bytes)."""


class RecordError(ValueError):
    """A record that becomes no sample; callers turn it into a `Reject` with file and locator."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RecordError], tuple[RejectReason, str]]:
        return type(self), (self.reason, self.detail)


PICTURE_FORGOTTEN = RecordError(RejectReason.FORGOTTEN, "the picture was removed on request")
"""What is said of every record on such a picture."""


@dataclass(frozen=True, slots=True)
class PanopticSegment:
    """One segment of a panoptic PNG (`path` from the source's root); its id is R + 256 G + 65536 B."""

    path: str
    segment_id: int


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask as a picture of its own (`path` from the source's root): inside is whatever isn't 0."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedShapes:
    """Polygons painted over each other, the largest first; the mask is what then shows of the targets.

    Each polygon is x, y alternating, in px.
    """

    targets: tuple[tuple[float, ...], ...]
    ignored: tuple[tuple[float, ...], ...] = ()
    """Areas that belong to no target and count neither way in evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRegion:
    """A region whose mask is still in the source's own encoding."""

    segmentation: CocoSegmentation | MaskFile | PaintedShapes | PanopticSegment
    category: str | None = None
    source_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """An image as a source names it: path from the image root, and its size in px if the source says it."""

    path: str
    """Of a file, or through an archive to a member of it (see `steps.archives`)."""
    extent: tuple[int, int] | None = None
    """Offset and size in bytes where it lies inside the file at `path`, or inside the archive that `path` leads
    through; None: it is the whole file or member."""
    height: int | None = None
    width: int | None = None
    coco_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A sample less what only the picture can tell: its image id and masks known to fit it."""

    family: str
    task: Task
    split: str
    image: SourceImage
    regions: tuple[DraftRegion, ...] = ()
    prompts: tuple[VisualPrompt, ...] = ()
    turns: tuple[Turn, ...] = ()
    source_file: str
    locator: str
