"""Quality rules for training samples, and the split of users' own data by picture.

Evaluation samples are never filtered: what a benchmark holds is its publishers' business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import replace

from pydantic import Field

from pipelines.curation.records import RecordError
from pipelines.curation.steps.assemble import sample_key
from storage.masks import area_px, box_xyxy_px
from storage.recipe import RecipeModel
from storage.schema import Region, RejectReason, Sample, Task

__all__ = ["FilterConfig", "SampleFilter", "in_split", "near_form"]

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset({"a", "an", "the"})
_EXPRESSIONS = (Task.REFERRING, Task.REASONING)


class FilterConfig(RecipeModel):
    """Which training samples are left out; each rule has a reason code of its own."""

    near_duplicate_expressions: bool = True
    """Of expressions of one family for one target that differ in case, punctuation and articles alone, the first stays
    (`expression_duplicate`)."""
    near_duplicate_images: bool = True
    """Of pictures that look alike, and are trained on without masks (captions, no labels), one stays
    (`image_duplicate`)."""
    min_mask_px: int | None = Field(default=None, ge=1)
    """Smallest area of every mask, in px (`mask_area`)."""
    max_mask_share: float | None = Field(default=None, gt=0, le=1)
    """Largest area of a mask as a share of the picture (`mask_area`)."""
    max_border_share: float | None = Field(default=None, gt=0, le=1)
    """Largest share of the picture's outline that a mask may touch: what is cut off there is seldom named by its shape
    (`mask_border`)."""
    min_mask_side_px: int | None = Field(default=None, ge=1)
    """Smallest width and height of a mask's box, in px: lines are left out (`mask_degenerate`)."""
    min_words: int | None = Field(default=None, ge=1)
    """Fewest words of an expression (`expression_length`)."""
    max_words: int | None = Field(default=None, ge=1)
    """Most words of an expression (`expression_length`)."""


class SampleFilter:
    """The rules, for the samples of one picture in turn.

    Args:
        config: which rules.
        training_splits: splits whose samples are filtered.
        height: of the picture, px.
        width: of the picture, px.
    """

    def __init__(self, config: FilterConfig, training_splits: Collection[str], height: int, width: int) -> None:
        self._config, self._training = config, training_splits
        self._height, self._width = height, width
        rules = config.min_mask_px, config.max_mask_share, config.min_mask_side_px, config.max_border_share
        self._has_mask_rules = any(rule is not None for rule in rules)
        self._seen: dict[tuple[object, ...], str] = {}

    def check(self, sample: Sample) -> None:
        """Lets a sample pass.

        Raises:
            RecordError: a rule says no; the reason is the rule's, the detail has the value.
        """
        if sample.split not in self._training:
            return
        for region in sample.regions if self._has_mask_rules else ():
            self._check_mask(region)
        if sample.task in _EXPRESSIONS:
            self._check_expression(sample)

    def _check_mask(self, region: Region) -> None:
        config, area = self._config, area_px(region.mask)
        name = f"region {region.source_id}"
        if config.min_mask_px is not None and area < config.min_mask_px:
            raise RecordError(
                RejectReason.MASK_AREA, f"{name}: expected at least {config.min_mask_px} px (min_mask_px), got {area}"
            )
        share = area / (self._height * self._width)
        if config.max_mask_share is not None and share > config.max_mask_share:
            raise RecordError(
                RejectReason.MASK_AREA,
                f"{name}: expected at most {config.max_mask_share:.1%} of the image (max_mask_share), got {share:.1%}",
            )
        box = box_xyxy_px(region.mask)
        if box is None:
            return
        side = min(box[2] - box[0], box[3] - box[1])
        if config.min_mask_side_px is not None and side < config.min_mask_side_px:
            raise RecordError(
                RejectReason.MASK_DEGENERATE,
                f"{name}: expected a box of at least {config.min_mask_side_px} px (min_mask_side_px), got {side}",
            )
        if config.max_border_share is not None:
            touched = (box[0] == 0, box[2] == self._width), (box[1] == 0, box[3] == self._height)
            length = sum(touched[0]) * (box[3] - box[1]) + sum(touched[1]) * (box[2] - box[0])
            share = length / (2 * (self._height + self._width))
            if share > config.max_border_share:
                raise RecordError(
                    RejectReason.MASK_BORDER,
                    f"{name}: expected to touch at most {config.max_border_share:.1%} of the outline "
                    f"(max_border_share), got {share:.1%}",
                )

    def _check_expression(self, sample: Sample) -> None:
        config = self._config
        has_lengths = config.min_words is not None or config.max_words is not None
        for turn in sample.turns:
            words = len(_WORD.findall(turn.text)) if has_lengths else 0
            if has_lengths and not (config.min_words or 0) <= words <= (config.max_words or words):
                raise RecordError(
                    RejectReason.EXPRESSION_LENGTH,
                    f"expected {config.min_words or 0} to {config.max_words or 'any number of'} words, got {words}",
                )
            if not config.near_duplicate_expressions or sample.task is not Task.REFERRING:
                continue
            targets = frozenset(sample.regions[place].mask.counts for target in turn.targets for place in target)
            key = sample.family, sample.split, targets, near_form(turn.text)
            if key in self._seen:
                raise RecordError(
                    RejectReason.EXPRESSION_DUPLICATE, f"says the same of the same target as {self._seen[key]}"
                )
            self._seen[key] = sample.locator


def near_form(text: str) -> str:
    """An expression less case, punctuation and articles; all of it where nothing is left.

    >>> near_form("The man, on the LEFT.")
    'man on left'
    """
    words = _WORD.findall(text.casefold())
    return " ".join([word for word in words if word not in _ARTICLES] or words or [text])


def in_split(sample: Sample, held_out_share: float, held_out_split: str) -> Sample:
    """The sample, in the held-out split if its picture's turn it is.

    The picture's id alone decides, so that all sources hold out the same pictures, and none changes sides when others
    are added.
    """
    if held_out_share == 0 or sample.image_id is None:
        return sample
    drawn = int.from_bytes(hashlib.blake2b(sample.image_id.encode(), digest_size=8).digest(), "big") / 2**64
    if drawn >= held_out_share:
        return sample
    moved = replace(sample, split=held_out_split)
    return replace(moved, sample_id=sample_key(moved))
