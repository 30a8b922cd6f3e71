"""Every dataset family keeps the contract; the expected outcomes are counted by hand."""

from __future__ import annotations

import json
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.registry import known_kinds
from pipelines.curation.testing import (
    Expected,
    FamilyContract,
    polygon_of,
    rle_of,
    write_coco,
    write_panoptic,
    write_picture,
    write_shard,
)
from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig
from pipelines.scenes.config import SplitSizes
from pipelines.scenes.generate import generate
from storage.corpus import Corpus
from storage.objects import Objects
from storage.schema import RejectReason, Task

_CUP = (2, 3, 12, 9)
_MUG = (20, 4, 30, 20)
_HEIGHT, _WIDTH = 24, 32


def _image(image_id: int, name: str, height: int = _HEIGHT) -> dict[str, object]:
    return {"id": image_id, "file_name": name, "height": height, "width": _WIDTH}


def _annotation(ann_id: int, image_id: int, segmentation: object, category_id: int = 1) -> dict[str, object]:
    return {"id": ann_id, "image_id": image_id, "category_id": category_id, "segmentation": segmentation}


def _ref(ref_id: int, image_id: object, ann_id: object, *raws: object, split: object = "train") -> dict[str, object]:
    sentences = [{"sent_id": 10 * ref_id + n, "raw": raw, "sent": raw, "tokens": []} for n, raw in enumerate(raws)]
    return {
        "ref_id": ref_id,
        "image_id": image_id,
        "ann_id": ann_id,
        "split": split,
        "sentences": sentences,
        "file_name": f"COCO_train2014_{ref_id}.jpg",
    }


def _write_referring_images(root: Path, folder: str) -> None:
    for seed in (1, 2):
        write_picture(root / f"images/train2014/COCO_train2014_{seed:012d}.jpg", seed=seed)
    truncated = root / "images/train2014/cut.png"
    write_picture(truncated, seed=3)
    truncated.write_bytes(truncated.read_bytes()[:-200])
    write_coco(
        root / folder / "instances.json",
        [
            _image(1, "COCO_train2014_000000000001.jpg"),
            _image(2, "COCO_train2014_000000000002.jpg"),
            _image(3, "cut.png"),
            _image(4, "absent.jpg"),
            _image(5, "../instances.json"),
            _image(6, "COCO_train2014_000000000001.jpg", height=25),
        ],
        [
            _annotation(1, 1, polygon_of(_CUP)),
            _annotation(2, 1, rle_of(_MUG)),
            _annotation(3, 2, {"size": [_HEIGHT, _WIDTH], "counts": [0, _HEIGHT, _HEIGHT * (_WIDTH - 1)]}, 0),
            _annotation(4, 2, polygon_of((100, 100, 120, 120))),
            _annotation(5, 2, polygon_of(_CUP), 77),
            _annotation(6, 99, polygon_of(_CUP)),
            _annotation(7, 3, polygon_of(_CUP)),
            _annotation(8, 4, polygon_of(_CUP)),
            _annotation(9, 5, polygon_of(_CUP)),
            _annotation(10, 6, polygon_of(_CUP)),
            _annotation(11, 2, [[1, 2, 3]]),
        ],
    )


class TestRefCoco(FamilyContract):
    expected = Expected(
        samples={
            ("refcoco+", Task.REFERRING, "train"): 3,
            ("refcoco+", Task.REFERRING, "val"): 1,
        },
        masks={
            ("ref_id=1/sent_id=10", 0): _CUP,
            ("ref_id=1/sent_id=11", 0): _CUP,
            ("ref_id=2/sent_id=20", 0): _MUG,
            ("ref_id=3/sent_id=30", 0): (0, 0, 1, _HEIGHT),
        },
        rejects={
            ("refcoco+/refs(unc).p", locator): reason
            for locator, reason in {
                "ref_id=4/sent_id=40": RejectReason.MASK_OUTSIDE_IMAGE,
                "ref_id=5/sent_id=50": RejectReason.CATEGORY_UNKNOWN,
                "ref_id=6/sent_id=60": RejectReason.IMAGE_UNKNOWN,
                "ref_id=7/sent_id=70": RejectReason.IMAGE_UNREADABLE,
                "ref_id=8/sent_id=80": RejectReason.IMAGE_MISSING,
                "ref_id=9/sent_id=90": RejectReason.PATH_UNSAFE,
                "ref_id=10/sent_id=100": RejectReason.IMAGE_SIZE_MISMATCH,
                "ref_id=11/sent_id=110": RejectReason.MASK_INVALID,
                "ref_id=12/sent_id=120": RejectReason.ANNOTATION_MISSING,
                "ref_id=13/sent_id=130": RejectReason.TEXT_EMPTY,
                "ref_id=13/sent_id=131": RejectReason.FIELD_INVALID,
                "ref_id=14": RejectReason.TEXT_EMPTY,
                "ref_id=15/sent_id=150": RejectReason.FIELD_INVALID,
                "ref_id=16/sent_id=160": RejectReason.IMAGE_UNKNOWN,
                "ref_id=17/sent_id=170": RejectReason.FIELD_INVALID,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        _write_referring_images(root, "refcoco+")
        refs = [
            _ref(1, 1, 1, "THE RED CUP.", "12"),
            _ref(2, 1, 2, "mug", split="testA"),
            _ref(3, 2, 3, "left  edge ", split="val"),
            _ref(4, 2, 4, "far away"),
            _ref(5, 2, 5, "what is it"),
            _ref(6, 1, 6, "on no picture"),
            _ref(7, 3, 7, "on half a picture"),
            _ref(8, 4, 8, "on a lost picture"),
            _ref(9, 5, 9, "outside"),
            _ref(10, 6, 10, "stretched"),
            _ref(11, 2, 11, "half a point"),
            _ref(12, 2, 999, "no annotation"),
            _ref(13, 1, 1, " . ", 5),
            _ref(14, 1, 1),
            _ref(15, "1", 1, "image id as text"),
            _ref(16, 1000, 1, "no image"),
            _ref(17, 2, 1, "annotation of another image"),
        ]
        (root / "refcoco+/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
        return {"kind": "refcoco", "dataset": "refcoco+", "relabel_splits": {"testA": "train"}}


class TestGRefCoco(FamilyContract):
    expected = Expected(
        samples={("grefcoco", Task.REFERRING, "train"): 3},
        masks={
            ("ref_id=1/sent_id=10", 0): _CUP,
            ("ref_id=3/sent_id=30", 0): None,
        },
        rejects={
            ("grefcoco/grefs(unc).json", locator): reason
            for locator, reason in {
                "ref_id=4/sent_id=40": RejectReason.FIELD_INVALID,
                "ref_id=5/sent_id=50": RejectReason.FIELD_INVALID,
                "ref_id=6/sent_id=60": RejectReason.ANNOTATION_MISSING,
                "ref_id=7/sent_id=70": RejectReason.MASK_OUTSIDE_IMAGE,
                "ref_id=8/sent_id=80": RejectReason.FIELD_INVALID,
                "row=8": RejectReason.FIELD_INVALID,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        _write_referring_images(root, "grefcoco")
        refs: list[object] = [
            _ref(1, 1, [1], "the cup") | {"no_target": False},
            _ref(2, 1, [1, 2], "both") | {"no_target": False},
            _ref(3, 1, [-1], "the elephant") | {"no_target": True},
            _ref(4, 1, [1], "contradiction") | {"no_target": True},
            _ref(5, 1, [], "nothing") | {"no_target": False},
            _ref(6, 1, [1, 999], "one too many") | {"no_target": False},
            _ref(7, 2, [3, 4], "one outside") | {"no_target": False},
            _ref(8, 1, [1, 1], "twice") | {"no_target": False},
            "no mapping",
        ]
        (root / "grefcoco/grefs(unc).json").write_text(json.dumps(refs))
        return {"kind": "grefcoco"}


class TestCocoPanoptic(FamilyContract):
    expected = Expected(
        samples={
            ("coco_panoptic", Task.INSTANCE, "train"): 1,
            ("coco_panoptic", Task.SEMANTIC, "train"): 2,
            ("coco_panoptic", Task.CATEGORY, "train"): 4,
        },
        masks={
            ("image_id=1/category_id=1/use=instance", 0): _CUP,
            ("image_id=1/category_id=1/use=instance", 1): _MUG,
            ("image_id=1/segment_id=70000/use=category", 0): _CUP,
            ("image_id=1/segment_id=300/use=category", 0): (0, 22, _WIDTH, _HEIGHT),
        },
        rejects={
            ("panoptic.json", locator): reason
            for locator, reason in {
                "image_id=1/segment_id=5/use=instance": RejectReason.FILTERED,
                "image_id=2/segments_info[0]/use=instance": RejectReason.CATEGORY_UNKNOWN,
                "image_id=2/segments_info[0]/use=semantic": RejectReason.CATEGORY_UNKNOWN,
                "image_id=2/segments_info[0]/use=category": RejectReason.CATEGORY_UNKNOWN,
                "image_id=2/category_id=1/use=instance": RejectReason.MASK_EMPTY,
                "image_id=2/category_id=1/use=semantic": RejectReason.MASK_EMPTY,
                "image_id=2/segment_id=9/use=category": RejectReason.MASK_EMPTY,
                "image_id=3/category_id=2/use=semantic": RejectReason.IMAGE_MISSING,
                "image_id=3/segment_id=9/use=category": RejectReason.IMAGE_MISSING,
                "image_id=77": RejectReason.IMAGE_UNKNOWN,
                "image_id=4": RejectReason.ANNOTATION_MISSING,
                "image_id=5/category_id=2/use=semantic": RejectReason.IMAGE_SIZE_MISMATCH,
                "image_id=5/segment_id=9/use=category": RejectReason.IMAGE_SIZE_MISMATCH,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        for number in (1, 2, 4, 5):
            write_picture(root / f"train2017/{number:012d}.jpg", seed=number)
        write_panoptic(root / "png/1.png", {70000: _CUP, 2: _MUG, 300: (0, 22, _WIDTH, _HEIGHT), 5: (14, 0, 16, 4)})
        write_panoptic(root / "png/2.png", {8: _CUP})
        write_panoptic(root / "png/5.png", {9: _CUP}, height=_HEIGHT + 1)

        def segment(segment_id: int, category_id: int, iscrowd: int = 0) -> dict[str, int]:
            return {"id": segment_id, "category_id": category_id, "iscrowd": iscrowd}

        def annotation(image_id: int, *segments: object) -> dict[str, object]:
            return {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": list(segments)}

        write_coco(
            root / "panoptic.json",
            [_image(number, f"{number:012d}.jpg") for number in (1, 2, 3, 4, 5)],
            [
                # The source lists the mug first; instances go from left to right.
                annotation(1, segment(2, 1), segment(70000, 1), segment(300, 2), segment(5, 1, iscrowd=1)),
                annotation(2, segment(8, 99), segment(9, 1)),
                annotation(3, segment(9, 2)),
                annotation(77, segment(9, 2)),
                annotation(4),
                annotation(5, segment(9, 2)),
            ],
        )
        return {"kind": "coco_panoptic", "annotations": "panoptic.json", "segments": "png"}


class TestOsprey(FamilyContract):
    expected = Expected(
        samples={
            ("osprey", Task.DESCRIPTION, "train"): 2,
            ("osprey", Task.CONVERSATION, "train"): 2,
        },
        masks={
            ("row=0/description[0]", 0): _CUP,
            ("row=0/description[1]", 0): _MUG,
            ("row=0/description[1]", 1): _CUP,
            ("row=0", 0): _MUG,
        },
        rejects={
            ("osprey/osprey_detail_description.json", locator): reason
            for locator, reason in {
                "row=0/description[2]": RejectReason.PLACEHOLDER_MISMATCH,
                "row=0/description[3]": RejectReason.PLACEHOLDER_MISMATCH,
                "row=0/description[4]": RejectReason.TEXT_EMPTY,
                "row=0/description[5]": RejectReason.FIELD_INVALID,
                "row=1/description[0]": RejectReason.IMAGE_MISSING,
                "row=2": RejectReason.FIELD_INVALID,
                "row=3/description[0]": RejectReason.MASK_EMPTY,
            }.items()
        }
        | {
            ("osprey/conversation.json", locator): reason
            for locator, reason in {
                "row=2": RejectReason.FIELD_INVALID,
                "row=3": RejectReason.FIELD_INVALID,
                "row=4": RejectReason.PLACEHOLDER_MISMATCH,
            }.items()
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        write_picture(root / "images/train2014/000000000001.jpg", seed=1)
        base = {
            "file_name": "COCO_train2014_000000000001.jpg",
            "height": _HEIGHT,
            "width": _WIDTH,
            "annotation": [{"bbox": [], "segmentation": polygon_of(_CUP)}, {"segmentation": rle_of(_MUG)}],
        }
        texts = [
            "<region1>: A red cup.",
            "Region2: A mug beside <regon1>.",
            "A cup without a number.",
            "<region3>: not listed",
            "<region1>: .",
            7,
        ]
        descriptions = [
            base | {"description": texts},
            base | {"file_name": "lost.jpg", "description": ["<region1>: gone"]},
            {"file_name": "000000000001.jpg"},
            base | {"annotation": [{"segmentation": []}], "description": ["<region1>: nothing"]},
        ]

        def talk(*values: str, roles: tuple[str, str] = ("human", "gpt")) -> dict[str, Any]:
            return base | {"conversations": [{"from": roles[n % 2], "value": v} for n, v in enumerate(values)]}

        conversations = [
            talk("<image>\nWhat is <region2>?", "A mug.\n\nOn a table.", "And <region1>?", "<Region1> is a cup."),
            talk("<image>\nWhat is this?", "A kitchen."),
            talk("What is <region1>?"),
            talk("What is <region1>?", "A cup.", roles=("gpt", "human")),
            talk("What is <region1>?", "It is [SEG]."),
        ]
        (root / "osprey").mkdir(exist_ok=True)
        (root / "osprey/osprey_detail_description.json").write_text(json.dumps(descriptions))
        (root / "osprey/conversation.json").write_text(json.dumps(conversations))
        return {
            "kind": "osprey",
            "conversations": ["osprey/conversation.json"],
            "image_names": "without_release",
        }


class TestPerBench(FamilyContract):
    expected = Expected(
        samples={
            ("perbench", Task.DESCRIPTION, "val"): 1,
            ("perbench", Task.MULTIPLE_CHOICE, "val"): 2,
            ("perbench", Task.VISUAL_TEXT_REFERRING, "val"): 2,
        },
        masks={
            ("row=0/object_annotations[0]", 0): _CUP,
            ("row=0/mcqs[0]", 0): _CUP,
            ("row=0", 0): _MUG,
            ("row=1", 0): _MUG,
            ("row=1", 1): _CUP,
        },
        rejects={
            ("perbench/val/detailed_caption.json", "row=0/object_annotations[1]"): RejectReason.MASK_INVALID,
            ("perbench/val/detailed_caption.json", "row=1"): RejectReason.FIELD_INVALID,
            ("perbench/val/mcq.json", "row=0/mcqs[2]"): RejectReason.FIELD_INVALID,
            ("perbench/val/mcq.json", "row=1/mcqs[0]"): RejectReason.PATH_UNSAFE,
            ("perbench/val/visual_text_res.json", "row=2"): RejectReason.PLACEHOLDER_MISMATCH,
            ("perbench/val/visual_text_res.json", "row=3"): RejectReason.PLACEHOLDER_MISMATCH,
            ("perbench/val/visual_text_res.json", "row=4"): RejectReason.FIELD_INVALID,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        write_picture(root / "images/train2014/a.jpg", seed=1)
        name = {"image_name": "a.jpg"}
        cup, mug = rle_of(_CUP), rle_of(_MUG)
        captions: list[object] = [
            name
            | {
                "object_annotations": [
                    {"segmentation": cup, "caption": "A red cup."},
                    {"segmentation": {"size": [5, 5], "counts": "0"}, "caption": "Another size."},
                ]
            },
            name,
        ]
        questions = [
            name
            | {
                "mcqs": [
                    {"object": cup, "question": "What colour is <region1>?\nA. red\nB. blue", "answer": "red"},
                    {"object": mug, "question": "What is it for?", "answer": "tea"},
                    {"object": mug, "question": "What is it for?"},
                ]
            },
            {"image_name": "/etc/a.jpg", "mcqs": [{"object": cup, "question": "What is it?", "answer": "tea"}]},
        ]

        def text(question: str, answer: str, **masks: object) -> dict[str, object]:
            return name | {
                "question": question,
                "answer": answer,
                "segmentations": {f"<{tag}>": mask for tag, mask in masks.items()},
            }

        expressions = [
            text("What is left of <region1>?", "It is <region2>.", region1=cup, region2=mug),
            text("Which are like <region10>?", "<region1> and <region2>", region10=mug, region1=mug, region2=cup),
            text("What is left of <region1>?", "It is <region2>.", region1=cup, region2=mug, region3=cup),
            text("What is left of <region1>?", "It is <region2>.", region1=cup),
            name | {"question": "a", "answer": "b", "segmentations": []},
        ]
        folder = root / "perbench/val"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "detailed_caption.json").write_text(json.dumps(captions))
        (folder / "mcq.json").write_text(json.dumps(questions))
        (folder / "visual_text_res.json").write_text(json.dumps(expressions))
        return {"kind": "perbench"}


class TestImageText(FamilyContract):
    expected = Expected(
        samples={("image_text", Task.CAPTION, "train"): 3},
        masks={},
        rejects={
            ("image_text/00000.tar", "key=no_caption"): RejectReason.TEXT_EMPTY,
            ("image_text/00000.tar", "key=empty"): RejectReason.TEXT_EMPTY,
            ("image_text/00000.tar", "key=no_picture"): RejectReason.IMAGE_MISSING,
            ("image_text/00000.tar", "key=two"): RejectReason.FIELD_INVALID,
            ("image_text/00000.tar", "key=latin"): RejectReason.FIELD_INVALID,
            ("image_text/00001.tar", "key=cut"): RejectReason.IMAGE_UNREADABLE,
            ("image_text/00001.tar", "key=link"): RejectReason.PATH_UNSAFE,
            ("image_text/00001.tar", "key=tagged"): RejectReason.PLACEHOLDER_MISMATCH,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        pictures: list[bytes] = []
        for seed in (1, 2):
            write_picture(root / f"{seed}.png", seed=seed)
            pictures.append((root / f"{seed}.png").read_bytes())
        cup, mug = pictures
        write_shard(
            root / "image_text/00000.tar",
            {
                "a.png": cup,
                "a.txt": b" a red\tcup ",
                "a.json": b"{}",
                "sub/b.png": mug,
                "sub/b.txt": b"a mug",
                "no_caption.png": cup,
                "empty.png": cup,
                "empty.txt": b" . ",
                "no_picture.txt": b"words alone",
                "two.png": cup,
                "two.jpg": mug,
                "two.txt": b"which of them",
                "latin.png": cup,
                "latin.txt": "ein Maß".encode("latin-1"),
            },
        )
        write_shard(
            root / "image_text/00001.tar",
            {
                # The same picture with other words: one image, two samples.
                "a.PNG": cup,
                "a.txt": b"noch eine Tasse\nvon oben",
                "cut.png": mug[:-40],
                "cut.txt": b"half a mug",
                "link.png": Path("a.PNG"),
                "link.txt": b"elsewhere",
                "tagged.png": mug,
                "tagged.txt": b"a mug beside <region1>",
            },
        )
        return {"kind": "image_text", "shards": ["image_text/{00000..00001}.tar"]}


class TestLlava(FamilyContract):
    expected = Expected(
        samples={("llava", Task.CONVERSATION, "train"): 2},
        masks={},
        rejects={
            ("llava/mix.json", "row=2"): RejectReason.FILTERED,
            ("llava/mix.json", "row=3"): RejectReason.FIELD_INVALID,
            ("llava/mix.json", "row=4"): RejectReason.TEXT_EMPTY,
            ("llava/mix.json", "row=5"): RejectReason.PATH_UNSAFE,
            ("llava/mix.json", "row=6"): RejectReason.IMAGE_MISSING,
            ("llava/mix.json", "row=7"): RejectReason.FIELD_INVALID,
        },
    )

    def write_source(self, root: Path) -> dict[str, object]:
        name = "coco/train2017/000000000001.jpg"
        write_picture(root / name, seed=1)

        def talk(*values: str, image: object = name) -> dict[str, Any]:
            messages = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
            return {"id": "a", "image": image, "conversations": messages}

        records: list[object] = [
            talk("<image>\nWhat is in region2 of the picture?", "A mug.\n\nOn a table.", "Which colour?", "Red."),
            talk("What is this?\n<image>", "A kitchen."),
            talk("What is 2 + 2?", "4", image=None),
            talk("What is this?"),
            talk("What is this?", "..."),
            talk("What is this?", "A cup.", image="../1.jpg"),
            talk("What is this?", "A cup.", image="coco/lost.jpg"),
            "no mapping",
        ]
        (root / "llava").mkdir(exist_ok=True)
        (root / "llava/mix.json").write_text(json.dumps(records))
        return {"kind": "llava", "conversations": ["llava/mix.json"]}


def test_every_family_has_a_suite(tmp_path: Path) -> None:
    modules = [import_module(f"tests.contract.{path.stem}") for path in Path(__file__).parent.glob("test_families*.py")]
    suites = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, FamilyContract) and value is not FamilyContract
    ]
    kinds: set[object] = set()
    for place, suite in enumerate(suites):
        root = tmp_path / str(place)
        root.mkdir()
        kinds.add(suite().write_source(root)["kind"])
    assert kinds == set(known_kinds())


@pytest.fixture(scope="module")
def scenes_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("scenes")
    scenes = ScenesConfig(size_px=64, splits=SplitSizes(train=6, val=3), captions="pictures")
    generate(scenes, Objects.open(folder / "in"), NullProgress())
    sources: list[dict[str, object]] = [
        {"kind": "refcoco"},
        {"kind": "refcoco", "dataset": "refcoco+"},
        {"kind": "refcoco", "dataset": "refcocog"},
        {"kind": "grefcoco"},
        {"kind": "osprey"},
    ]
    for split in ("train", "val"):
        annotations = f"panoptic/annotations/panoptic_{split}.json"
        segments = f"panoptic/panoptic_{split}"
        sources.append(
            {
                "kind": "coco_panoptic",
                "annotations": annotations,
                "segments": segments,
                "images": "images/train2014",
                "split": split,
            }
        )
        files = {name: f"perbench/{split}/{name}.json" for name in ("detailed_caption", "mcq", "visual_text_res")}
        sources.append({"kind": "perbench", "split": split, **files})
        sources.append({"kind": "image_text", "split": split, "shards": [f"image_text/{split}/00000.tar"]})
    config = CurationConfig.model_validate({"root": str(folder / "in"), "sources": sources})
    curate_local(config, Objects.open(folder / "out"), NullProgress())
    return Corpus.open(Objects.open(folder / "out"))


def test_scenes_are_read_without_a_reject_but_for_what_is_said_twice(scenes_corpus: Corpus) -> None:
    facts = scenes_corpus.manifest.facts
    assert {reject.reason for reject in scenes_corpus.rejects()} == {RejectReason.EXPRESSION_DUPLICATE}
    assert facts["leakage"] == {}
    assert facts["num_images"] == 9
    tasks = {sample.task for sample in scenes_corpus.samples()}
    assert tasks == {
        Task.REFERRING,
        Task.INSTANCE,
        Task.SEMANTIC,
        Task.CATEGORY,
        Task.DESCRIPTION,
        Task.MULTIPLE_CHOICE,
        Task.VISUAL_TEXT_REFERRING,
        Task.CAPTION,
    }


def test_captions_are_of_the_pictures_that_the_other_families_show(scenes_corpus: Corpus) -> None:
    """The shard holds the picture's own bytes, so that it is one image, whose shapes the caption counts."""
    captions = {sample.image_id: sample.turns[0].answer or "" for sample in scenes_corpus.samples(tasks=[Task.CAPTION])}
    assert len(captions) == 9
    for sample in scenes_corpus.samples(tasks=[Task.SEMANTIC]):
        (turn,) = sample.turns
        if turn.text != "background":
            words = captions[sample.image_id].replace(",", " ").split()
            assert words.count(turn.text) == len(turn.targets[0])


def test_families_agree_on_the_masks_of_a_scene(scenes_corpus: Corpus) -> None:
    masks: dict[str, dict[str, set[bytes]]] = {}
    for sample in scenes_corpus.samples():
        found = masks.setdefault(sample.image_id or "", {}).setdefault(sample.family, set())
        found.update(region.mask.counts for region in sample.regions if region.category != "background")
    for families in masks.values():
        assert families["refcoco"] <= families["coco_panoptic"]
        assert families["grefcoco"] <= families["coco_panoptic"]
        assert families["perbench"] == families["coco_panoptic"]


def test_multiple_choice_of_scenes_has_its_options_apart(scenes_corpus: Corpus) -> None:
    for sample in scenes_corpus.samples(tasks=[Task.MULTIPLE_CHOICE]):
        (turn,) = sample.turns
        assert len(turn.options) == 4
        assert turn.answer in turn.options
        assert turn.text.endswith("?")
