"""What the steps of the builder exchange: pictures with regions, candidates, texts, findings, items."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from storage.masks import area_px, box_xyxy_px, mask_from_coco
from storage.schema import Mask

__all__ = [
    "BenchmarkTask",
    "Candidate",
    "Code",
    "Finding",
    "Item",
    "ItemRegion",
    "ObjectRegion",
    "Picture",
    "Record",
    "Texts",
]


class BenchmarkTask(StrEnum):
    """The three tasks of PerBench, by the names of their files."""

    DETAILED_CAPTION = "detailed_caption"
    """A region described in detail."""
    MULTIPLE_CHOICE = "mcq"
    """A question on a region, with options of which one is right."""
    VISUAL_TEXT_REFERRING = "visual_text_res"
    """An expression that names a region to find another one."""


class Code(StrEnum):
    """What an automatic check finds. Codes are durable: add, never rename."""

    DRAFT_FAILED = "draft_failed"
    """The captioner gave nothing that can be read as a draft."""
    TEXT_EMPTY = "text_empty"
    PLACEHOLDERS = "placeholders"
    """`<regionN>` or `[SEG]` that don't match the item's regions."""
    OPTIONS_COUNT = "options_count"
    OPTIONS_REPEAT = "options_repeat"
    RIGHT_OPTION = "right_option"
    """Not exactly one option is the answer."""
    FORMAT_UNSAFE = "format_unsafe"
    """Texts that PerBench's files would give back otherwise."""
    OPTION_HOLDS_ANSWER = "option_holds_answer"
    """A wrong option holds the right one's text, which the released rule would count as right."""
    ANSWER_LEAKS = "answer_leaks"
    CAPTION_SHORT = "caption_short"
    CAPTION_LONG = "caption_long"
    MENTIONS_DRAWING = "mentions_drawing"
    """Speaks of the outline that the captioner saw, which the picture doesn't have."""
    NOT_UNIQUE = "not_unique"
    """Fits another region of the picture as well."""
    NAMES_ANOTHER = "names_another"
    """Fits another region of the picture, and not this one."""
    UNIQUENESS_UNCHECKED = "uniqueness_unchecked"
    """Says more than a program understands; people have to look."""

    @property
    def is_formal(self) -> bool:
        """Whether nobody may accept an item with it: what is exported couldn't be read back."""
        return self in _FORMAL

    @property
    def is_note(self) -> bool:
        """Whether it only tells the reviewers where to look."""
        return self is Code.UNIQUENESS_UNCHECKED


_FORMAL = frozenset(
    {
        Code.DRAFT_FAILED,
        Code.TEXT_EMPTY,
        Code.PLACEHOLDERS,
        Code.OPTIONS_COUNT,
        Code.OPTIONS_REPEAT,
        Code.RIGHT_OPTION,
        Code.FORMAT_UNSAFE,
    }
)


class Record(BaseModel):
    """A frozen record that is kept as JSON; what it doesn't know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Finding(Record):
    """What a check found in the texts of an item."""

    code: Code
    detail: str
    """In words, with what was expected and what was found."""


class Texts(Record):
    """The words of an item; which of them count depends on its task."""

    caption: str = ""
    """Of a detailed caption."""
    question: str = ""
    """Of a multiple choice or a visual-text expression; `<region1>` stands for the first prompt."""
    options: tuple[str, ...] = ()
    """Of a multiple choice, without letters."""
    right: int = 0
    """Place of the right option."""
    answer: str = ""
    """Of a visual-text expression; `[SEG]` stands for the next target."""


@dataclass(frozen=True, slots=True)
class ObjectRegion:
    """A region of a picture that may be asked about.

    Attributes:
        mask: its pixels.
        area_px: number of them.
        box_xyxy_px: tightest box, exclusive ends.
        category: if the corpus knows it.
    """

    mask: Mask
    area_px: int
    box_xyxy_px: tuple[int, int, int, int]
    category: str | None = None

    @property
    def name(self) -> str:
        """The category, or `object`."""
        return self.category or "object"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and its distinct regions, in an order that the corpus doesn't influence."""

    image_id: str
    height: int
    width: int
    regions: tuple[ObjectRegion, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is to be asked: a task on regions of a picture.

    Attributes:
        task: of the benchmark.
        picture: with all its regions.
        prompts: places of the regions that are pointed at.
        targets: places of the regions that are asked for.
    """

    task: BenchmarkTask
    picture: Picture
    prompts: tuple[int, ...]
    targets: tuple[int, ...] = ()


class ItemRegion(Record):
    """A region of an item, as kept: compressed COCO RLE."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    counts: str
    category: str | None = None

    @classmethod
    def of(cls, region: ObjectRegion) -> Self:
        """The record of a region."""
        mask = region.mask
        return cls(height=mask.height, width=mask.width, counts=mask.counts.decode("ascii"), category=region.category)

    def to_coco(self) -> dict[str, object]:
        """The mask as COCO's files have it."""
        return {"size": [self.height, self.width], "counts": self.counts}

    def region(self) -> ObjectRegion:
        """The region itself.

        Raises:
            MaskError: the counts are malformed.
        """
        mask = mask_from_coco(self.to_coco(), self.height, self.width)
        x0, y0, x1, y1 = box_xyxy_px(mask) or (0, 0, 0, 0)
        return ObjectRegion(mask, area_px(mask), (x0, y0, x1, y1), self.category)


class Item(Record):
    """One entry of the benchmark, as drafted."""

    item_id: str
    """Content key of task, picture and regions."""
    task: BenchmarkTask
    image_id: str
    image_name: str
    """Of the picture's file in the benchmark."""
    height: int
    width: int
    prompts: tuple[ItemRegion, ...]
    """Regions that are pointed at: `<region1>`, `<region2>`, ..."""
    targets: tuple[ItemRegion, ...] = ()
    """Regions that are asked for, one per `[SEG]`."""
    others: tuple[ItemRegion, ...] = ()
    """The picture's other regions, against which texts are checked."""
    texts: Texts
    findings: tuple[Finding, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether no check objects; notes don't."""
        return all(finding.code.is_note for finding in self.findings)
