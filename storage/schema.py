"""The one contract between stages: frozen records and their Arrow schemas.

A *sample* is the smallest unit of facts about one image: one expression with its target, one
region with its description, one conversation. Facts never change; the wordings that frame them
("Can you segment ... ?") are drawn at training time from a seeded generator.

Coordinates are pixels of the image as stored (EXIF orientation not applied), x to the right and y
down, with boxes as `x0, y0, x1, y1` (exclusive end). Masks are compressed COCO RLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

__all__ = [
    "IMAGE_SCHEMA",
    "REJECT_SCHEMA",
    "SAMPLE_SCHEMA",
    "SCHEMA_VERSION",
    "FeatureRef",
    "ImageRecord",
    "Mask",
    "PromptKind",
    "Region",
    "Reject",
    "RejectReason",
    "Sample",
    "Task",
    "Turn",
    "VisualPrompt",
]

SCHEMA_VERSION = 3
"""Raised whenever a record or a stored layout changes meaning; part of every content key."""


class Task(StrEnum):
    """What a sample asks for; decides the wordings and how answers are scored."""

    REFERRING = "referring"
    """An expression; one mask, the union of its targets; no target: an empty mask."""
    SEMANTIC = "semantic"
    """A category name; one mask, the union of all its segments."""
    INSTANCE = "instance"
    """A category name; one mask per instance, from left to right."""
    REASONING = "reasoning"
    """A question whose answer, if the source gives one, holds a `[SEG]` per target."""
    GROUNDED_CAPTION = "grounded_caption"
    """The whole picture described, with `<p>phrase</p> [SEG]` for what is grounded."""
    DESCRIPTION = "description"
    """A visual prompt described in free words."""
    CATEGORY = "category"
    """A visual prompt named by its category."""
    CONVERSATION = "conversation"
    """Questions and answers as the source gives them, with or without visual prompts."""
    MULTIPLE_CHOICE = "multiple_choice"
    """A question on visual prompts with options, one of them right."""
    VISUAL_TEXT_REFERRING = "visual_text_referring"
    """A question that names visual prompts; one mask per `[SEG]` of the answer."""
    CAPTION = "caption"
    """The whole picture described in free words."""
    UNLABELLED = "unlabelled"
    """A picture alone; trains by distillation only."""


class PromptKind(StrEnum):
    """The form in which a user points at a region."""

    MASK = "mask"
    BOX = "box"
    POINT = "point"
    SCRIBBLE = "scribble"


class RejectReason(StrEnum):
    """Why a record became no sample. Codes are durable: add, never rename."""

    IMAGE_MISSING = "image_missing"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_SIZE_MISMATCH = "image_size_mismatch"
    IMAGE_UNKNOWN = "image_unknown"
    """A record or annotation that names an image its source doesn't list."""
    ANNOTATION_MISSING = "annotation_missing"
    CATEGORY_UNKNOWN = "category_unknown"
    FIELD_INVALID = "field_invalid"
    """A field of the wrong type, absent, or out of range; `detail` names it."""
    MASK_INVALID = "mask_invalid"
    MASK_OUTSIDE_IMAGE = "mask_outside_image"
    MASK_EMPTY = "mask_empty"
    TEXT_EMPTY = "text_empty"
    PLACEHOLDER_MISMATCH = "placeholder_mismatch"
    """`<regionN>` or `[SEG]` placeholders that don't match prompts or targets."""
    PATH_UNSAFE = "path_unsafe"
    """A file name that leads out of the source's folder."""
    DUPLICATE = "duplicate"
    LEAKAGE = "leakage"
    """A training sample on an evaluation image of another set."""
    FILTERED = "filtered"
    """A rule of the source's format; `detail` names the rule and the value."""
    EXPRESSION_DUPLICATE = "expression_duplicate"
    """Says the same of the same target as another one. This and the next five are quality rules of the recipe."""
    EXPRESSION_LENGTH = "expression_length"
    IMAGE_DUPLICATE = "image_duplicate"
    """The picture looks like another one that stays."""
    MASK_AREA = "mask_area"
    MASK_BORDER = "mask_border"
    MASK_DEGENERATE = "mask_degenerate"
    TEACHER_FAILED = "teacher_failed"
    FORGOTTEN = "forgotten"
    """On a picture that somebody has asked to remove."""


@dataclass(frozen=True, slots=True)
class Mask:
    """A binary mask as compressed COCO RLE: `counts` of a (height, width) bitmap, column-major."""

    height: int
    width: int
    counts: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of an image: its mask, the category if known, and the source's own id of it.

    `ignored` are pixels beside the mask of which the source doesn't say whether they belong to it: where masks are
    compared with this one they count neither way.
    """

    mask: Mask
    category: str | None = None
    source_id: str | None = None
    ignored: Mask | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualPrompt:
    """How a region is pointed at.

    MASK uses the mask of `Sample.regions[region]`; BOX uses `box_xyxy_px`; POINT and SCRIBBLE use
    `points_xy_px`. `region` says which region is meant whenever the source knows it.
    """

    kind: PromptKind
    region: int | None = None
    box_xyxy_px: tuple[float, float, float, float] | None = None
    points_xy_px: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One exchange, as facts.

    `text` is what the source says on the user's side: an expression, a category name or a
    question. `answer` is the assistant's side where the source has one; None means that the
    wording follows from the task. In both, `<region1>` stands for the first visual prompt of the
    sample, and each `[SEG]` of the answer stands for the next entry of `targets`: indices into
    `Sample.regions` whose union is that mask (empty: no target).
    """

    text: str
    answer: str | None = None
    targets: tuple[tuple[int, ...], ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The smallest unit of facts about one image (None: text only).

    `sample_id` is a content key over all other fields. `source_file` and `locator` lead back to
    the record it was made of. `split` is the source's own word (`train`, `testA`, ...).
    """

    sample_id: str
    image_id: str | None
    family: str
    task: Task
    split: str
    regions: tuple[Region, ...] = ()
    prompts: tuple[VisualPrompt, ...] = ()
    turns: tuple[Turn, ...] = ()
    source_file: str
    locator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image: `image_id` is the SHA-256 of the file's bytes, kept in `data` or at `uri`.

    `coco_id` is the integer COCO id when known (the same picture in the 2014 and 2017 releases);
    `sources` are the file names under which families know it; `difference_hash` is the 64-bit
    dHash (8 x 8 signs of horizontal differences of the 9 x 8 grey thumbnail), as a signed integer.
    """

    image_id: str
    data: bytes | None
    uri: str | None
    media_type: str
    height: int
    width: int
    coco_id: int | None
    sources: tuple[str, ...]
    difference_hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A record that became no sample, and why."""

    family: str
    source_file: str
    locator: str
    reason: RejectReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRef:
    """Where the features of one image lie: part, array (size class), row and extent in cells."""

    image_id: str
    part: str
    array: str
    row: int
    height: int
    width: int


_MASK = pa.struct(
    [
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("counts", pa.binary(), nullable=False),
    ]
)
_REGION = pa.struct(
    [
        pa.field("mask", _MASK, nullable=False),
        pa.field("category", pa.string()),
        pa.field("source_id", pa.string()),
        pa.field("ignored", _MASK),
    ]
)
_PROMPT = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("region", pa.int32()),
        pa.field("box_xyxy_px", pa.list_(pa.float32())),
        pa.field("points_xy_px", pa.list_(pa.list_(pa.float32()))),
    ]
)
_TURN = pa.struct(
    [
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("targets", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("options", pa.list_(pa.string()), nullable=False),
    ]
)

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("family", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("regions", pa.list_(_REGION), nullable=False),
        pa.field("prompts", pa.list_(_PROMPT), nullable=False),
        pa.field("turns", pa.list_(_TURN), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
    ]
)

IMAGE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("data", pa.binary()),
        pa.field("uri", pa.string()),
        pa.field("media_type", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("coco_id", pa.int64()),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
        pa.field("difference_hash", pa.int64(), nullable=False),
    ]
)

REJECT_SCHEMA = pa.schema(
    [
        pa.field("family", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
