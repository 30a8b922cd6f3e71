"""Pictures alone, users' own rows, and captions in Parquet keep the contract; outcomes are counted by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.registry import source_config
from pipelines.curation.steps.filters import FilterConfig
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.testing import (
    Expected,
    FamilyContract,
    polygon_of,
    write_coco,
    write_parquet_pictures,
    write_picture,
    write_shard,
    write_zip,
)
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import SourceError
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import PromptKind, RejectReason, Task

_CUP = (2, 3, 12, 9)
_MUG = (20, 4, 30, 20)
_HEIGHT, _WIDTH = 24, 32


def _picture(root: Path, seed: int) -> bytes:
    """The bytes of a picture, whose file is gone again."""
    write_picture(root / "picture.png", seed=seed)
    data = (root / "picture.png").read_bytes()
    (root / "picture.png").unlink()
    return data


def _rle(box: tuple[int, int, int, int]) -> dict[str, object]:
    bitmap = np.zeros((_HEIGHT, _WIDTH), np.bool_)
    bitmap[box[1] : box[3], box[0] : box[2]] = True
    return {"size": [_HEIGHT, _WIDTH], "counts": encode_mask(bitmap).counts.decode()}


class TestImages(FamilyContract):
    folders = ("photos",)
    expected = Expected(
        samples={("images", Task.UNLABELLED, "train"): 9},
        masks={},
        rejects={
            ("photos", "sub/cut.png"): RejectReason.IMAGE_UNREADABLE,
            ("photos", "words.jpg"): RejectReason.IMAGE_UNREADABLE,
            ("photos", "\\udcff.png"): RejectReason.PATH_UNSAFE,
            ("web/00000.tar", "member=link.png"): RejectReason.PATH_UNSAFE,
            ("web/00001.tar", "member=cut.png"): RejectReason.IMAGE_UNREADABLE,
            ("a.zip", "member=../up.png"): RejectReason.PATH_UNSAFE,
            ("rows.parquet", "row=1"): RejectReason.IMAGE_MISSING,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        one, two, three = (_picture(root, seed) for seed in (1, 2, 3))
        files = {
            "photos/A.PNG": one,  # 1
            "photos/sub/000000000009.png": two,  # 2
            "photos/sub/deep/er/a.gif": three,  # 3
            "photos/sub/cut.png": one[:-50],
            "photos/words.jpg": b"no picture",
            "photos/A.txt": b"a caption",
            "photos/captions.json": b"{}",
            "photos/Thumbs.db": b"?",
            "photos/.hidden.png": one,
            "photos/.cache/a.png": one,
            "single.png": three,  # 4
            "other.png": one,  # beside the folder, and not named
        }
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        # A name that isn't Unicode, which a Linux folder may hold.
        Path(os.fsdecode(bytes(root / "photos") + b"/\xff.png")).write_bytes(one)
        write_shard(root / "web/00000.tar", {"x.png": one, "x.txt": b"words", "link.png": Path("x.png")})  # 5
        write_shard(root / "web/00001.tar", {"sub/y.png": two, "cut.png": two[:-50]})  # 6
        write_zip(
            root / "a.zip",
            {"a/b.png": one, "a/c.png": two, "__MACOSX/a/._b.png": b"?", "../up.png": one, "a.txt": b"?"},
        )  # 7 and 8
        write_parquet_pictures(root / "rows.parquet", {"r.png": three, "lost.png": None})  # 9
        pictures = ["photos", "web/{00000..00001}.tar", "a.zip", "rows.parquet", "single.png"]
        return {"kind": "images", "pictures": pictures}


class TestGeneric(FamilyContract):
    expected = Expected(
        samples={
            ("own", Task.REFERRING, "train"): 3,
            ("own", Task.REFERRING, "val"): 2,
            ("own", Task.CONVERSATION, "train"): 2,
            ("own", Task.CAPTION, "train"): 1,
            ("own", Task.GROUNDED_CAPTION, "train"): 1,
            ("own", Task.SEMANTIC, "train"): 1,
            ("own", Task.INSTANCE, "train"): 1,
            ("own", Task.CATEGORY, "train"): 1,
            ("own", Task.DESCRIPTION, "train"): 2,
            ("own", Task.REASONING, "train"): 3,
            ("own", Task.MULTIPLE_CHOICE, "train"): 1,
            ("own", Task.VISUAL_TEXT_REFERRING, "train"): 1,
            ("own", Task.UNLABELLED, "train"): 1,
        },
        masks={
            ("row=0", 0): _CUP,
            ("row=1", 0): _MUG,
            ("row=2", 0): _CUP,
            ("row=3", 0): _MUG,
            ("row=4", 0): None,
            ("row=8", 0): _MUG,
            ("row=8", 1): _CUP,
            ("row=10", 0): _CUP,
            ("row=10", 1): _MUG,
            ("row=11", 0): _CUP,
            ("row=12", 0): _MUG,
            ("row=14", 0): _CUP,
            ("row=15", 0): _CUP,
            ("row=15", 1): _MUG,
            ("row=18", 0): _MUG,
        },
        rejects={
            ("more.jsonl", f"row={row}"): reason
            for row, reason in {
                0: RejectReason.FIELD_INVALID,
                1: RejectReason.FIELD_INVALID,
                2: RejectReason.FIELD_INVALID,
                3: RejectReason.ANNOTATION_MISSING,
                4: RejectReason.IMAGE_MISSING,
                5: RejectReason.IMAGE_SIZE_MISMATCH,
                6: RejectReason.MASK_OUTSIDE_IMAGE,
                7: RejectReason.MASK_EMPTY,
                8: RejectReason.IMAGE_SIZE_MISMATCH,
                9: RejectReason.IMAGE_MISSING,
                10: RejectReason.PATH_UNSAFE,
                11: RejectReason.PLACEHOLDER_MISMATCH,
                12: RejectReason.PLACEHOLDER_MISMATCH,
                13: RejectReason.PLACEHOLDER_MISMATCH,
                14: RejectReason.FIELD_INVALID,
                15: RejectReason.MASK_OUTSIDE_IMAGE,
                16: RejectReason.TEXT_EMPTY,
                17: RejectReason.IMAGE_SIZE_MISMATCH,
                18: RejectReason.FIELD_INVALID,
                19: RejectReason.PATH_UNSAFE,
                20: RejectReason.FIELD_INVALID,
                21: RejectReason.MASK_OUTSIDE_IMAGE,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        write_picture(root / "pictures/a.png", seed=1)
        write_zip(root / "pictures/b.zip", {"b/b.png": _picture(root, 2)})
        _write_mask(root / "masks/mug.png", _MUG, value=7)
        _write_mask(root / "masks/empty.png", _MUG, value=0)
        _write_mask(root / "masks/tall.png", _MUG, value=255, height=_HEIGHT + 1)
        a = {"image": "a.png"}
        cup, mug = {"segmentation": polygon_of(_CUP)}, {"segmentation": {"png": "masks/mug.png"}}
        box = {"kind": "box", "box_xyxy_px": [2, 3, 12, 9]}
        good: list[object] = [
            a | {"expression": "The Cup."} | cup,  # 0
            a | {"expression": "the mug", "split": "val", "height": _HEIGHT, "width": _WIDTH} | mug,
            a | {"expression": "box", "segmentation": {"box_xyxy_px": list(_CUP)}},
            {"image": "b.zip/b.png", "expression": "in an archive", "segmentation": _rle(_MUG)},
            a | {"expression": "nothing", "regions": [], "split": "val"},
            a | {"question": "<image>\nWhat is this?", "answer": "A kitchen."},  # 5
            a | {"turns": [{"question": "And?", "answer": "No."}, {"question": "Why?", "answer": "So."}]},
            a | {"caption": "a kitchen"},
            a | {"caption": "<p>A mug</p> [SEG] beside <p>a cup</p> [SEG].", "regions": [mug, cup | {"id": 5}]},
            a | {"category": "cup", "regions": [cup, mug]},
            # The row lists the mug first; instances go from left to right.
            a | {"task": "instance", "category": "cup", "regions": [mug, cup]},  # 10
            a | {"task": "category", "category": "cup"} | cup,
            a | {"description": "A blue mug.", "regions": [mug | {"category": "mug"}]},
            a | {"description": "What the box holds.", "prompts": [box]},
            a | {"question": "What is warm?", "answer": "The cup [SEG]."} | cup,
            a | {"question": "Both?", "answer": "[SEG] and [SEG]", "targets": [[1], [2]], "regions": [cup, mug]},  # 15
            a | {"question": "Which is for tea?"} | mug,
            a | {"question": "What is <region1>?", "answer": "tea", "options": ["tea", "wine"]} | cup,
            a | {"question": "What is left of <region2>?", "answer": "<p>It</p> [SEG]", "regions": [mug, cup]},
            a,
        ]
        bad: list[object] = [
            a | {"expresion": "the cup"} | cup,  # 0
            a | {"expression": "the cup", "caption": "a cup"} | cup,
            a | {"task": "caption", "expression": "the cup"} | cup,
            a | {"expression": "forgot the mask"},
            {"image": "absent.png", "caption": "gone"},
            a | {"caption": "another size", "height": _HEIGHT + 1},  # 5
            a | {"expression": "outside", "segmentation": {"box_xyxy_px": [90, 90, 99, 99]}},
            a | {"expression": "empty", "segmentation": {"png": "masks/empty.png"}},
            a | {"expression": "tall", "segmentation": {"png": "masks/tall.png"}},
            a | {"expression": "no mask", "segmentation": {"png": "masks/absent.png"}},
            a | {"expression": "up", "segmentation": {"png": "../a.png"}},  # 10
            a | {"question": "What is <region2>?", "answer": "tea"} | cup,
            a | {"question": "Where?", "answer": "[SEG] and [SEG]"} | cup,
            a | {"question": "What?", "answer": "tea"} | cup,
            a | {"question": "What?"},
            a | {"description": "beside", "prompts": [{"kind": "point", "points_xy_px": [[33, 2]]}]},  # 15
            a | {"caption": " . "},
            a | {"question": "Which?", "answer": "[SEG]", "width": 5} | cup,
            a | {"question": "Which?", "answer": "beer", "options": ["tea", "wine"]} | cup,
            {"image": "../a.png"},
            "no mapping",  # 20
            a | {"description": "beside", "prompts": [box | {"box_xyxy_px": [32, 2, 40, 9]}]},
        ]
        _write_lines(root / "rows.jsonl", good)
        _write_lines(root / "more.jsonl", bad)
        rows = ["rows.jsonl", "more.jsonl"]
        return {"kind": "generic", "family": "own", "images": "pictures", "rows": rows}


class TestGenericParquet(FamilyContract):
    """Rows of several forms, whose other fields are null."""

    expected = Expected(
        samples={
            ("generic", Task.REFERRING, "val"): 2,
            ("generic", Task.CAPTION, "val"): 1,
            ("generic", Task.MULTIPLE_CHOICE, "test"): 1,
        },
        masks={("row=0", 0): _CUP, ("row=2", 0): _MUG, ("row=3", 0): _CUP},
        rejects={
            ("rows/0.parquet", "row=4"): RejectReason.FIELD_INVALID,
            ("rows/0.parquet", "row=5"): RejectReason.ANNOTATION_MISSING,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        write_picture(root / "a.png", seed=1)
        _write_mask(root / "masks/mug.png", _MUG, value=1)
        segmentations = [_rle(_CUP), None, {"png": "masks/mug.png"}, None, {"png": "masks/mug.png"} | _rle(_MUG), None]
        kind = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string()), ("png", pa.string())])
        region = pa.struct([("segmentation", pa.list_(pa.list_(pa.float64()))), ("id", pa.int64())])
        regions = [None, None, None, [{"segmentation": polygon_of(_CUP), "id": 3}], None, None]
        columns: dict[str, object] = {
            "image": ["a.png"] * 6,
            "split": [None, None, None, "test", None, None],
            "expression": ["the cup", None, "the mug", None, "two forms at once", "none"],
            "caption": [None, "a kitchen", None, None, None, None],
            "question": [None, None, None, "What is <region1>?", None, None],
            "answer": [None, None, None, "tea", None, None],
            "options": [None, None, None, ["tea", "wine"], None, None],
            "segmentation": pa.array(segmentations, kind),
            "regions": pa.array(regions, pa.list_(region)),
        }
        (root / "rows").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), root / "rows/0.parquet")
        return {"kind": "generic", "rows": ["rows/{0..0}.parquet"], "split": "val"}


class TestImageTextParquet(FamilyContract):
    folders = ("web/00001",)
    expected = Expected(
        samples={("image_text", Task.CAPTION, "train"): 3},
        masks={},
        rejects={
            ("web/00000.parquet", "row=1"): RejectReason.IMAGE_MISSING,
            ("web/00000.parquet", "row=2"): RejectReason.TEXT_EMPTY,
            ("web/00000.parquet", "row=4"): RejectReason.IMAGE_UNREADABLE,
            ("web/00000.parquet", "row=5"): RejectReason.IMAGE_MISSING,
            ("web/00000.parquet", "row=6"): RejectReason.PATH_UNSAFE,
            ("web/00001.parquet", "row=1"): RejectReason.IMAGE_MISSING,
            ("web/00001.parquet", "row=2"): RejectReason.IMAGE_MISSING,
            ("web/00001.parquet", "row=3"): RejectReason.FIELD_INVALID,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        one, two = _picture(root, 1), _picture(root, 2)
        (root / "web/00001").mkdir(parents=True, exist_ok=True)
        table = {
            "url": [f"http://a.example/{n}" for n in range(7)],
            "caption": [" a red\tcup ", None, None, "a mug", "half a mug", "no bytes", "up"],
            "key": ["000000000", "000000001", "000000002", "000000003", "000000004", "000000005", "../6"],
            "status": ["success", "failed_to_download", *["success"] * 5],
            "jpg": [one, None, one, two, two[:-50], None, one],
        }
        pq.write_table(pa.table(table), root / "web/00000.parquet", row_group_size=2)
        files = {
            "caption": ["a cup in a file", "no file", "failed", "no key"],
            "key": ["000010000", "000010001", "000010002", None],
            "status": ["success", "success", "failed_to_resize", "success"],
        }
        pq.write_table(pa.table(files), root / "web/00001.parquet")
        (root / "web/00001/000010000.webp").write_bytes(two)
        (root / "web/00001/000010000.txt").write_text("a cup in a file")
        (root / "web/00001/000010000.json").write_text("{}")
        return {"kind": "image_text", "shards": ["web/{00000..00001}.parquet"]}


TESTED = {
    TestImages: "images",
    TestGeneric: "generic",
    TestGenericParquet: "generic",
    TestImageTextParquet: "image_text",
}
"""Suites of this file by the family that they are of."""


def _write_lines(path: Path, rows: list[object]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def _write_mask(path: Path, box: tuple[int, int, int, int], value: int, height: int = _HEIGHT) -> None:
    pixels = np.zeros((height, _WIDTH), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _curated(root: Path, *sources: dict[str, object]) -> Corpus:
    config = CurationConfig.model_validate(
        {"root": str(root), "sources": sources, "max_reject_share": 1, "leakage": {"gate": "off"}}
    ).model_copy(update={"filters": FilterConfig(near_duplicate_expressions=False)})
    output = Objects.open(root.parent / "out")
    curate_local(config, output, NullProgress())
    return Corpus.open(output)


def test_what_rows_say_beside_their_masks(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    corpus = _curated(tmp_path / "in", TestGeneric().write_source(tmp_path / "in"))
    samples = {sample.locator: sample for sample in corpus.samples()}
    turns = {locator: sample.turns[0] for locator, sample in samples.items() if sample.turns}
    assert (turns["row=0"].text, turns["row=0"].answer, turns["row=0"].targets) == ("the cup", None, ((0,),))
    assert turns["row=4"].targets == ((),)
    assert (turns["row=5"].text, turns["row=5"].answer) == ("What is this?", "A kitchen.")
    assert [turn.text for turn in samples["row=6"].turns] == ["And?", "Why?"]
    assert [region.source_id for region in samples["row=8"].regions] == [None, "5"]
    assert (turns["row=9"].text, turns["row=9"].targets) == ("cup", ((0, 1),))
    assert turns["row=10"].targets == ((0,), (1,))
    assert (turns["row=11"].text, turns["row=11"].answer) == ("<region1>", "cup")
    assert samples["row=12"].regions[0].category == "mug"
    (prompt,) = samples["row=13"].prompts
    assert (prompt.kind, prompt.box_xyxy_px, prompt.region) == (PromptKind.BOX, (2.0, 3.0, 12.0, 9.0), None)
    assert (turns["row=16"].answer, turns["row=16"].targets) == (None, ((0,),))
    assert turns["row=17"].options == ("tea", "wine")
    # Only the second region is named: it becomes the first prompt, and the other one the target.
    assert turns["row=18"].text == "What is left of <region1>?"
    assert [prompt.region for prompt in samples["row=18"].prompts] == [1]
    assert turns["row=18"].targets == ((0,),)
    assert samples["row=19"].turns == ()


def test_pictures_alone_are_known_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = TestImages().write_source(tmp_path / "in")
    images = list(_curated(tmp_path / "in", source).images())
    assert sorted(name for image in images for name in image.sources) == [
        *("a.zip/a/b.png", "a.zip/a/c.png", "photos/A.PNG", "photos/sub/000000000009.png", "photos/sub/deep/er/a.gif"),
        *("rows.parquet/r.png", "single.png", "web/00000.tar/x.png", "web/00001.tar/sub/y.png"),
    ]
    assert [image.coco_id for image in images if "single.png" not in image.sources] != [None, None]
    assert {image.coco_id for image in images} == {None, 9}


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (["empty"], "empty: expected a folder of pictures under .*, found none in it; archives in a folder"),
        (["absent"], r"absent: absent; expected "),
        (["absent.tar"], r"absent\.tar: absent; expected absent\.tar under"),
        (["cut.tar"], r"cut\.tar: .*expected an uncompressed tar archive, got bytes that can't be read as one"),
        (["cut.zip"], r"cut\.zip: .*expected a zip archive, got bytes that can't be read as one"),
        (["text.parquet"], r"text\.parquet: expected a column image of bytes and path, .* got words"),
        (["packed.tar.gz"], r"packed\.tar\.gz: .*unpack its compression"),
        (["../up"], r"\.\./up: leads out of the source's folder"),
    ],
)
def test_what_can_not_be_listed_is_named(tmp_path: Path, pictures: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    write_shard(tmp_path / "empty/a.tar", {"a.jpg": b"1"})
    write_shard(tmp_path / "cut.tar", {"a.jpg": bytes(9000)})
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:5000])
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "text.parquet")
    source = source_config({"kind": "images", "root": str(tmp_path), "pictures": pictures})
    with pytest.raises(SourceError, match=message):
        list(source.records(SourceFiles(SourceFolder(str(tmp_path)), source.source_files())))


def test_pictures_of_a_whole_root_in_an_object_store() -> None:
    objects = Objects.open("memory://pictures-of-a-root/in")
    for name in ("b/2.jpg", "a.jpg", "words.txt", "c/.d.png"):
        objects.put(name, b"1")
    source = source_config({"kind": "images", "root": objects.url, "pictures": ["."], "split": "test"})
    records = list(source.records(SourceFiles(SourceFolder(objects.url))))
    assert [(record.source_file, record.locator) for record in records] == [(".", "a.jpg"), (".", "b/2.jpg")]


def test_parquet_beside_shards_of_tar_is_no_source(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["0"], "caption": ["a cup"]}), tmp_path / "0.parquet")
    source = source_config({"kind": "image_text", "root": str(tmp_path), "shards": ["0.parquet"]})
    message = (
        r"0\.parquet: expected a column of pictures \(jpg, .*\), or pictures in the folder 0, got neither; if they"
    )
    with pytest.raises(SourceError, match=message):
        list(source.records(SourceFiles(SourceFolder(str(tmp_path)))))
    pq.write_table(pa.table({"jpg": [b""], "text": ["a cup"]}), tmp_path / "0.parquet")
    with pytest.raises(SourceError, match=r"0\.parquet: expected columns key, caption, status, url, got jpg, text"):
        list(source.records(SourceFiles(SourceFolder(str(tmp_path)))))


@pytest.mark.parametrize("suffix", ["zip", "tar", "parquet"])
def test_any_family_reads_its_pictures_out_of_archives(tmp_path: Path, suffix: str) -> None:
    """COCO as it is published: pictures and panoptic PNGs in archives, with and without their folder in them."""
    root = tmp_path / "in"
    pixels = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    pixels[_CUP[1] : _CUP[3], _CUP[0] : _CUP[2], 0] = 7
    root.mkdir()
    Image.fromarray(pixels).save(root / "1.png")
    painted = (root / "1.png").read_bytes()
    (root / "1.png").unlink()
    write = {"zip": write_zip, "tar": write_shard, "parquet": write_parquet_pictures}[suffix]
    write(root / f"train2017.{suffix}", {"train2017/000000000001.png": _picture(root, 1)})
    write(root / f"annotations/png.{suffix}", {"000000000001.png": painted})
    segment = {"id": 7, "category_id": 1, "iscrowd": 0}
    write_coco(
        root / "annotations/panoptic.json",
        [{"id": 1, "file_name": "000000000001.png", "height": _HEIGHT, "width": _WIDTH}],
        [{"image_id": 1, "file_name": "000000000001.png", "segments_info": [segment]}],
    )
    source: dict[str, object] = {
        "kind": "coco_panoptic",
        "annotations": "annotations/panoptic.json",
        "segments": f"annotations/png.{suffix}",
        "images": f"train2017.{suffix}",
        "uses": ["semantic"],
    }
    corpus = _curated(root, source)
    assert list(corpus.rejects()) == []
    (image,) = corpus.images()
    assert (image.sources, image.coco_id) == ((f"train2017.{suffix}/000000000001.png",), 1)
    (sample,) = corpus.samples()
    assert sample.regions[0].mask.counts.decode() == _rle(_CUP)["counts"]
