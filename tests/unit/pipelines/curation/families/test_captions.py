"""What captions become: the words with their marks, the prompts, and how records say what they left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.curation.records import Draft
from pipelines.curation.registry import source_config
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.regions import MaskReader
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.testing import polygon_of, rle_of
from storage.masks import box_xyxy_px
from storage.schema import PromptKind, Reject, RejectReason, Task

_CUP, _MUG = (2, 3, 12, 9), (20, 4, 30, 20)


def _records(root: Path, **config: object) -> list[Draft | Reject]:
    source = source_config({**config, "root": str(root)})
    return list(source.records(SourceFiles(SourceFolder(str(root)), source.source_files())))


def _of_content(root: Path, content: object, **config: object) -> list[Draft | Reject]:
    (root / "a.json").write_text(json.dumps(content))
    return _records(root, annotations="a.json", **config)


def test_the_real_row_of_refcocog(shared_data: Path) -> None:
    name = "RefCOCOg_GCG_rows.json"
    (draft,) = _records(shared_data / "data/gcg", kind="gcg", annotations=name, images="train2014")
    assert isinstance(draft, Draft)
    assert (draft.family, draft.task, draft.split) == ("gcg_refcocog", Task.GROUNDED_CAPTION, "train")
    assert (draft.image.path, draft.image.coco_id) == ("train2014/COCO_train2014_000000100022.jpg", 100022)
    (turn,) = draft.turns
    assert (turn.text, turn.targets) == ("", ((0,), (1,)))
    assert turn.answer == (
        "<p>A pink, oval shaped bowl filled with brown rice and veggies</p> [SEG] is visible. "
        "There is also <p>a container with vegetables and a slice of lime in it</p> [SEG]."
    )
    (row,) = json.loads((shared_data / "data/gcg" / name).read_text())
    refs = row["100022"]["refs"]
    assert [region.segmentation for region in draft.regions] == [ref["segmentation"] for ref in refs]
    # The picture isn't there; the boxes of its masks are those that the row states.
    masks = MaskReader(480, 640, lambda path: b"", 1)
    for region, ref in zip(draft.regions, refs, strict=True):
        x, y, width, height = ref["bbox"]
        drawn = box_xyxy_px(masks.region(region).mask)
        assert drawn == pytest.approx((x, y, x + width, y + height), abs=1)


def test_what_a_caption_goes_without_is_told(tmp_path: Path) -> None:
    refs = [{"sentence": words, "segmentation": polygon_of(_CUP)} for words in ("THE MUG", "a plate", "mug")]
    content = [{"1": {"refs": refs, "img_file_name": "a.jpg", "caption": '"Here is the mug."'}}]
    *refused, draft = _of_content(tmp_path, content, kind="gcg")
    assert isinstance(draft, Draft)
    assert draft.turns[0].answer == "Here is <p>the mug</p> [SEG]."
    assert [region.source_id for region in draft.regions] == ["0"]
    details = {record.locator: record.detail for record in refused if isinstance(record, Reject)}
    assert details == {
        f"row=0/refs[{place}]": f"sentence: expected in the caption, outside longer ones, but {words!r} isn't there"
        for place, words in ((1, "a plate"), (2, "mug"))
    }


def test_spans_that_hold_other_words_are_quoted(tmp_path: Path) -> None:
    row = {"file_name": "a.jpg", "height": 24, "width": 32, "image_id": "a", "caption": "A red cup, a mug."}
    groundings = {
        "a mug": {"token_positives": [11, 16], "rle_masks": [rle_of(_MUG), rle_of(_CUP)]},
        "A red cup": {"token_positives": [0, 5], "rle_masks": [rle_of(_CUP)]},
    }
    refused, draft = _of_content(tmp_path, [row | {"groundings": groundings}], kind="gcg", dataset="grandf")
    assert isinstance(refused, Reject)
    assert isinstance(draft, Draft)
    assert refused.locator == "row=0/groundings[1]"
    assert refused.detail == "token_positives: expected 'A red cup' at [0, 5] of the caption, got 'A red'"
    assert (draft.turns[0].answer, draft.turns[0].targets) == ("A red cup, <p>a mug</p> [SEG].", ((0, 1),))


def test_every_mention_of_flickr_has_its_own_mask_token(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "a.jpg", "height": 24, "width": 32, "caption": "A cup; we see a cup ."}]
    annotation = {"id": 7, "image_id": 5, "bbox": [0, 0, 9, 9], "tokens_positive": [[14, 19], [0, 5]]}
    content = {"images": images, "annotations": [annotation | {"sam_mask": rle_of(_CUP)}]}
    (draft,) = _of_content(tmp_path, content, kind="gcg", dataset="flickr")
    assert isinstance(draft, Draft)
    assert draft.turns[0].answer == "<p>A cup</p> [SEG]; we see <p>a cup</p> [SEG] ."
    assert draft.turns[0].targets == ((0,), (0,))
    assert [region.source_id for region in draft.regions] == ["7"]


@pytest.mark.parametrize(
    ("dataset", "file", "images"),
    [
        ("refcocog", "gcg/RefCOCOg_GCG_train.json", "images/train2014"),
        ("grandf", "gcg/GranDf_HA_GCG_train.json", "images/grandf"),
        ("openpsg", "gcg/OpenPsgGCG_train.json", "images/coco2017"),
        ("flickr", "gcg/flickr_mergedGT_GCG_train.json", "images/flickr30k"),
    ],
)
def test_published_names_stand_where_none_are_given(dataset: str, file: str, images: str) -> None:
    published = source_config({"kind": "gcg", "dataset": dataset})
    assert (published.source_files(), published.images) == ((file,), images)
    named = source_config({"kind": "gcg", "dataset": dataset, "annotations": "a.json", "images": ""})
    assert (named.source_files(), named.images) == (("a.json",), "")


def test_captions_of_one_region_share_prompt_and_locator(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "a.jpg", "height": 24, "width": 32}]
    captions = ("The red cup.", "a cup")
    content = {
        "images": images,
        "annotations": [
            {"id": number, "image_id": 5, "caption": text, "bbox": [2.5, 3, 9.5, 6]}
            for number, text in enumerate(captions)
        ],
    }
    drafts = _of_content(tmp_path, content, kind="region_caption")
    assert [draft.locator for draft in drafts] == ["image_id=5/annotation_id=0", "image_id=5/annotation_id=1"]
    for draft, text in zip(drafts, captions, strict=True):
        assert isinstance(draft, Draft)
        assert (draft.task, draft.split, draft.regions) == (Task.DESCRIPTION, "val", ())
        assert [(turn.text, turn.answer) for turn in draft.turns] == [("<region1>", text)]
        assert [(prompt.kind, prompt.box_xyxy_px) for prompt in draft.prompts] == [
            (PromptKind.BOX, (2.5, 3.0, 12.0, 9.0))
        ]


def test_a_segmentation_is_preferred_to_a_box(tmp_path: Path) -> None:
    image = {"id": 5, "file_name": "a.jpg", "height": 24, "width": 32, "segmentation": polygon_of(_CUP)}
    annotation = {"id": 7, "image_id": 5, "caption": "a cup", "bbox": [2, 3, 10, 6]}
    (draft,) = _of_content(tmp_path, {"images": [image], "annotations": [annotation]}, kind="region_caption")
    assert isinstance(draft, Draft)
    assert [region.segmentation for region in draft.regions] == [polygon_of(_CUP)]
    assert [(prompt.kind, prompt.region) for prompt in draft.prompts] == [(PromptKind.MASK, 0)]


def test_captions_of_sam_lose_the_outline_and_those_of_perbench_stay(tmp_path: Path) -> None:
    caption = "The object highlighted by a yellow edge is a cup."
    row = {"image_name": "a.jpg", "object_annotations": [{"caption": caption, "segmentation": rle_of(_CUP)}]}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (sam,) = _records(tmp_path, kind="sam_captions", captions=["a.json"])
    (perbench,) = _records(tmp_path, kind="perbench", detailed_caption="a.json", mcq=None, visual_text_res=None)
    assert isinstance(sam, Draft)
    assert isinstance(perbench, Draft)
    assert (sam.family, perbench.family) == ("sam_captions", "perbench")
    assert sam.turns[0].answer == "The object is a cup."
    assert perbench.turns[0].answer == caption
    assert sam.regions == perbench.regions
    assert sam.prompts == perbench.prompts


def test_a_caption_about_its_outline_alone_is_quoted(tmp_path: Path) -> None:
    caption = "The object is highlighted by a yellow edge."
    row = {"image_name": "a.jpg", "object_annotations": [{"caption": caption, "segmentation": rle_of(_CUP)}]}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (reject,) = _records(tmp_path, kind="sam_captions", captions=["a.json"])
    assert isinstance(reject, Reject)
    assert reject.reason is RejectReason.TEXT_EMPTY
    assert reject.detail == f"caption: expected words, got {caption!r}"
