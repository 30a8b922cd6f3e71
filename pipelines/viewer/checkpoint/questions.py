"""What a browser asks, as a question to a student: words, one region or a sample's own, and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.regions import region_mask
from model.wordings import WordingStyle, question_of
from pipelines.evaluation.benchmarks.base import Unit, prompt_masks, truth_of, with_regions
from pipelines.evaluation.inference import truth_bitmap
from pipelines.viewer.checkpoint.trial import Ask, question
from storage.errors import UsageError
from storage.masks import decode_mask
from storage.recipe import RecipeModel
from storage.schema import Sample

__all__ = ["MAX_NEW_TOKENS", "Region", "SampleTurn", "Sent", "put"]

MAX_NEW_TOKENS = 512
_MAX_WORDS = 2000
_MAX_COORDINATE_PX = 1e7

Bitmap = NDArray[np.bool_]


class Region(RecipeModel):
    """A point or a box that was drawn, in pixels of the picture."""

    kind: Literal["point", "box"]
    numbers: tuple[float, ...] = Field(max_length=4)
    """x, y of a point; x0, y0, x1, y1 of a box."""

    def mask(self, height_px: int, width_px: int) -> Bitmap:
        """bool (height, width), see `model.regions.region_mask`; raises ValueError as it does."""
        if any(abs(number) > _MAX_COORDINATE_PX for number in self.numbers):
            raise UsageError(f"{self.kind}: expected coordinates in the picture, got {self.numbers}")
        return region_mask({self.kind: self.numbers}, height_px, width_px)


class Sent(RecipeModel):
    """What a browser sends."""

    picture: str = Field(pattern="^[0-9a-f]{64}$")
    ask: Ask
    words: str = Field(default="", max_length=_MAX_WORDS)
    region: Region | None = None
    sample: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """Of the corpus, whose prompts and truth count where the question is its own."""
    turn: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=64, ge=1, le=MAX_NEW_TOKENS)


@dataclass(frozen=True)
class SampleTurn:
    """A turn of a corpus's sample as something to ask.

    Attributes:
        unit: sample and turn; its prompts have regions.
        height_px: of its picture.
        width_px: of its picture.
    """

    unit: Unit
    height_px: int
    width_px: int

    @classmethod
    def of(cls, sample: Sample, turn: int, height_px: int, width_px: int) -> SampleTurn:
        """A turn of a sample.

        Raises:
            UsageError: it has no such turn.
        """
        if turn >= len(sample.turns):
            raise UsageError(f"turn: expected one of {len(sample.turns)}, got {turn + 1}")
        return cls(Unit(with_regions(sample, height_px, width_px), turn), height_px, width_px)

    @property
    def words(self) -> str:
        """The fact in the middle of its question."""
        return self.unit.sample.turns[self.unit.turn].text

    @property
    def answer(self) -> str:
        """The right answer's text, if it has one."""
        return truth_of(self.unit).text

    def question(self, words: str, style: WordingStyle) -> str:
        """Its question, with other words in the middle if they differ."""
        turns = list(self.unit.sample.turns)
        turns[self.unit.turn] = replace(turns[self.unit.turn], text=words)
        return question_of(replace(self.unit.sample, turns=tuple(turns)), self.unit.turn, None, style)

    def prompts(self) -> list[Bitmap]:
        """What `<region1>` and so on stand for."""
        return [decode_mask(mask) for mask in prompt_masks(self.unit.sample)]

    def truths(self) -> list[Bitmap]:
        """The right masks, one per target."""
        return [decode_mask(mask) for mask in truth_of(self.unit).masks]

    @property
    def has_masks(self) -> bool:
        """Whether its right answer has masks."""
        return bool(truth_of(self.unit).masks)

    def iou(self, masks: Sequence[Bitmap]) -> float | None:
        """Of all masks together with the whole truth; None: it asks for no mask, or for none that is there."""
        truth = truth_bitmap(truth_of(self.unit))
        if truth is None or not truth.any():
            return None
        found = np.logical_or.reduce(masks) if masks else np.zeros_like(truth)
        return float((found & truth).sum() / (found | truth).sum())


def put(sent: Sent, turn: SampleTurn | None, style: WordingStyle, size_px: tuple[int, int]) -> tuple[str, list[Bitmap]]:
    """The question to a student and the regions that it names.

    Args:
        sent: by the browser.
        turn: the sample that it names, if any.
        style: the student's set of sentences.
        size_px: (height, width) of the picture.

    Raises:
        ValueError: words are missing, a region lies outside the picture or isn't named.
    """
    if sent.ask is Ask.SAMPLE:
        if turn is None:
            raise UsageError("sample: expected one of the corpus, got none; choose what to do in another way")
        if sent.region is not None:
            raise UsageError("region: expected none where a sample asks, which has its own; choose what else to do")
        return turn.question(sent.words, style), turn.prompts()
    text = question(sent.ask, sent.words, style)
    if sent.region is not None:
        return text, [sent.region.mask(*size_px)]
    if "<region1>" in text:
        raise UsageError("region: expected a point or a box for <region1>, got none; draw one on the picture")
    return text, []
