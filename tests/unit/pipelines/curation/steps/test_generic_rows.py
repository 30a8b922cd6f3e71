"""Parts of users' own rows: what is wrong in them is named."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipelines.curation.records import MaskFile, RecordError
from pipelines.curation.steps.generic_rows import RowTurn, placed, row_prompts, row_regions, row_turn
from storage.schema import PromptKind, VisualPrompt


def test_forms_of_a_segmentation() -> None:
    polygons = [[1, 2, 9, 2, 9, 8.5]]
    rle = {"size": [4, 6], "counts": [24]}
    regions = row_regions(
        {
            "regions": [
                {"segmentation": polygons, "id": 7},
                {"segmentation": rle | {"png": None}, "category": " red\tcup "},
                {"segmentation": {"png": "masks/a.png"}, "id": "x"},
                {"segmentation": {"box_xyxy_px": [1, 2, 9, 8]}},
            ]
        }
    )
    assert [region.segmentation for region in regions] == [
        *(polygons, rle, MaskFile("masks/a.png"), [[1.0, 2.0, 9.0, 2.0, 9.0, 8.0, 1.0, 8.0]])
    ]
    assert [region.source_id for region in regions] == ["7", None, "x", None]
    assert regions[1].category == "red cup"
    assert row_regions({"segmentation": polygons})[0].segmentation == polygons
    assert row_regions({}) == ()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"segmentation": [[1, 2]], "regions": []}, "segmentation: expected it or regions, got both"),
        ({"regions": [[[1, 2]]]}, "regions[0]: expected a mapping"),
        ({"regions": [{"mask": 1}]}, "regions[0]: unknown field 'mask'; known are category, id, segmentation"),
        ({"regions": [{}]}, "expected polygons or RLE, got None"),
        ({"regions": [{"segmentation": [[1, 2]], "id": True}]}, "regions[0].id: expected text or an integer, got True"),
        ({"segmentation": [1, 2, 3, 4]}, "expected polygons of numbers"),
        ({"segmentation": {"counts": "0"}}, "segmentation.size: expected [height, width], got None"),
        ({"segmentation": {"png": "a.png", "size": [1, 2]}}, "expected size and counts, png, or box_xyxy_px, got png"),
        ({"segmentation": {"box": [1, 2, 3, 4]}}, "segmentation: unknown field 'box'"),
        ({"segmentation": {"box_xyxy_px": [1, 2, 3]}}, "box_xyxy_px: expected 4 numbers"),
        ({"segmentation": {"box_xyxy_px": [1, 2, 1, 4]}}, "expected x0, y0, x1, y1 with x0 < x1 and y0 < y1"),
        ({"segmentation": {"box_xyxy_px": [1, 2, float("inf"), 4]}}, "box_xyxy_px: expected pixels, got inf"),
        ({"segmentation": {"box_xyxy_px": [1, 2, 10**400, 4]}}, "box_xyxy_px: expected pixels, got int of"),
        ({"segmentation": {"png": "../a.png"}}, "expected a plain path below the source's folder"),
    ],
)
def test_regions_that_are_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=re.escape(message)):
        row_regions(record)


def test_kinds_of_prompts() -> None:
    rows: list[object] = [
        {"region": 2},
        {"kind": "box", "box_xyxy_px": [1, 2, 3, 4], "region": 1},
        {"kind": "point", "points_xy_px": [[1, 2.5]]},
        {"kind": "scribble", "points_xy_px": [[1, 2], [3, 4]], "box_xyxy_px": None},
    ]
    assert row_prompts({"prompts": rows}, 2) == (
        VisualPrompt(kind=PromptKind.MASK, region=1),
        VisualPrompt(kind=PromptKind.BOX, region=0, box_xyxy_px=(1.0, 2.0, 3.0, 4.0)),
        VisualPrompt(kind=PromptKind.POINT, points_xy_px=((1.0, 2.5),)),
        VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=((1.0, 2.0), (3.0, 4.0))),
    )
    assert row_prompts({}, 2) is None
    assert row_prompts({"prompts": []}, 2) == ()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"kind": "circle"}, "prompts[0].kind: expected one of mask, box, point, scribble, got 'circle'"),
        ({"kind": "mask"}, "prompts[0]: expected region for a mask, got kind"),
        (
            {"kind": "box", "points_xy_px": [[1, 2]]},
            "prompts[0]: expected box_xyxy_px for a box, got kind, points_xy_px",
        ),
        ({"region": 1, "box_xyxy_px": [1, 2, 3, 4]}, "prompts[0]: expected region for a mask, got box_xyxy_px, region"),
        ({"region": 0}, "region: expected an integer >= 1, got 0"),
        ({"region": 3}, "region: expected a number of one of 2 regions, got 3"),
        ({"kind": "point", "points_xy_px": [[1, 2], [3, 4]]}, "expected one point for a point, got 2"),
        ({"kind": "scribble", "points_xy_px": [[1, 2]]}, "expected two points or more for a scribble, got 1"),
        ({"kind": "point", "points_xy_px": [1, 2]}, "points_xy_px: expected a list, got 1"),
    ],
)
def test_prompts_that_are_refused(prompt: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=re.escape(message)):
        row_prompts({"prompts": [prompt]}, 2)


def test_turns_whose_regions_are_found() -> None:
    turns = [
        RowTurn("What is left of <region3>?", "[SEG], and <region1>."),
        RowTurn("And the others?", "[SEG] [SEG]", targets=((3,), ())),
        RowTurn("What else?"),
    ]
    prompts, found = placed(turns, None, 5)
    assert [prompt.region for prompt in prompts] == [2, 0]
    assert [turn.text for turn in found] == ["What is left of <region1>?", "And the others?", "What else?"]
    assert found[0].answer == "[SEG], and <region2>."
    assert [turn.targets for turn in found] == [((1,),), ((3,), ()), ((4,),)]


@pytest.mark.parametrize(
    ("turn", "num_regions", "message"),
    [
        (RowTurn("<region2>", "a"), 1, "<region2> is named, but there are 1 regions"),
        (RowTurn("a", "[SEG] [SEG]"), 1, "expected a region for each [SEG], got 2 [SEG] for 1 regions"),
        (RowTurn("a", "[SEG]"), 2, "neither a prompt nor a [SEG] stands for region 2"),
    ],
)
def test_turns_whose_regions_are_not_found(turn: RowTurn, num_regions: int, message: str) -> None:
    with pytest.raises(RecordError, match=re.escape(message)):
        placed([turn], None, num_regions)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": "a"}, "question: expected in the record, but absent"),
        ({"question": "?"}, "question: expected words"),
        ({"question": "a", "answer": "b", "options": ["c", "d"]}, "answer: expected one of the options, got 'b'"),
        ({"question": "a", "options": ["c", 5]}, "options: expected text, got 5"),
        ({"question": "a", "answer": "b", "targets": [1]}, "targets: expected a list, got 1"),
        ({"question": "a", "answer": "b", "targets": [[2]]}, "targets: expected a number of one of 1 regions, got 2"),
    ],
)
def test_turns_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=re.escape(message)):
        row_turn(fields, 1)
