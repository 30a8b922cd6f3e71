"""The families of captions keep the contract; the expected outcomes are counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.curation.testing import Expected, FamilyContract, polygon_of, rle_of, write_picture
from storage.schema import RejectReason, Task

_CUP = (2, 3, 12, 9)
_MUG = (20, 4, 30, 20)
_LEFT, _RIGHT, _BOTH = (4, 10, 8, 20), (8, 10, 14, 20), (4, 10, 14, 20)
_HEIGHT, _WIDTH = 24, 32
_CAPTION = "A red cup beside a mug."
_CUP_SPAN, _MUG_SPAN = [0, 9], [17, 22]


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


class TestGcgRefCocog(FamilyContract):
    expected = Expected(
        samples={("gcg_refcocog", Task.GROUNDED_CAPTION, "train"): 4},
        masks={
            ("row=0", 0): _CUP,
            ("row=0", 1): _MUG,
            ("row=1", 0): _BOTH,
            ("row=2", 0): _MUG,
            ("row=3", 0): _CUP,
        },
        rejects={
            ("gcg/RefCOCOg_GCG_train.json", locator): reason
            for locator, reason in {
                "row=2/refs[1]": RejectReason.FILTERED,
                "row=3/refs[0]": RejectReason.FIELD_INVALID,
                "row=3/refs[1]": RejectReason.MASK_INVALID,
                "row=3/refs[2]": RejectReason.TEXT_EMPTY,
                "row=3/refs[3]": RejectReason.MASK_EMPTY,
                "row=4": RejectReason.ANNOTATION_MISSING,
                "row=4/refs[0]": RejectReason.FILTERED,
                "row=5": RejectReason.ANNOTATION_MISSING,
                "row=6": RejectReason.FIELD_INVALID,
                "row=7": RejectReason.FIELD_INVALID,
                "row=8": RejectReason.TEXT_EMPTY,
                "row=9": RejectReason.PLACEHOLDER_MISMATCH,
                "row=10": RejectReason.IMAGE_MISSING,
                "row=11": RejectReason.PATH_UNSAFE,
                "row=12": RejectReason.MASK_OUTSIDE_IMAGE,
                "row=13": RejectReason.PLACEHOLDER_MISMATCH,
                "row=14": RejectReason.FIELD_INVALID,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        name = "COCO_train2014_000000000001.jpg"
        write_picture(root / f"images/train2014/{name}", seed=1)

        def ref(sentence: object, segmentation: object) -> dict[str, object]:
            return {"sentence": sentence, "bbox": [0.0, 0.0, 1.0, 1.0], "segmentation": segmentation}

        def row(caption: object, *refs: object, image: str = name) -> dict[str, object]:
            return {"7": {"refs": list(refs), "img_file_name": image, "caption": caption}}

        cup, mug = ref("a red cup", polygon_of(_CUP)), ref("a mug.", polygon_of(_MUG))
        rows: list[object] = [
            # The source lists the mug first; the caption begins with the cup.
            row(f'"{_CAPTION}"', mug, cup),
            # Two references with the same words are one phrase, whose mask is both of theirs.
            row("Two cups.", ref("two cups", polygon_of(_LEFT)), ref("Two cups", polygon_of(_RIGHT))),
            # The mug's words stand nowhere but within the cup's.
            row("A cup beside a mug", ref("a cup beside a mug", polygon_of(_MUG)), ref("a mug", polygon_of(_CUP))),
            row(_CAPTION, "no mapping", ref("a mug", [[1, "2"]]), ref(" . ", polygon_of(_CUP)), ref("a mug", []), cup),
            row("A kitchen.", cup),
            row("A kitchen."),
            row(5, cup),
            {"7": {}, "8": {}},
            row('""', cup),
            row("A red cup [SEG]", cup),
            row(_CAPTION, cup, image="lost.jpg"),
            row(_CAPTION, cup, image="../a.jpg"),
            row(_CAPTION, cup, ref("a mug", polygon_of((90, 90, 95, 95)))),
            row("A red cup beside <region1>", cup),
            "no mapping",
        ]
        _write_json(root / "gcg/RefCOCOg_GCG_train.json", rows)
        return {"kind": "gcg"}


def _grounding(span: object, *masks: object) -> dict[str, object]:
    return {"token_positives": span, "rle_masks": list(masks)}


def _span_row(groundings: object, caption: object = _CAPTION, **changes: object) -> dict[str, object]:
    facts: dict[str, object] = {"file_name": "1.jpg", "height": _HEIGHT, "width": _WIDTH, "image_id": "1"}
    return facts | {"caption": caption, "groundings": groundings} | changes


class TestGcgGranDf(FamilyContract):
    expected = Expected(
        samples={("gcg_grandf", Task.GROUNDED_CAPTION, "train"): 4},
        masks={
            ("row=0", 0): _BOTH,
            ("row=0", 1): _MUG,
            ("row=1", 0): _MUG,
            ("row=2", 0): _CUP,
            ("row=3", 0): _CUP,
        },
        rejects={
            ("gcg/GranDf_HA_GCG_train.json", locator): reason
            for locator, reason in {
                "row=2/groundings[0]": RejectReason.FIELD_INVALID,
                "row=2/groundings[1]": RejectReason.FIELD_INVALID,
                "row=2/groundings[3]": RejectReason.FIELD_INVALID,
                "row=2/groundings[4]": RejectReason.MASK_EMPTY,
                "row=2/groundings[5]": RejectReason.FILTERED,
                "row=2/groundings[6]": RejectReason.FIELD_INVALID,
                "row=2/groundings[7]": RejectReason.FIELD_INVALID,
                "row=4": RejectReason.ANNOTATION_MISSING,
                "row=5": RejectReason.FIELD_INVALID,
                "row=6": RejectReason.FIELD_INVALID,
                "row=7": RejectReason.IMAGE_SIZE_MISMATCH,
                "row=8": RejectReason.MASK_INVALID,
                "row=9": RejectReason.FIELD_INVALID,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        write_picture(root / "images/grandf/1.jpg", seed=1)
        cup, mug = rle_of(_CUP), rle_of(_MUG)
        rows: list[object] = [
            # Unsorted; the cup has two masks.
            _span_row(
                {"a mug": _grounding(_MUG_SPAN, mug), "a red cup": _grounding(_CUP_SPAN, rle_of(_LEFT), rle_of(_RIGHT))}
            ),
            _span_row({"A red cup": None, "a mug": _grounding(_MUG_SPAN, mug)}),
            _span_row(
                {
                    "a mug": _grounding([16, 21], mug),
                    "a plate": _grounding([-1, 6], mug),
                    "A red cup": _grounding(_CUP_SPAN, cup),
                    "mug": _grounding([19], mug),
                    "beside": _grounding([10, 16]),
                    "red cup": _grounding([2, 9], mug),
                    "a mug.": _grounding([17, 99], "no mask"),
                    "red": [2, 5],
                }
            ),
            # Spans count what is within the quotes.
            _span_row({"a red cup": _grounding(_CUP_SPAN, cup)}, caption=f'"{_CAPTION}"'),
            _span_row({"a red cup": None}),
            _span_row([]),
            _span_row({}, caption=None),
            _span_row({"a red cup": _grounding(_CUP_SPAN, cup)}, width=31),
            _span_row({"a red cup": _grounding(_CUP_SPAN, rle_of(_CUP, 20, 20))}),
            _span_row({"a red cup": _grounding(_CUP_SPAN, cup)}, height="24"),
        ]
        _write_json(root / "gcg/GranDf_HA_GCG_train.json", rows)
        return {"kind": "gcg", "dataset": "grandf"}


class TestGcgOpenPsg(FamilyContract):
    expected = Expected(
        samples={("gcg_openpsg", Task.GROUNDED_CAPTION, "val"): 1},
        masks={("row=0", 0): _CUP, ("row=0", 1): _MUG},
        rejects={
            ("gcg/OpenPsgGCG_val.json", "row=1"): RejectReason.IMAGE_MISSING,
            ("gcg/OpenPsgGCG_val.json", "row=2"): RejectReason.ANNOTATION_MISSING,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        name = "train2017/000000000001.jpg"
        write_picture(root / "pictures" / name, seed=1)
        good = {"A red cup": _grounding(_CUP_SPAN, rle_of(_CUP)), "a mug": _grounding(_MUG_SPAN, rle_of(_MUG))}
        rows = [
            _span_row(good, file_name=name),
            _span_row(good, file_name="train2017/000000000002.jpg"),
            _span_row({}, file_name=name),
        ]
        _write_json(root / "gcg/OpenPsgGCG_val.json", rows)
        return {
            "kind": "gcg",
            "dataset": "openpsg",
            "annotations": "gcg/OpenPsgGCG_val.json",
            "images": "pictures",
            "split": "val",
        }


class TestGcgFlickr(FamilyContract):
    expected = Expected(
        samples={("gcg_flickr", Task.GROUNDED_CAPTION, "train"): 3},
        masks={
            ("image_id=1", 0): _CUP,
            ("image_id=1", 1): _MUG,
            ("image_id=2", 0): _CUP,
            ("image_id=2", 1): _CUP,
            ("image_id=3", 0): _BOTH,
        },
        rejects={
            ("gcg/flickr_mergedGT_GCG_train.json", locator): reason
            for locator, reason in {
                "image_id=3/annotation_id=32": RejectReason.FILTERED,
                "image_id=3/annotation_id=33": RejectReason.FILTERED,
                "image_id=3/annotation_id=34": RejectReason.FILTERED,
                "image_id=3/annotation_id=35": RejectReason.FIELD_INVALID,
                "image_id=3/annotation_id=36": RejectReason.FIELD_INVALID,
                "image_id=3/annotation_id=37/tokens_positive[0]": RejectReason.FIELD_INVALID,
                "image_id=3/annotation_id=38/tokens_positive[1]": RejectReason.FILTERED,
                "image_id=3/annotation_id=39": RejectReason.FIELD_INVALID,
                "image_id=3/annotations[13]": RejectReason.FIELD_INVALID,
                "image_id=4": RejectReason.FILTERED,
                "image_id=5": RejectReason.ANNOTATION_MISSING,
                "image_id=6": RejectReason.MASK_INVALID,
                "image_id=7": RejectReason.FIELD_INVALID,
                "images[7]": RejectReason.FIELD_INVALID,
                "images[8]": RejectReason.FIELD_INVALID,
                "annotations[17]": RejectReason.IMAGE_UNKNOWN,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        write_picture(root / "images/flickr30k/1.jpg", seed=1)

        def image(image_id: int, caption: object = _CAPTION) -> dict[str, object]:
            return {"id": image_id, "file_name": "1.jpg", "height": _HEIGHT, "width": _WIDTH, "caption": caption}

        def annotation(
            number: object, image_id: int, mask: object, *spans: object, **more: object
        ) -> dict[str, object]:
            facts: dict[str, object] = {"bbox": [2.0, 3.0, 10.0, 6.0], "area": 60, "tokens_positive": list(spans)}
            return {"id": number, "image_id": image_id, "sam_mask": mask} | facts | more

        cup, mug = rle_of(_CUP), rle_of(_MUG)
        images = [image(number) for number in (1, 3, 5, 6)]
        images += [image(2, "A cup, and again a cup."), image(4, "A cup."), image(7, None), image(8), image(8)]
        annotations = [
            annotation(11, 1, mug, _MUG_SPAN),
            annotation(10, 1, cup, _CUP_SPAN, ignore=False),
            annotation(20, 2, cup, [0, 5], [17, 22]),
            annotation(31, 3, rle_of(_RIGHT), _CUP_SPAN),
            annotation(30, 3, rle_of(_LEFT), [0, 10]),
            annotation(32, 3, mug, _MUG_SPAN, ignore=1),
            annotation(33, 3, mug, _MUG_SPAN, bbox=[2.0, 3.0, 0.5, 6.0]),
            annotation(34, 3, mug, _MUG_SPAN, bbox=[32.0, 3.0, 5.0, 6.0]),
            annotation(35, 3, mug, _MUG_SPAN, bbox=None),
            annotation(36, 3, [[1, 2]], _MUG_SPAN),
            annotation(37, 3, mug, [17, 99]),
            annotation(38, 3, rle_of(_BOTH), _CUP_SPAN, [2, 5]),
            annotation(39, 3, mug),
            annotation(None, 3, mug, "span"),
            annotation(40, 4, cup, [0, 5]),
            annotation(60, 6, rle_of(_CUP, 9, 20), _CUP_SPAN),
            annotation(80, 8, cup, _CUP_SPAN),
            annotation(99, 99, cup, _CUP_SPAN),
        ]
        _write_json(
            root / "gcg/flickr_mergedGT_GCG_train.json",
            {"images": images, "annotations": annotations, "categories": []},
        )
        return {"kind": "gcg", "dataset": "flickr"}


class TestSamCaptions(FamilyContract):
    expected = Expected(
        samples={("sam_captions", Task.DESCRIPTION, "train"): 2},
        masks={
            ("row=0/object_annotations[0]", 0): _CUP,
            ("row=0/object_annotations[1]", 0): _MUG,
        },
        rejects={
            ("sam_captions/a.json", locator): reason
            for locator, reason in {
                "row=0/object_annotations[2]": RejectReason.TEXT_EMPTY,
                "row=0/object_annotations[3]": RejectReason.FIELD_INVALID,
                "row=0/object_annotations[4]": RejectReason.MASK_INVALID,
                "row=0/object_annotations[5]": RejectReason.PLACEHOLDER_MISMATCH,
                "row=0/object_annotations[6]": RejectReason.MASK_EMPTY,
                "row=1": RejectReason.ANNOTATION_MISSING,
                "row=2": RejectReason.FIELD_INVALID,
                "row=3/object_annotations[0]": RejectReason.PATH_UNSAFE,
                "row=4": RejectReason.FIELD_INVALID,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        write_picture(root / "images/sam/sa_1.jpg", seed=1)

        def item(caption: object, segmentation: object) -> dict[str, object]:
            return {"caption": caption, "segmentation": segmentation}

        cup = rle_of(_CUP)
        objects: list[object] = [
            item("The object highlighted by a yellow edge is a cup.", cup),
            item("A mug.", rle_of(_MUG)),
            item("The object is highlighted.", cup),
            item(5, cup),
            item("A cup.", "no mask"),
            item("A cup beside <region2>.", cup),
            item("A cup.", rle_of((5, 5, 5, 5))),
        ]
        rows: list[object] = [
            {"image_name": "sa_1.jpg", "object_annotations": objects},
            {"image_name": "sa_1.jpg", "object_annotations": []},
            {"image_name": "sa_1.jpg"},
            {"image_name": "/sa_1.jpg", "object_annotations": [item("A cup.", cup)]},
            [],
        ]
        _write_json(root / "sam_captions/a.json", rows)
        return {"kind": "sam_captions", "captions": ["sam_captions/a.json"]}


class TestRegionCaption(FamilyContract):
    expected = Expected(
        samples={("region_caption", Task.DESCRIPTION, "val"): 6},
        masks={
            ("image_id=1/annotation_id=10", 0): _CUP,
            ("image_id=1/annotation_id=11", 0): _CUP,
            ("image_id=2/annotation_id=20", 0): _MUG,
            ("image_id=3/annotation_id=30", 0): (0, 20, 5, _HEIGHT),
            ("image_id=4/annotation_id=40", 0): _CUP,
            ("image_id=4/annotation_id=41", 0): _CUP,
        },
        rejects={
            ("region_caption/finetune_refcocog_val_captions.json", locator): reason
            for locator, reason in {
                "image_id=4/annotation_id=42": RejectReason.TEXT_EMPTY,
                "image_id=4/annotation_id=43": RejectReason.FIELD_INVALID,
                "image_id=5": RejectReason.ANNOTATION_MISSING,
                "image_id=6/annotation_id=60": RejectReason.FIELD_INVALID,
                "image_id=6/annotation_id=61": RejectReason.FIELD_INVALID,
                "image_id=7/annotation_id=70": RejectReason.ANNOTATION_MISSING,
                "image_id=8/annotation_id=80": RejectReason.MASK_OUTSIDE_IMAGE,
                "image_id=9/annotation_id=90": RejectReason.MASK_EMPTY,
                "image_id=10/annotation_id=100": RejectReason.FIELD_INVALID,
                "image_id=11/annotation_id=110": RejectReason.IMAGE_SIZE_MISMATCH,
                "image_id=12/annotation_id=120": RejectReason.MASK_INVALID,
                "image_id=13/annotation_id=130": RejectReason.FIELD_INVALID,
                "images[13]": RejectReason.FIELD_INVALID,
                "annotations[17]": RejectReason.IMAGE_UNKNOWN,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        name = "COCO_train2014_000000000001.jpg"
        write_picture(root / f"images/train2014/{name}", seed=1)

        def image(image_id: int, **more: object) -> dict[str, object]:
            return {"id": image_id, "file_name": name, "height": _HEIGHT, "width": _WIDTH} | more

        def caption(number: int, image_id: int, text: object = "a cup", **region: object) -> dict[str, object]:
            return {"id": number, "image_id": image_id, "caption": text} | region

        cup = [2.0, 3.0, 10.0, 6.0]
        segmentation, other = polygon_of(_MUG), polygon_of(_CUP)
        images: list[object] = [image(number) for number in (1, 2, 3, 5, 6, 7, 8, 9, 10, 12)]
        images += [image(4, bbox=cup), image(11, width=_WIDTH + 1), image(13, file_name=5), {"id": "14"}]
        annotations = [
            # Two captions of one region, which is a box.
            caption(11, 1, "the red cup", bbox=cup, segmentation=[]),
            caption(10, 1, "a cup of tea", bbox=cup),
            caption(20, 2, bbox=cup, segmentation=segmentation),
            # Reaches out of the picture.
            caption(30, 3, bbox=[-3.0, 20.0, 8.0, 9.0]),
            caption(41, 4, "left cup"),
            caption(40, 4, "red cup"),
            caption(42, 4, " . "),
            caption(43, 4, None),
            caption(60, 6, segmentation=segmentation),
            caption(61, 6, segmentation=other),
            caption(70, 7),
            caption(80, 8, bbox=[40.0, 3.0, 5.0, 5.0]),
            caption(90, 9, bbox=[4.0, 3.0, 0.0, 5.0]),
            caption(100, 10, bbox=[4.0, 3.0, 5.0]),
            caption(110, 11, bbox=cup),
            caption(120, 12, segmentation=5),
            caption(130, 13, bbox=cup),
            caption(990, 99, bbox=cup),
        ]
        content = {"images": images, "annotations": annotations}
        _write_json(root / "region_caption/finetune_refcocog_val_captions.json", content)
        return {"kind": "region_caption"}
