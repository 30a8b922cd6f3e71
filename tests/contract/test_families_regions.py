"""The contract for the families that ask for masks in sentences: MUSE, Pix2Cap, ReasonSeg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.curation.registry import SourceUnion
from pipelines.curation.testing import (
    Box,
    Expected,
    FamilyContract,
    polygon_of,
    rle_of,
    write_coco,
    write_panoptic,
    write_picture,
)
from storage.schema import RejectReason, Task

_CUP = (2, 3, 12, 9)
_MUG = (20, 4, 30, 20)
_HEIGHT, _WIDTH = 24, 32


class TestMuse(FamilyContract):
    expected = Expected(
        samples={("muse", Task.REASONING, "train"): 6},
        masks={
            ("row=0/questions[0]", 0): _MUG,
            ("row=0/questions[0]", 1): _CUP,
            ("row=0/questions[1]", 0): _CUP,
            ("row=1/questions[0]", 0): (0, 0, 1, _HEIGHT),
            ("row=2/questions[0]", 0): _CUP,
            ("row=2/questions[0]", 1): _MUG,
            ("row=3/questions[1]", 0): _MUG,
        },
        rejects={
            ("muse/MUSE_train.json", locator): reason
            for locator, reason in {
                "row=4/questions[0]": RejectReason.PLACEHOLDER_MISMATCH,  # {seg} once for two objects
                "row=4/questions[1]": RejectReason.PLACEHOLDER_MISMATCH,  # twice for one
                "row=4/questions[2]": RejectReason.PLACEHOLDER_MISMATCH,  # in the question
                "row=4/questions[3]": RejectReason.PLACEHOLDER_MISMATCH,  # a [SEG] of its own
                "row=5/questions[0]": RejectReason.ANNOTATION_MISSING,
                "row=5/questions[1]": RejectReason.FIELD_INVALID,  # no list of objects
                "row=5/questions[2]": RejectReason.FIELD_INVALID,  # no category
                "row=5/questions[3]": RejectReason.MASK_INVALID,
                "row=5/questions[4]": RejectReason.MASK_OUTSIDE_IMAGE,
                "row=5/questions[5]": RejectReason.TEXT_EMPTY,
                "row=5/questions[6]": RejectReason.FIELD_INVALID,  # a question that is no text
                "row=5/questions[7]": RejectReason.FIELD_INVALID,  # a text answer that is none
                "row=6": RejectReason.FIELD_INVALID,  # more questions than answers
                "row=7": RejectReason.FIELD_INVALID,  # fewer text answers than questions
                "row=8": RejectReason.TEXT_EMPTY,
                "row=9": RejectReason.FIELD_INVALID,
                "row=10/questions[0]": RejectReason.FIELD_INVALID,  # neither file_name nor coco_url
                "row=11/questions[0]": RejectReason.FIELD_INVALID,  # of another release
                "row=12/questions[0]": RejectReason.IMAGE_MISSING,
                "row=13/questions[0]": RejectReason.PATH_UNSAFE,
                "row=14/questions[0]": RejectReason.IMAGE_SIZE_MISMATCH,
                "row=15/questions[0]": RejectReason.FIELD_INVALID,  # no height
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        for folder, name in (
            ("train2014", "COCO_train2014_000000000001.jpg"),
            ("train2017", "000000000002.jpg"),
            ("val2017", "000000000003.jpg"),
        ):
            write_picture(root / "images" / folder / name, seed=int(folder[-1]) + len(name))
        size: dict[str, object] = {"height": _HEIGHT, "width": _WIDTH, "ann_list": []}
        first = size | {"file_name": "COCO_train2014_000000000001.jpg"}

        def url(folder: str, number: int) -> dict[str, object]:
            return size | {"coco_url": f"http://images.cocodataset.org/{folder}/{number:012d}.jpg"}

        def object_(segmentation: object) -> dict[str, object]:
            return {"segmentation": segmentation, "category_name": "cup", "rephrased_name": "the cup of tea"}

        cup, mug = object_(polygon_of(_CUP)), object_(rle_of(_MUG))
        edge = object_({"size": [_HEIGHT, _WIDTH], "counts": [0, _HEIGHT, _HEIGHT * (_WIDTH - 1)]})

        def row(base: dict[str, object], *talk: tuple[object, object, object]) -> dict[str, Any]:
            questions, answers, texts = ([part[place] for part in talk] for place in range(3))
            return base | {"questions": questions, "answers": answers, "text_answers": texts}

        one = ("What is it?", [cup], None)
        rows: list[object] = [
            row(
                first,
                ("What holds tea?", [mug, cup], "The mug {seg} and the cup {seg}."),
                ("What breaks?", [cup], None),
            ),
            row(url("train2017", 2), ("What is at the edge?", [edge], "It is\n{seg}.")),
            row(url("val2017", 3), ("Which are alike?", [cup, mug], None)) | {"text_answers": None, "file_name": None},
            {key: value for key, value in row(first, one, ("And this?", [mug], None)).items() if key != "text_answers"},
            row(
                first,
                ("Which?", [cup, mug], "Only {seg}."),
                ("Which?", [cup], "{seg} and {seg}."),
                ("Is it {seg}?", [cup], "{seg}."),
                ("Which?", [cup], "{seg}, not [SEG]."),
            ),
            row(
                first,
                ("What is absent?", [], None),
                ("Which?", cup, None),
                ("Which?", [{"segmentation": polygon_of(_CUP)}], None),
                ("Which?", [object_(None)], None),
                ("Which?", [object_(polygon_of((100, 100, 120, 120)))], None),
                (" ? ", [cup], None),
                (7, [cup], None),
                ("Which?", [cup], 7),
            ),
            row(first, one) | {"questions": ["a", "b"]},
            row(first, one) | {"text_answers": []},
            row(first),
            "no mapping",
            row(size, one),
            row(url("test2017", 2), one),
            row(first | {"file_name": "lost.jpg"}, one),
            row(first | {"file_name": "../train2017/000000000002.jpg"}, one),
            row(first | {"height": _HEIGHT + 1}, one),
            row({"file_name": first["file_name"]}, one),
        ]
        (root / "muse").mkdir(exist_ok=True)
        (root / "muse/MUSE_train.json").write_text(json.dumps(rows))
        return {"kind": "muse"}


class TestPix2Cap(FamilyContract):
    expected = Expected(
        samples={
            ("pix2cap", Task.REFERRING, "train"): 3,
            ("pix2cap", Task.DESCRIPTION, "train"): 3,
        },
        masks={
            ("image_id=1/segment_id=70000/use=segmentation", 0): _CUP,
            ("image_id=1/segment_id=70000/use=visual_prompt", 0): _CUP,
            ("image_id=1/segment_id=2/use=segmentation", 0): _MUG,
            ("image_id=1/segment_id=5/use=visual_prompt", 0): (14, 0, 16, 4),
        },
        rejects={
            ("annotations/pix2cap_coco_train.json", f"{locator}/use={use}"): reason
            for use in ("segmentation", "visual_prompt")
            for locator, reason in {
                "image_id=2/segment_id=6": RejectReason.TEXT_EMPTY,  # 5 characters
                "image_id=2/segment_id=7": RejectReason.TEXT_EMPTY,  # no description
                "image_id=2/segment_id=8": RejectReason.TEXT_EMPTY,  # punctuation
                "image_id=2/segment_id=9": RejectReason.FIELD_INVALID,  # no text
                "image_id=2/segment_id=10": RejectReason.MASK_EMPTY,
                "image_id=2/segment_id=11": RejectReason.PLACEHOLDER_MISMATCH,
                "image_id=2/segments_info[6]": RejectReason.CATEGORY_UNKNOWN,
                "image_id=2/segments_info[7]": RejectReason.FIELD_INVALID,  # an id twice
                "image_id=3/segment_id=9": RejectReason.IMAGE_MISSING,
                "image_id=4/segment_id=9": RejectReason.IMAGE_MISSING,  # of its PNG
                "image_id=5/segment_id=9": RejectReason.IMAGE_SIZE_MISMATCH,
            }.items()
        }
        | {
            ("annotations/pix2cap_coco_train.json", "image_id=77"): RejectReason.IMAGE_UNKNOWN,
            ("annotations/pix2cap_coco_train.json", "image_id=1"): RejectReason.ANNOTATION_MISSING,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        for number in (1, 2, 4, 5):
            write_picture(root / f"train2017/{number:012d}.jpg", seed=number)
        folder = root / "annotations/panoptic_train2017"
        write_panoptic(folder / "1.png", {70000: _CUP, 2: _MUG, 5: (14, 0, 16, 4)})
        write_panoptic(folder / "2.png", {number: (number, 0, number + 1, 2) for number in (6, 7, 8, 9, 11)})
        write_panoptic(folder / "5.png", {9: _CUP}, height=_HEIGHT + 1)

        def segment(segment_id: int, description: object, category_id: int = 1, iscrowd: int = 0) -> dict[str, object]:
            fields = {"id": segment_id, "category_id": category_id, "iscrowd": iscrowd, "description": description}
            return {key: value for key, value in fields.items() if value is not ...}

        def annotation(image_id: int, *segments: object) -> dict[str, object]:
            return {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": list(segments)}

        cup = "A red cup. It stands on a table."
        write_coco(
            root / "annotations/pix2cap_coco_train.json",
            [
                {"id": number, "file_name": f"{number:012d}.jpg", "height": _HEIGHT, "width": _WIDTH}
                for number in range(1, 6)
            ],
            [
                annotation(1, segment(70000, cup), segment(2, "\tmug 12 "), segment(5, "A crowd of cups", iscrowd=1)),
                annotation(
                    2,
                    segment(6, "A cup"),
                    segment(7, ...),
                    segment(8, " - - - - "),
                    segment(9, 123456),
                    segment(10, "Painted nowhere"),
                    segment(11, "Beside <region2> a cup"),
                    segment(12, "Of no category", category_id=99),
                    segment(6, "A cup once more"),
                ),
                annotation(3, segment(9, cup)),
                annotation(4, segment(9, cup)),
                annotation(5, segment(9, cup)),
                annotation(77, segment(9, cup)),
                annotation(1),
            ],
        )
        return {"kind": "pix2cap"}


class TestReasonSeg(FamilyContract):
    expected = Expected(
        samples={
            ("reason_seg", Task.REASONING, "train"): 4,
            ("reason_seg", Task.REASONING, "test"): 2,
        },
        masks={
            ("file=a.json/text[0]", 0): _CUP,
            ("file=a.json/text[1]", 0): _CUP,
            ("file=b.json/text[0]", 0): (20, 4, 30, 10),  # the lower part is ignored
            ("file=sub/cp1252.json/text[0]", 0): _MUG,
            ("file=c.json/text[0]", 0): (4, 4, 8, 8),  # a small target on a large ignored area
        },
        rejects={
            ("ReasonSeg/train", locator): reason
            for locator, reason in {
                "file=a.json/text[2]": RejectReason.TEXT_EMPTY,
                "file=a.json/text[3]": RejectReason.FIELD_INVALID,
                "file=a.json/text[4]": RejectReason.PLACEHOLDER_MISMATCH,
                "file=bytes.json": RejectReason.FIELD_INVALID,
                "file=cut.json": RejectReason.FIELD_INVALID,
                "file=hidden.json/text[0]": RejectReason.MASK_EMPTY,
                "file=label.json/text[0]": RejectReason.FIELD_INVALID,
                "file=line.json/text[0]": RejectReason.MASK_INVALID,
                "file=list.json": RejectReason.FIELD_INVALID,
                "file=lost.json/text[0]": RejectReason.IMAGE_MISSING,
                "file=mute.json": RejectReason.TEXT_EMPTY,
                "file=nothing.json/text[0]": RejectReason.ANNOTATION_MISSING,
                "file=outside.json/text[0]": RejectReason.MASK_OUTSIDE_IMAGE,
                "file=point.json/text[0]": RejectReason.MASK_INVALID,
                "file=shapeless.json/text[0]": RejectReason.FIELD_INVALID,
                "file=silent.json": RejectReason.FIELD_INVALID,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        train, test = root / "ReasonSeg/train", root / "ReasonSeg/test"
        for number, name in enumerate(("a", "b", "sub/cp1252", "hidden", "outside")):
            write_picture(train / f"{name}.jpg", seed=number)
        write_picture(test / "c.jpg", seed=9)

        def labelme(*shapes: object, text: object = ("What holds tea?",)) -> dict[str, object]:
            return {"shapes": list(shapes), "text": text, "is_sentence": True}

        def write(path: Path, content: object, encoding: str = "utf-8") -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)

        cup, mug = _shape("target", _CUP), _shape("target", _MUG)
        texts = ["What holds  tea?", "the cup", "?", 7, "What is <region1>?"]
        write(train / "a.json", labelme(cup, {"label": "flag", "points": []}, text=texts))
        write(train / "b.json", labelme(_shape("ignore", (20, 10, 30, 24)), mug))
        write(
            train / "sub/cp1252.json", labelme(_shape("Target", _MUG), text=["Where is the café\u2019s mug?"]), "cp1252"
        )
        write(
            test / "c.json", labelme(_shape("target", (4, 4, 8, 8)), _shape("ignored", (0, 0, 30, 20)), text=["a", "b"])
        )
        write(train / "hidden.json", labelme(_shape("target", (4, 4, 10, 10)), _shape("ignore", (4, 4, 10, 10))))
        write(train / "label.json", labelme(_shape("cup", _CUP)))
        write(train / "line.json", labelme({"label": "target", "points": [[1, 1], [9, 9]]}))
        write(train / "list.json", [labelme(cup)])
        write(train / "lost.json", labelme(cup))
        write(train / "mute.json", labelme(cup, text=[]))
        write(train / "nothing.json", labelme(_shape("ignore", _CUP)))
        write(train / "outside.json", labelme(_shape("target", (100, 100, 120, 120))))
        write(train / "point.json", labelme({"label": "target", "points": [[1, 1], [9, 1], [9]]}))
        write(train / "shapeless.json", {"text": ["Which?"], "is_sentence": True})
        write(train / "silent.json", {"shapes": [cup], "is_sentence": True})
        (train / "cut.json").write_text(json.dumps(labelme(cup))[:-9])
        (train / "bytes.json").write_bytes(b'{"text": ["\x81"]}')  # neither UTF-8 nor cp1252
        return {"kind": "reason_seg", "folders": {"train": "ReasonSeg/train", "test": "ReasonSeg/test/"}}

    def shuffle(self, root: Path, source: SourceUnion) -> None:
        path = root / "ReasonSeg/train/a.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"text": content["text"][::-1]}))


def _shape(label: str, box: Box) -> dict[str, object]:
    x0, y0, x1, y1 = box
    return {"label": label, "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], "shape_type": "polygon"}
