"""The words of MUSE, Pix2Cap and ReasonSeg records, and what their rejects say."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.records import Draft, PaintedShapes, PanopticSegment
from pipelines.curation.registry import source_config
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.testing import polygon_of, write_coco, write_picture
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import SourceError
from storage.objects import Objects
from storage.schema import PromptKind, Reject, RejectReason, Task, Turn, VisualPrompt

_CUP = polygon_of((2, 3, 12, 9))
_SQUARE = [[1, 1], [5, 1], [5, 5], [1, 5]]


def _records(root: Path, **source: object) -> list[Draft | Reject]:
    found = source_config({**source, "root": str(root)})
    return list(found.records(SourceFiles(SourceFolder(found.root_url), found.source_files())))


def _muse(root: Path, **fields: object) -> Draft | Reject:
    row = {
        "file_name": "COCO_train2014_000000000025.jpg",
        "height": 24,
        "width": 32,
        "questions": ["What  holds tea?"],
        "answers": [[{"segmentation": _CUP, "category_name": "mug_(cup)", "rephrased_name": "the red mug"}]],
        "text_answers": ["The mug {seg} holds tea."],
        **fields,
    }
    (root / "rows.json").write_text(json.dumps([row]))
    (record,) = _records(root, kind="muse", questions=["rows.json"], images="", split="val")
    return record


def test_a_slot_of_a_muse_answer_becomes_a_mask(tmp_path: Path) -> None:
    draft = _muse(tmp_path)
    assert isinstance(draft, Draft)
    assert draft.turns == (Turn(text="What holds tea?", answer="The mug [SEG] holds tea.", targets=((0,),)),)
    assert (draft.task, draft.split, draft.locator) == (Task.REASONING, "val", "row=0/questions[0]")
    (region,) = draft.regions
    assert (region.category, region.source_id) == ("mug_(cup)", "answers[0][0]")
    assert (draft.image.path, draft.image.coco_id) == ("train2014/COCO_train2014_000000000025.jpg", 25)


def test_without_a_muse_sentence_the_wording_follows_from_the_task(tmp_path: Path) -> None:
    cup = {"segmentation": _CUP, "category_name": "cup"}
    for texts in ([None], None):
        draft = _muse(tmp_path, answers=[[cup, cup]], text_answers=texts)
        assert isinstance(draft, Draft)
        assert draft.turns == (Turn(text="What holds tea?", targets=((0,), (1,))),)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg"}, "train2017/000000000009.jpg"),
        ({"coco_url": "http://images.cocodataset.org/val2017/000000000139.jpg"}, "val2017/000000000139.jpg"),
    ],
)
def test_the_folder_of_a_muse_picture_follows_from_its_url(
    tmp_path: Path, fields: dict[str, object], path: str
) -> None:
    draft = _muse(tmp_path, file_name=None, **fields)
    assert isinstance(draft, Draft)
    assert draft.image.path == path
    assert draft.image.coco_id == int(path[-16:-4])


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        (
            {"text_answers": ["{seg} or {seg}"]},
            "text_answer: expected {seg} once for each of 1 objects, got it 2 times",
        ),
        ({"questions": ["Is it {seg}?"]}, "question: {seg} belongs to answers"),
        ({"answers": [[{"segmentation": _CUP}]]}, "answers[0][0]: category_name: expected in the record, but absent"),
        ({"answers": [[{"segmentation": 3, "category_name": "a"}]]}, "answers[0][0]: segmentation: expected polygons"),
        ({"answers": []}, "answers: expected one for each of 1 questions, got 0"),
        ({"file_name": None}, "coco_url: expected in the record, but absent"),
        (
            {"file_name": None, "coco_url": "http://a/val2014/1.jpg"},
            "coco_url: expected a file in train2017 or val2017",
        ),
    ],
)
def test_rejects_of_muse_name_the_field(tmp_path: Path, fields: dict[str, object], detail: str) -> None:
    reject = _muse(tmp_path, **fields)
    assert isinstance(reject, Reject)
    assert detail in reject.detail


def _pix2cap(root: Path, *descriptions: object, **source: object) -> list[Draft | Reject]:
    segments = [{"id": n, "category_id": 2, "description": text} for n, text in enumerate(descriptions, start=1)]
    write_coco(
        root / "annotations/pix2cap_coco_train.json",
        [{"id": 9, "file_name": "000000000009.jpg", "height": 24, "width": 32}],
        [{"image_id": 9, "file_name": "000000000009.png", "segments_info": segments}],
    )
    return _records(root, kind="pix2cap", **source)


def test_the_two_uses_of_a_pix2cap_segment(tmp_path: Path) -> None:
    referring, description = _pix2cap(tmp_path, "A White wall.  It is\tbehind the cup.")
    assert isinstance(referring, Draft)
    assert isinstance(description, Draft)
    assert referring.task is Task.REFERRING
    assert referring.turns == (Turn(text="A White wall. It is behind the cup", targets=((0,),)),)
    assert referring.prompts == ()
    assert description.task is Task.DESCRIPTION
    assert description.turns == (Turn(text="<region1>", answer="A White wall. It is behind the cup."),)
    assert description.prompts == (VisualPrompt(kind=PromptKind.MASK, region=0),)
    for draft in (referring, description):
        (region,) = draft.regions
        assert region.segmentation == PanopticSegment("annotations/panoptic_train2017/000000000009.png", 1)
        assert (region.category, region.source_id) == ("wall-other-merged", "1")
        assert (draft.image.path, draft.image.coco_id) == ("train2017/000000000009.jpg", 9)


def test_one_use_of_pix2cap_alone(tmp_path: Path) -> None:
    records = _pix2cap(tmp_path, "A white wall", "A mug", uses=["visual_prompt"])
    assert [record.locator for record in records] == [
        "image_id=9/segment_id=1/use=visual_prompt",
        "image_id=9/segment_id=2/use=visual_prompt",
    ]
    assert isinstance(records[1], Reject)


@pytest.mark.parametrize("text", ["", "A mug", "     A mug     ", None])
def test_a_description_of_five_characters_is_none(tmp_path: Path, text: str | None) -> None:
    for record in _pix2cap(tmp_path, text):
        assert isinstance(record, Reject)
        assert record.reason is RejectReason.TEXT_EMPTY
        assert "description: expected" in record.detail


def _labelme(*shapes: object, text: object = ("What holds tea?",), **fields: object) -> dict[str, object]:
    return {"shapes": list(shapes), "text": text, "is_sentence": True, **fields}


def _reason_seg(root: Path, content: object, encoding: str = "utf-8") -> list[Draft | Reject]:
    (root / "train").mkdir(exist_ok=True)
    text = json.dumps(content, ensure_ascii=False)
    (root / "train/a.json").write_text(text, encoding=encoding)
    return _records(root, kind="reason_seg", folders={"train": "train"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_reason_seg_texts_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    flag = {"label": "Flag", "points": "whatever"}
    texts = ["the café\u2019s  mug", "What holds tea?"]
    target, ignore = {"label": "target", "points": _SQUARE}, {"label": "Ignore_1", "points": _SQUARE}
    records = _reason_seg(tmp_path, _labelme(flag, target, ignore, target, text=texts), encoding)
    for record, text in zip(records, ["the café\u2019s mug", "What holds tea?"], strict=True):
        assert isinstance(record, Draft)
        assert record.turns == (Turn(text=text, targets=((0,),)),)
        assert (record.task, record.source_file, record.image.path) == (Task.REASONING, "train", "train/a.jpg")
        square = (1, 1, 5, 1, 5, 5, 1, 5)
        (region,) = record.regions
        assert region.segmentation == PaintedShapes(targets=(square, square), ignored=(square,))


@pytest.mark.parametrize("is_sentence", [True, False])
def test_phrases_and_sentences_are_questions_alike(tmp_path: Path, is_sentence: bool) -> None:
    shape = {"label": "target", "points": _SQUARE}
    (record,) = _reason_seg(tmp_path, _labelme(shape, text=["the mug"], is_sentence=is_sentence))
    assert isinstance(record, Draft)
    assert (record.task, record.turns[0].text) == (Task.REASONING, "the mug")


@pytest.mark.parametrize(
    ("shape", "detail"),
    [
        ({"label": "cup", "points": _SQUARE}, "shapes[0]: label: expected target, ignore or flag, got 'cup'"),
        ({"points": _SQUARE}, "shapes[0]: label: expected in the record, but absent"),
        ({"label": "target"}, "shapes[0]: points: expected in the record, but absent"),
        ({"label": "target", "points": [[1, 1], [9, 9]]}, "shapes[0]: points: expected at least 3, got 2"),
        ({"label": "target", "points": [[1, 1], [9, 9], [True, 0]]}, "shapes[0]: points[2]: expected [x, y] of finite"),
        ({"label": "target", "points": [[1, 1], [9, 9], [1, float("nan")]]}, "points[2]: expected [x, y] of finite"),
        ({"label": "ignore", "points": [[1, 1], [9, 9], 3]}, "shapes[0]: points[2]: expected [x, y] of finite"),
        ({"label": "ignore", "points": _SQUARE}, "shapes: expected at least one target, got none"),
    ],
)
def test_rejects_of_reason_seg_name_the_shape(tmp_path: Path, shape: object, detail: str) -> None:
    (reject,) = _reason_seg(tmp_path, _labelme(shape))
    assert isinstance(reject, Reject)
    assert (reject.source_file, reject.locator) == ("train", "file=a.json/text[0]")
    assert detail in reject.detail


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"[" * 100_000, b'{"text": ' + b"9" * 5000 + b"}", b'"\x81"'])
def test_a_damaged_file_of_reason_seg_is_one_reject(tmp_path: Path, data: bytes) -> None:
    _reason_seg(tmp_path, _labelme({"label": "target", "points": _SQUARE}))
    (tmp_path / "train/b.json").write_bytes(data)
    good, bad = _records(tmp_path, kind="reason_seg", folders={"train": "train"})
    assert isinstance(good, Draft)
    assert isinstance(bad, Reject)
    assert bad.locator == "file=b.json"
    assert "expected JSON in UTF-8 or cp1252" in bad.detail


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems keep no such names")
def test_a_name_that_is_no_unicode_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with open(os.fsencode(tmp_path / "train") + b"/caf\xe9.json", "w") as file:
        json.dump(_labelme({"label": "target", "points": _SQUARE}), file)
    (reject,) = _records(tmp_path, kind="reason_seg", folders={"train": "train"})
    assert isinstance(reject, Reject)
    assert (reject.locator, reject.reason) == ("file=caf\\udce9.json", RejectReason.FIELD_INVALID)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems keep no such names")
@pytest.mark.parametrize("name", [b"C:\\a.json", b"a\n.json", b"caf\xe9.json", b"out.json"])
def test_a_file_of_reason_seg_that_may_not_be_read_is_a_reject_of_the_corpus(tmp_path: Path, name: bytes) -> None:
    write_picture(tmp_path / "in/train/a.jpg")
    _reason_seg(tmp_path / "in", _labelme({"label": "target", "points": _SQUARE}))
    (tmp_path / "secret.json").write_text(json.dumps(_labelme({"label": "target", "points": _SQUARE}, text=["secret"])))
    if name == b"out.json":
        (tmp_path / "in/train/out.json").symlink_to(tmp_path / "secret.json")
    else:
        os.link(tmp_path / "secret.json", os.fsencode(tmp_path / "in/train") + b"/" + name)
    source: Any = {"kind": "reason_seg", "root": str(tmp_path / "in"), "folders": {"train": "train"}}
    config = CurationConfig.model_validate({"sources": [source]})
    curate_local(config, Objects.open(tmp_path / "out"), NullProgress())
    (reject,) = Corpus.open(Objects.open(tmp_path / "out")).rejects()
    assert reject.reason in (RejectReason.PATH_UNSAFE, RejectReason.FIELD_INVALID)
    assert reject.locator == f"file={os.fsdecode(name).encode(errors='backslashreplace').decode()}"


def test_folders_of_reason_seg(tmp_path: Path) -> None:
    source: Any = {"kind": "reason_seg", "root": str(tmp_path), "folders": {"val": "b/", "train": "a"}}
    config = CurationConfig.model_validate({"sources": [source]})
    files = SourceFiles(SourceFolder(str(tmp_path)))
    for folder in ("a", "b"):
        write_picture(tmp_path / folder / "1.jpg")
        with pytest.raises(SourceError, match=rf"{folder}: expected LabelMe files \(.json\) beside pictures"):
            list(config.sources[0].listed_files(files))
        with pytest.raises(SourceError, match=rf"{folder}: expected LabelMe files .* name the folder of each split"):
            curate_local(config, Objects.open(tmp_path / "out"), NullProgress())
        (tmp_path / folder / "1.json").write_text(json.dumps(_labelme({"label": "target", "points": _SQUARE})))
    assert list(config.sources[0].listed_files(files)) == ["a/1.json", "b/1.json"]
    records = list(config.sources[0].records(files))
    assert [record.split for record in records if isinstance(record, Draft)] == ["train", "val"]
    assert [record.source_file for record in records] == ["a", "b"]
