"""Puts a draft and its picture together: a sample, or the reason why not."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np

from pipelines.curation.records import Draft, RecordError
from pipelines.curation.steps.images import ProbedImage
from pipelines.curation.steps.regions import MaskReader
from pipelines.curation.steps.texts import SEG, region_numbers
from storage.keys import bytes_key
from storage.masks import box_xyxy_px
from storage.schema import Mask, PromptKind, Region, Reject, RejectReason, Sample, Task, VisualPrompt

__all__ = ["assemble", "reject_of", "sample_key"]

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def reject_of(row: Draft | Sample, error: RecordError) -> Reject:
    """The reject of a draft or sample that failed."""
    return Reject(
        family=row.family,
        source_file=row.source_file,
        locator=row.locator,
        reason=error.reason,
        detail=error.detail,
    )


def assemble(draft: Draft, image: ProbedImage, masks: MaskReader) -> Sample:
    """The sample of a draft.

    Args:
        draft: what the source says.
        image: what the picture says.
        masks: of that picture.

    Raises:
        RecordError: the picture has another size than the source says, a mask or a box doesn't fit, or
            placeholders don't match prompts and targets.
    """
    said = (draft.image.height or image.height, draft.image.width or image.width)
    if said != (image.height, image.width):
        raise RecordError(
            RejectReason.IMAGE_SIZE_MISMATCH,
            f"{draft.image.path}: expected {said[0]} x {said[1]} px, got {image.height} x {image.width}",
        )
    _check_placeholders(draft)
    regions = tuple(masks.region(region) for region in draft.regions)
    if draft.task is Task.INSTANCE:
        regions = _left_to_right(regions)
    build = partial(
        Sample,
        image_id=image.image_id,
        family=draft.family,
        task=draft.task,
        split=draft.split,
        regions=regions,
        prompts=tuple(_inside(prompt, image) for prompt in draft.prompts),
        turns=draft.turns,
        source_file=draft.source_file,
        locator=draft.locator,
    )
    return build(sample_id=sample_key(build(sample_id="")))


def sample_key(sample: Sample) -> str:
    """Content key over every field of a sample but `sample_id`."""
    # Canonical JSON written directly: the key is taken of every sample, and the general encoder costs 10 times more.
    content = [
        *(sample.image_id, sample.family, sample.task.value, sample.split, sample.source_file, sample.locator),
        [
            [*_mask_content(region.mask), region.category, region.source_id]
            + ([] if region.ignored is None else _mask_content(region.ignored))
            for region in sample.regions
        ],
        [[prompt.kind.value, prompt.region, prompt.box_xyxy_px, prompt.points_xy_px] for prompt in sample.prompts],
        [[turn.text, turn.answer, turn.targets, turn.options] for turn in sample.turns],
    ]
    return bytes_key(_ENCODER.encode(content).encode())


def _mask_content(mask: Mask) -> list[int | str]:
    return [mask.height, mask.width, mask.counts.decode("ascii")]


def _left_to_right(regions: tuple[Region, ...]) -> tuple[Region, ...]:
    """By left edge, then upper edge; the source's order decides between equals."""

    def corner(region: Region) -> tuple[int, int]:
        box = box_xyxy_px(region.mask)
        assert box is not None, "masks are never empty here"
        return box[0], box[1]

    return tuple(sorted(regions, key=corner))


def _inside(prompt: VisualPrompt, image: ProbedImage) -> VisualPrompt:
    """The prompt, a box clipped to the picture; sources round boxes, so that they reach out of it by a pixel."""
    for x, y in prompt.points_xy_px:
        if not (0 <= x <= image.width and 0 <= y <= image.height):
            raise RecordError(
                RejectReason.MASK_OUTSIDE_IMAGE,
                f"points_xy_px {[x, y]}: expected on the picture, which has {image.height} x {image.width} px; x goes "
                "to the right and y down",
            )
    if prompt.kind is not PromptKind.BOX:
        return prompt
    if prompt.box_xyxy_px is None:
        raise RecordError(RejectReason.FIELD_INVALID, "box prompt: expected box_xyxy_px, got none")
    x0, y0, x1, y1 = (float(side) for side in prompt.box_xyxy_px)
    said = f"box {x0:g}, {y0:g}, {x1:g}, {y1:g}"
    # Also true of NaN, which compares false.
    if not (x0 < x1 and y0 < y1):
        raise RecordError(RejectReason.MASK_EMPTY, f"{said}: expected x0, y0, x1, y1 that enclose pixels, got no area")
    if x1 <= 0 or y1 <= 0 or x0 >= image.width or y0 >= image.height:
        raise RecordError(
            RejectReason.MASK_OUTSIDE_IMAGE, f"{said}: no part is in the image of {image.height} x {image.width} px"
        )
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(image.width)), min(y1, float(image.height)))
    # As they are stored: the sample's key is taken of what is read back.
    x0, y0, x1, y1 = (float(np.float32(side)) for side in clipped)
    if not (x0 < x1 and y0 < y1):
        raise RecordError(RejectReason.MASK_EMPTY, f"{said}: no area is left of it in single precision")
    return replace(prompt, box_xyxy_px=(x0, y0, x1, y1))


def _check_placeholders(draft: Draft) -> None:
    answers = [turn.answer or "" for turn in draft.turns]
    named = set(region_numbers(*(turn.text for turn in draft.turns), *answers))
    if named != set(range(1, len(draft.prompts) + 1)):
        raise RecordError(
            RejectReason.PLACEHOLDER_MISMATCH,
            f"expected <region1> to <region{len(draft.prompts)}> in the text, one per prompt, got {sorted(named)}",
        )
    for turn in draft.turns:
        if SEG in turn.text:
            raise RecordError(RejectReason.PLACEHOLDER_MISMATCH, f"{SEG} stands in a question; it belongs to answers")
        if turn.answer is not None and turn.answer.count(SEG) != len(turn.targets):
            raise RecordError(
                RejectReason.PLACEHOLDER_MISMATCH,
                f"expected one {SEG} per target, got {turn.answer.count(SEG)} for {len(turn.targets)} targets",
            )
