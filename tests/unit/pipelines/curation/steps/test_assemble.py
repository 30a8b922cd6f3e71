"""Drafts and pictures become samples; what doesn't fit together is named."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.records import Draft, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.assemble import assemble, reject_of, sample_key
from pipelines.curation.steps.images import ProbedImage
from pipelines.curation.steps.regions import MaskReader
from pipelines.curation.testing import polygon_of
from storage.masks import box_xyxy_px
from storage.prompts import prompt_mask
from storage.schema import PromptKind, Region, RejectReason, Sample, Task, Turn, VisualPrompt

_IMAGE = ProbedImage(image_id="0" * 64, media_type="image/png", height=20, width=30, difference_hash=0, thumbnail=b"")
_PROMPT = VisualPrompt(kind=PromptKind.MASK, region=0)


def _draft(**changes: Any) -> Draft:
    facts: dict[str, Any] = {
        "family": "refcoco",
        "task": Task.REFERRING,
        "split": "train",
        "image": SourceImage(path="a.jpg", height=20, width=30),
        "regions": (DraftRegion(segmentation=polygon_of((2, 3, 9, 9)), category="cup", source_id="1"),),
        "turns": (Turn(text="the cup", targets=((0,),)),),
        "source_file": "refs.p",
        "locator": "ref_id=1/sent_id=2",
    }
    return Draft(**facts | changes)


def _assembled(draft: Draft) -> Sample:
    return assemble(draft, _IMAGE, MaskReader(20, 30, lambda path: b"", 1000))


def test_a_sample_keeps_what_the_draft_says() -> None:
    draft = _draft()
    sample = _assembled(draft)
    for name in ("family", "task", "split", "turns", "prompts", "source_file", "locator"):
        assert getattr(sample, name) == getattr(draft, name)
    assert sample.image_id == _IMAGE.image_id
    assert box_xyxy_px(sample.regions[0].mask) == (2, 3, 9, 9)
    assert sample.sample_id == sample_key(sample)


def test_every_field_but_the_id_changes_the_key() -> None:
    sample = _assembled(_draft(prompts=(_PROMPT,), turns=(Turn(text="<region1>", answer="cup"),)))
    mask = sample.regions[0].mask
    changes: dict[str, list[Any]] = {
        "image_id": ["1" * 64],
        "family": ["refcoco+"],
        "task": [Task.SEMANTIC],
        "split": ["val"],
        "regions": [
            (),
            (Region(mask=mask, category="mug", source_id="1"),),
            (Region(mask=mask, category="cup"),),
            (Region(mask=replace(mask, height=30, width=20), category="cup", source_id="1"),),
        ],
        "prompts": [(), (replace(_PROMPT, kind=PromptKind.POINT, points_xy_px=((1.0, 2.0),)),)],
        "turns": [
            (Turn(text="<region1>!", answer="cup"),),
            (Turn(text="<region1>"),),
            (Turn(text="<region1>", answer="cup", targets=((0,),)),),
            (Turn(text="<region1>", answer="cup", options=("cup",)),),
        ],
        "source_file": ["refs.json"],
        "locator": ["row=1"],
    }
    assert set(changes) == {field.name for field in fields(Sample)} - {"sample_id"}
    keys = [sample_key(replace(sample, **{name: value})) for name, values in changes.items() for value in values]
    assert len({sample.sample_id, *keys}) == len(keys) + 1
    assert sample_key(replace(sample, sample_id="")) == sample.sample_id


def test_instances_go_from_left_to_right() -> None:
    boxes = [(20, 0, 25, 5), (2, 10, 9, 15), (2, 1, 9, 5)]
    regions = tuple(DraftRegion(segmentation=polygon_of(box)) for box in boxes)
    draft = _draft(task=Task.INSTANCE, regions=regions, turns=(Turn(text="cup", targets=((0,), (1,), (2,))),))
    found = [box_xyxy_px(region.mask) for region in _assembled(draft).regions]
    assert found == [boxes[2], boxes[1], boxes[0]]
    semantic = _draft(task=Task.SEMANTIC, regions=regions, turns=(Turn(text="cup", targets=((0, 1, 2),)),))
    assert [box_xyxy_px(region.mask) for region in _assembled(semantic).regions] == boxes


def test_sizes_that_the_source_leaves_out_are_not_checked() -> None:
    assert _assembled(_draft(image=SourceImage(path="a.jpg"))).image_id == _IMAGE.image_id
    with pytest.raises(RecordError, match=r"image_size_mismatch: a.jpg: expected 20 x 31 px, got 20 x 30"):
        _assembled(_draft(image=SourceImage(path="a.jpg", width=31)))


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"prompts": (_PROMPT,)}, r"expected <region1> to <region1> in the text, one per prompt, got \[\]"),
        ({"turns": (Turn(text="beside <region1>", targets=((0,),)),)}, r"got \[1\]"),
        ({"prompts": (_PROMPT,), "turns": (Turn(text="<region1>", answer="like <region2>"),)}, r"got \[1, 2\]"),
        ({"turns": (Turn(text="the [SEG]", targets=((0,),)),)}, "stands in a question"),
        ({"turns": (Turn(text="where?", answer="[SEG] and [SEG]", targets=((0,),)),)}, "got 2 for 1 targets"),
        ({"turns": (Turn(text="where?", answer="there", targets=((0,),)),)}, "got 0 for 1 targets"),
    ],
)
def test_placeholders_match_prompts_and_targets(changes: dict[str, Any], detail: str) -> None:
    with pytest.raises(RecordError, match=detail) as caught:
        _assembled(_draft(**changes))
    assert caught.value.reason is RejectReason.PLACEHOLDER_MISMATCH


def _boxed(box: tuple[float, float, float, float] | None) -> Draft:
    prompt = VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=box)
    turn = Turn(text="<region1>", answer="a cup")
    return _draft(task=Task.DESCRIPTION, regions=(), prompts=(prompt,), turns=(turn,))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ((2.0, 3.0, 9.5, 9.0), (2.0, 3.0, 9.5, 9.0)),
        ((-4.0, 15.0, 3.0, 20.5), (0.0, 15.0, 3.0, 20.0)),
        ((-1e9, -1e9, 1e9, 1e9), (0.0, 0.0, 30.0, 20.0)),
        ((3.38, 0.1, 7.0, 8.0), (float(np.float32(3.38)), float(np.float32(0.1)), 7.0, 8.0)),
    ],
)
def test_a_box_needs_no_region_and_ends_with_the_picture(
    said: tuple[float, float, float, float], kept: tuple[float, float, float, float]
) -> None:
    sample = _assembled(_boxed(said))
    assert sample.regions == ()
    assert [prompt.box_xyxy_px for prompt in sample.prompts] == [kept]
    assert sample.sample_id == sample_key(sample)


@pytest.mark.parametrize(
    ("box", "reason", "detail"),
    [
        (None, RejectReason.FIELD_INVALID, "box prompt: expected box_xyxy_px, got none"),
        ((30.0, 2.0, 40.0, 9.0), RejectReason.MASK_OUTSIDE_IMAGE, "box 30, 2, 40, 9: no part .* of 20 x 30 px"),
        ((2.0, -9.0, 4.0, 0.0), RejectReason.MASK_OUTSIDE_IMAGE, "box 2, -9, 4, 0: no part"),
        ((5.0, 5.0, 5.0, 9.0), RejectReason.MASK_EMPTY, "box 5, 5, 5, 9: .*got no area"),
        ((9.0, 5.0, 2.0, 9.0), RejectReason.MASK_EMPTY, "box 9, 5, 2, 9: .*got no area"),
        ((float("nan"), 5.0, 2.0, 9.0), RejectReason.MASK_EMPTY, "box nan, 5, 2, 9: .*got no area"),
        ((5.0, 5.0, 5.0 + 1e-12, 9.0), RejectReason.MASK_EMPTY, "no area is left of it in single precision"),
    ],
)
def test_boxes_that_point_at_nothing(
    box: tuple[float, float, float, float] | None, reason: RejectReason, detail: str
) -> None:
    with pytest.raises(RecordError, match=detail) as caught:
        _assembled(_boxed(box))
    assert caught.value.reason is reason


_SIDES = st.one_of(st.floats(-50, 50), st.floats(allow_nan=False, allow_infinity=False))


@given(st.tuples(_SIDES, _SIDES, _SIDES, _SIDES))
def test_a_box_is_refused_or_paints_pixels_of_the_picture(box: tuple[float, float, float, float]) -> None:
    x0, y0, x1, y1 = box
    try:
        sample = _assembled(_boxed(box))
    except RecordError:
        # Less than 1e-5 px: of no area once it is stored.
        assert min(x1, 30) - max(x0, 0) < 1e-5 or min(y1, 20) - max(y0, 0) < 1e-5
        return
    (prompt,) = sample.prompts
    assert prompt.box_xyxy_px == tuple(float(np.float32(side)) for side in prompt.box_xyxy_px or ())
    assert prompt_mask(prompt, (), 20, 30).any()
    assert _assembled(_boxed(prompt.box_xyxy_px)).prompts == (prompt,)


def test_a_reject_leads_back_to_its_record() -> None:
    reject = reject_of(_draft(), RecordError(RejectReason.TEXT_EMPTY, "nothing"))
    assert (reject.family, reject.source_file, reject.locator) == ("refcoco", "refs.p", "ref_id=1/sent_id=2")
    assert (reject.reason, reject.detail) == (RejectReason.TEXT_EMPTY, "nothing")


def test_a_picture_alone_is_a_sample() -> None:
    sample = _assembled(_draft(task=Task.UNLABELLED, regions=(), turns=()))
    assert (sample.task, sample.turns, sample.regions) == (Task.UNLABELLED, (), ())


@pytest.mark.parametrize(
    ("prompt", "is_inside"),
    [
        (VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(-5.0, -5.0, 0.5, 0.5)), True),
        (VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(29.5, 19.5, 99.0, 99.0)), True),
        (VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(30.0, 0.0, 40.0, 9.0)), False),
        (VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(-5.0, 0.0, 0.0, 9.0)), False),
        (VisualPrompt(kind=PromptKind.POINT, points_xy_px=((30.0, 20.0),)), True),
        (VisualPrompt(kind=PromptKind.POINT, points_xy_px=((30.5, 20.0),)), False),
        (VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=((0.0, 0.0), (1e9, 1e9))), False),
    ],
)
def test_prompts_lie_on_the_picture(prompt: VisualPrompt, is_inside: bool) -> None:
    draft = _draft(task=Task.DESCRIPTION, regions=(), prompts=(prompt,), turns=(Turn(text="<region1>", answer="cup"),))
    if is_inside:
        assert prompt_mask(_assembled(draft).prompts[0], (), 20, 30).any()
    else:
        with pytest.raises(RecordError, match=r"mask_outside_image: (box|points).* 20 x 30 px"):
            _assembled(draft)
