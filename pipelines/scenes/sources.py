"""The source files of a set of scenes, in the layouts of the public data sets that they stand for.

    images/train2014/COCO_train2014_000010000000.png       pictures of all splits
    refcoco/{instances.json, refs(unc).p}                  expressions of all kinds, one target each
    refcoco+/{instances.json, refs(unc).p}                 the same without words of place
    refcocog/{instances.json, refs(umd).p}                 long expressions; testA and testB are `test`
    grefcoco/{instances.json, grefs(unc).json}             one, several or no target
    panoptic/annotations/panoptic_train.json               things by shape, stuff `background`
    panoptic/panoptic_train/000010000000.png               its maps; one such pair per split
    osprey/osprey_detail_description.json                  descriptions of regions, training split only
    osprey/osprey_short_form.json                          colour and shape of regions in one word each, likewise
    perbench/train/detailed_caption.json, mcq.json, visual_text_res.json     and the same per split
    image_text/train/00000.tar                             captions, if they are asked for (see `captions`)
    facts/train_000000.json                                all that is known about each block of pictures

Categories are the shapes, ids from 1. Segmentations are compressed RLE with `counts` as a string, so
that masks are exact. In `osprey_detail_description.json` description number i starts `<regionI>: `
with I counted from 1. The questions of PerBench's `mcq.json` carry their options, one per line, and
name the prompt `<region1>`; the answer is the text of the right option. The tags of
`visual_text_res.json` are `<region1>`, `<region2>`, ...: prompts in the question first, then the
objects of the answer.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Sequence

from pipelines.scenes.blocks import (
    ExpressionFacts,
    PictureFacts,
    image_name,
    panoptic_key,
    segment_id,
)
from pipelines.scenes.grammar import NO_TARGET, SEVERAL
from pipelines.scenes.region_sources import (
    choice_questions,
    descriptions_of_regions,
    detailed_captions,
    rle,
    short_answers,
    visual_texts,
)
from pipelines.scenes.world import SHAPES
from storage.keys import Json

__all__ = ["BACKGROUND", "source_files"]

BACKGROUND = "background"
"""The one stuff category of the panoptic files."""

_BACKGROUND_ID = len(SHAPES) + 1
_CATEGORY_IDS = {shape: number for number, shape in enumerate(SHAPES, start=1)}
_MAX_OBJECTS = 16
_PICKLE_PROTOCOL = 2  # that of the published files
_UMD_SPLITS = {"train": "train", "val": "val", "testA": "test", "testB": "test"}
_INFO: dict[str, Json] = {"description": "Synthetic scenes", "version": "1"}


def source_files(pictures: Sequence[PictureFacts], size_px: int) -> dict[str, tuple[bytes, int]]:
    """All source files but the pictures and the panoptic maps.

    Args:
        pictures: facts of all pictures of all splits, in order.
        size_px: side of the pictures.

    Returns:
        Bytes and number of records of each file, by key.
    """
    instances = _json(_instances(pictures, size_px))
    files: dict[str, tuple[bytes, int]] = {
        f"{name}/instances.json": (instances, len(pictures)) for name in ("refcoco", "refcoco+", "refcocog", "grefcoco")
    }
    unc = {split: split for split in _UMD_SPLITS}
    for key, splits, pick in (
        ("refcoco/refs(unc).p", unc, _one_target),
        ("refcoco+/refs(unc).p", unc, _plus),
        ("refcocog/refs(umd).p", _UMD_SPLITS, _long),
    ):
        refs = _refs(pictures, splits, pick)
        # Through JSON, so that equal strings are equal objects in the same way in every run: the
        # bytes of a pickle depend on that.
        files[key] = (pickle.dumps(json.loads(_json(refs)), protocol=_PICKLE_PROTOCOL), len(refs))
    grefs = _grefs(pictures)
    files["grefcoco/grefs(unc).json"] = (_json(grefs), len(grefs))
    taught = [picture for picture in pictures if picture["split"] == "train"]
    for name, make in (("detail_description", descriptions_of_regions), ("short_form", short_answers)):
        rows = [row for picture in taught for row in make(picture, size_px)]
        files[f"osprey/osprey_{name}.json"] = (_json(rows), len(rows))
    for split in dict.fromkeys(picture["split"] for picture in pictures):
        own = [picture for picture in pictures if picture["split"] == split]
        files[f"panoptic/annotations/panoptic_{split}.json"] = (_json(_panoptic(own, size_px)), len(own))
        for name, make in (
            ("detailed_caption", detailed_captions),
            ("mcq", choice_questions),
            ("visual_text_res", visual_texts),
        ):
            rows = [row for picture in own for row in make(picture, size_px)]
            files[f"perbench/{split}/{name}.json"] = (_json(rows), len(rows))
    return files


def _json(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _annotation_id(picture: PictureFacts, number: int) -> int:
    return picture["image_id"] * _MAX_OBJECTS + number


def _image(picture: PictureFacts, size_px: int) -> dict[str, Json]:
    image_id = picture["image_id"]
    return {"id": image_id, "file_name": image_name(image_id), "height": size_px, "width": size_px, "license": 0}


def _categories() -> list[Json]:
    return [{"id": number, "name": shape, "supercategory": "shape"} for shape, number in _CATEGORY_IDS.items()]


def _instances(pictures: Sequence[PictureFacts], size_px: int) -> dict[str, Json]:
    annotations: list[Json] = [
        {
            "id": _annotation_id(picture, number),
            "image_id": picture["image_id"],
            "category_id": _CATEGORY_IDS[item["shape"]],
            "bbox": [float(side) for side in item["bbox"]],
            "area": float(item["area"]),
            "iscrowd": 0,
            "segmentation": rle(item, size_px),
        }
        for picture in pictures
        for number, item in enumerate(picture["objects"])
    ]
    return {
        "info": _INFO,
        "licenses": [],
        "images": [_image(picture, size_px) for picture in pictures],
        "annotations": annotations,
        "categories": _categories(),
    }


_Pick = Callable[[PictureFacts], Iterable[ExpressionFacts]]


def _one_target(picture: PictureFacts) -> Iterable[ExpressionFacts]:
    return (item for item in picture["expressions"] if item["kind"] not in (NO_TARGET, SEVERAL))


def _plus(picture: PictureFacts) -> Iterable[ExpressionFacts]:
    return picture["plus_expressions"]


def _long(picture: PictureFacts) -> Iterable[ExpressionFacts]:
    return picture["long_expressions"]


class _Sentences:
    """Gives sentences their ids, which go on over the whole file."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, texts: Iterable[str]) -> list[dict[str, Json]]:
        rows: list[dict[str, Json]] = []
        for text in texts:
            tokens = text.replace(",", " ,").split()
            rows.append({"tokens": tokens, "raw": text, "sent_id": self.count, "sent": text})
            self.count += 1
        return rows


def _refs(pictures: Sequence[PictureFacts], splits: dict[str, str], pick: _Pick) -> list[Json]:
    """One record per object that is referred to, with all its sentences."""
    refs: list[Json] = []
    sentences = _Sentences()
    for picture in pictures:
        texts: dict[int, list[str]] = {}
        for item in pick(picture):
            texts.setdefault(item["targets"][0], []).append(item["text"])
        for number, own in sorted(texts.items()):
            rows = sentences.add(own)
            stem = image_name(picture["image_id"]).removesuffix(".png")
            refs.append(
                {
                    "sent_ids": [row["sent_id"] for row in rows],
                    "file_name": f"{stem}_{len(refs)}.png",
                    "ann_id": _annotation_id(picture, number),
                    "ref_id": len(refs),
                    "image_id": picture["image_id"],
                    "split": splits[picture["split"]],
                    "sentences": rows,
                    "category_id": _CATEGORY_IDS[picture["objects"][number]["shape"]],
                }
            )
    return refs


def _grefs(pictures: Sequence[PictureFacts]) -> list[Json]:
    """One record per set of targets; no target is `[-1]`."""
    grefs: list[Json] = []
    sentences = _Sentences()
    for picture in pictures:
        texts: dict[tuple[int, ...], list[str]] = {}
        for item in picture["expressions"]:
            texts.setdefault(tuple(item["targets"]), []).append(item["text"])
        for targets, own in sorted(texts.items()):
            rows = sentences.add(own)
            stem = image_name(picture["image_id"]).removesuffix(".png")
            shapes = [picture["objects"][number]["shape"] for number in targets]
            grefs.append(
                {
                    "sent_ids": [row["sent_id"] for row in rows],
                    "file_name": f"{stem}_{len(grefs)}.png",
                    "ann_id": [_annotation_id(picture, number) for number in targets] or [-1],
                    "ref_id": len(grefs),
                    "image_id": picture["image_id"],
                    "split": picture["split"],
                    "sentences": rows,
                    "category_id": [_CATEGORY_IDS[shape] for shape in shapes] or [-1],
                    "no_target": not targets,
                }
            )
    return grefs


def _panoptic(pictures: Sequence[PictureFacts], size_px: int) -> dict[str, Json]:
    things: list[Json] = [
        {"id": number, "name": shape, "supercategory": "shape", "isthing": 1} for shape, number in _CATEGORY_IDS.items()
    ]
    stuff: Json = {"id": _BACKGROUND_ID, "name": BACKGROUND, "supercategory": BACKGROUND, "isthing": 0}
    return {
        "info": _INFO,
        "licenses": [],
        "images": [_image(picture, size_px) for picture in pictures],
        "annotations": [_panoptic_annotation(picture, size_px) for picture in pictures],
        "categories": [*things, stuff],
    }


def _panoptic_annotation(picture: PictureFacts, size_px: int) -> dict[str, Json]:
    objects = picture["objects"]
    segments: list[Json] = [
        {
            "id": segment_id(number),
            "category_id": _CATEGORY_IDS[item["shape"]],
            "iscrowd": 0,
            "bbox": item["bbox"],
            "area": item["area"],
        }
        for number, item in enumerate(objects)
    ]
    # No object reaches the border, so the background's box is the picture.
    background: Json = {
        "id": segment_id(-1),
        "category_id": _BACKGROUND_ID,
        "iscrowd": 0,
        "bbox": [0, 0, size_px, size_px],
        "area": size_px**2 - sum(item["area"] for item in objects),
    }
    name = panoptic_key(picture["split"], picture["image_id"]).rpartition("/")[2]
    return {"segments_info": [*segments, background], "file_name": name, "image_id": picture["image_id"]}
