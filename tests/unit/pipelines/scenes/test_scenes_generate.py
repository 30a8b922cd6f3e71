"""The whole stage on a folder: layout, joins, exact masks, same bytes, interrupted runs."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig, draw_scene
from pipelines.scenes.blocks import first_image_id, image_key, plan_blocks, write_block
from pipelines.scenes.config import SplitSizes
from pipelines.scenes.generate import generate
from storage.errors import ManifestConflict
from storage.manifest import Manifest, verify_manifest
from storage.masks import decode_mask, mask_from_coco
from storage.objects import Objects

_CONFIG = ScenesConfig(size_px=64, splits=SplitSizes(train=14, val=6, testA=3), max_objects=9)
_ALL_REFS = ("refcoco/refs(unc).p", "refcoco+/refs(unc).p", "refcocog/refs(umd).p")


class _Recorder:
    def __init__(self) -> None:
        self.reports: list[tuple[int, int]] = []

    def update(self, done: int, total: int, **facts: object) -> None:
        self.reports.append((done, total))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    output = Objects.open(tmp_path_factory.mktemp("scenes") / "out")
    generate(_CONFIG, output, NullProgress())
    return output


def _json(output: Objects, key: str) -> Any:
    return json.loads(output.read(key))


def _refs(output: Objects, key: str) -> Any:
    return _Plain(io.BytesIO(output.read(key))).load()


class _Plain(pickle.Unpickler):
    """Refuses everything but builtin containers, strings and numbers."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a file of plain containers")


def _masks(output: Objects) -> dict[int, np.ndarray[Any, Any]]:
    rows = _json(output, "refcoco/instances.json")["annotations"]
    return {row["id"]: decode_mask(mask_from_coco(row["segmentation"], 64, 64)) for row in rows}


def test_manifest_lists_every_file_and_they_are_whole(output: Objects) -> None:
    manifest = verify_manifest(output)
    assert {entry.path for entry in manifest.files} == {info.key for info in output.list()} - {"manifest.json"}
    assert manifest.facts["num_images"] == {"train": 14, "val": 6, "testA": 3}
    assert manifest.recipe["size_px"] == 64


def test_pictures_and_instance_masks_are_those_that_were_drawn(output: Objects) -> None:
    content, masks = _json(output, "refcoco/instances.json"), _masks(output)
    assert len(content["images"]) == 23
    splits = [("train", index) for index in range(14)] + [("val", index) for index in range(6)]
    for split, index in splits:
        drawn = draw_scene(_CONFIG, split, index)
        image_id = first_image_id(split) + index
        with Image.open(io.BytesIO(output.read(image_key(image_id)))) as image:
            assert (np.asarray(image) == drawn.image).all()
        rows = [row for row in content["annotations"] if row["image_id"] == image_id]
        for row, mask, item in zip(rows, drawn.masks, drawn.scene.objects, strict=True):
            assert (masks[row["id"]] == mask).all()
            assert row["area"] == mask.sum()
            left, top, width, height = row["bbox"]
            inside = np.zeros_like(mask)
            inside[int(top) : int(top + height), int(left) : int(left + width)] = True
            assert not (mask & ~inside).any()
            names = {category["id"]: category["name"] for category in content["categories"]}
            assert names[row["category_id"]] == item.shape


def test_ids_are_unique_and_far_from_those_of_coco(output: Objects) -> None:
    content = _json(output, "grefcoco/instances.json")
    for name in ("images", "annotations"):
        ids = [row["id"] for row in content[name]]
        assert len(set(ids)) == len(ids)
    assert min(row["id"] for row in content["images"]) > 1_000_000
    assert len({output.read(f"{name}/instances.json") for name in ("refcoco", "refcoco+", "refcocog", "grefcoco")}) == 1


@pytest.mark.parametrize("key", _ALL_REFS)
def test_references_join_and_hold_plain_values_only(output: Objects, key: str) -> None:
    annotations = {row["id"]: row for row in _json(output, "refcoco/instances.json")["annotations"]}
    refs = _refs(output, key)
    assert output.read(key)[:2] == b"\x80\x02"
    assert [ref["ref_id"] for ref in refs] == list(range(len(refs)))
    sent_ids = [row["sent_id"] for ref in refs for row in ref["sentences"]]
    assert sent_ids == list(range(len(sent_ids)))
    fields = {"sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences", "category_id"}
    for ref in refs:
        assert set(ref) == fields
        annotation = annotations[ref["ann_id"]]
        assert (annotation["image_id"], annotation["category_id"]) == (ref["image_id"], ref["category_id"])
        assert ref["sent_ids"] == [row["sent_id"] for row in ref["sentences"]]
        for row in ref["sentences"]:
            assert set(row) == {"tokens", "raw", "sent_id", "sent"}
            assert row["raw"] == row["sent"] != ""
    expected = {"train", "val", "test"} if "umd" in key else {"train", "val", "testA"}
    assert {ref["split"] for ref in refs} == expected


def test_refcoco_plus_has_no_words_of_place(output: Objects) -> None:
    words = {t for ref in _refs(output, _ALL_REFS[1]) for row in ref["sentences"] for t in row["tokens"]}
    assert not words & {"left", "right", "above", "below", "top", "bottom", "leftmost", "highest", "lowest", "side"}
    assert {"left", "above"} & {t for ref in _refs(output, _ALL_REFS[0]) for r in ref["sentences"] for t in r["tokens"]}


def test_grefs_hold_one_several_and_no_targets(output: Objects) -> None:
    annotations = {row["id"]: row for row in _json(output, "grefcoco/instances.json")["annotations"]}
    counts = set()
    for gref in _json(output, "grefcoco/grefs(unc).json"):
        assert gref["no_target"] == (gref["ann_id"] == [-1]) == (gref["category_id"] == [-1])
        if gref["no_target"]:
            counts.add(0)
            continue
        counts.add(len(gref["ann_id"]))
        for ann_id, category_id in zip(gref["ann_id"], gref["category_id"], strict=True):
            assert annotations[ann_id]["image_id"] == gref["image_id"]
            assert annotations[ann_id]["category_id"] == category_id
    assert {0, 1, 2} <= counts


@pytest.mark.parametrize(("split", "count"), [("train", 14), ("val", 6), ("testA", 3)])
def test_panoptic_maps_agree_with_their_json(output: Objects, split: str, count: int) -> None:
    content = _json(output, f"panoptic/annotations/panoptic_{split}.json")
    categories = {row["id"]: row for row in content["categories"]}
    assert [row["name"] for row in categories.values() if not row["isthing"]] == ["background"]
    assert len(content["annotations"]) == len(content["images"]) == count
    for annotation in content["annotations"]:
        with Image.open(io.BytesIO(output.read(f"panoptic/panoptic_{split}/{annotation['file_name']}"))) as image:
            rgb = np.asarray(image).astype(int)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        assert set(np.unique(ids)) == {segment["id"] for segment in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            left, top = columns.min(), rows.min()
            assert segment["area"] == len(rows)
            assert segment["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]


def test_panoptic_things_are_the_instances(output: Objects) -> None:
    masks = _masks(output)
    content = _json(output, "panoptic/annotations/panoptic_val.json")
    rows = _json(output, "refcoco/instances.json")["annotations"]
    for annotation in content["annotations"]:
        own = [row for row in rows if row["image_id"] == annotation["image_id"]]
        things = annotation["segments_info"][:-1]
        assert [(row["area"], row["category_id"]) for row in own] == [(s["area"], s["category_id"]) for s in things]
        assert sum(masks[row["id"]].sum() for row in own) + annotation["segments_info"][-1]["area"] == 64 * 64


def test_osprey_descriptions_are_numbered_and_of_training_pictures(output: Objects) -> None:
    rows = _json(output, "osprey/osprey_detail_description.json")
    assert [row["file_name"] for row in rows] == [f"COCO_train2014_{10_000_000 + n:012d}.png" for n in range(14)]
    for row in rows:
        assert set(row) == {"file_name", "height", "width", "annotation", "description"}
        assert len(row["description"]) == len(row["annotation"])
        for place, text in enumerate(row["description"], start=1):
            assert text.startswith(f"<region{place}>: a ")


def test_osprey_short_answers_tell_colour_and_shape_of_every_region(output: Objects) -> None:
    described = _json(output, "osprey/osprey_detail_description.json")
    rows = iter(_json(output, "osprey/osprey_short_form.json"))
    for picture in described:
        for place, text in enumerate(picture["description"], start=1):
            row = next(rows)
            assert row["file_name"] == picture["file_name"]
            assert row["annotation"] == picture["annotation"]
            messages = row["conversations"]
            assert [message["from"] for message in messages] == ["human", "gpt"] * 2
            assert messages[0]["value"] == f"what is the colour of <region{place}>?"
            assert messages[2]["value"] == f"what is the shape of <region{place}>?"
            looks = text.partition(",")[0].split()
            assert looks[-2:] == [messages[1]["value"], messages[3]["value"]]
    assert next(rows, None) is None


@pytest.mark.parametrize(("split", "count"), [("train", 14), ("val", 6), ("testA", 3)])
def test_perbench_files_hold_readable_masks_and_matching_tags(output: Objects, split: str, count: int) -> None:
    folder = f"perbench/{split}"
    captions, questions = _json(output, f"{folder}/detailed_caption.json"), _json(output, f"{folder}/mcq.json")
    assert len(captions) == len(questions) == count
    for caption, question in zip(captions, questions, strict=True):
        masks = [item["segmentation"] for item in caption["object_annotations"]]
        assert [item["object"] for item in question["mcqs"]] == masks
        assert all(item["answer"] in item["question"] for item in question["mcqs"])
    items = _json(output, f"{folder}/visual_text_res.json")
    assert count <= len(items) <= 3 * count
    for item in items:
        assert set(item) == {"image_name", "question", "answer", "segmentations"}
        assert output.exists(f"images/train2014/{item['image_name']}")
        for tag, segmentation in item["segmentations"].items():
            assert (tag in item["question"]) != (tag in item["answer"])
            assert decode_mask(mask_from_coco(segmentation, 64, 64)).any()


def _bytes(output: Objects) -> dict[str, bytes]:
    return {info.key: output.read(info.key) for info in output.list()}


def test_bytes_are_the_same_in_any_order_of_blocks_and_after_a_kill(output: Objects, tmp_path: Path) -> None:
    other = Objects.open(tmp_path / "other")
    blocks = plan_blocks(_CONFIG)
    write_block(_CONFIG, other, blocks[-1])
    write_block(_CONFIG, other, blocks[0])
    # What a kill in the middle of a block leaves: its pictures, one missing, and no facts.
    other.delete(blocks[0].key)
    other.delete(image_key(first_image_id("train") + 5))
    generate(_CONFIG, other, NullProgress())
    assert _bytes(other) == _bytes(output)


def test_present_pictures_are_not_painted_again(tmp_path: Path) -> None:
    output = Objects.open(tmp_path / "out")
    block = plan_blocks(_CONFIG)[1]
    assert write_block(_CONFIG, output, block) == 6
    output.delete(block.key)
    output.delete(image_key(first_image_id("val") + 3))
    assert write_block(_CONFIG, output, block) == 1


def test_finished_scenes_are_left_alone(output: Objects) -> None:
    recorder = _Recorder()
    manifest = generate(_CONFIG, output, recorder)
    assert isinstance(manifest, Manifest)
    assert recorder.reports == []


def test_progress_counts_pictures() -> None:
    recorder = _Recorder()
    config = ScenesConfig(size_px=64, splits=SplitSizes(train=3, val=2))
    generate(config, Objects.open("memory://scenes-progress"), recorder)
    assert recorder.reports == [(0, 5), (3, 5), (5, 5)]


def test_other_scenes_in_the_folder_are_refused(output: Objects) -> None:
    with pytest.raises(ManifestConflict, match="write to another folder"):
        generate(_CONFIG.model_copy(update={"seed": 9}), output, NullProgress())


def test_blocks_cover_every_picture_once() -> None:
    config = ScenesConfig(splits=SplitSizes(train=250, val=0, testA=100))
    blocks = plan_blocks(config)
    assert [(block.split, block.start, block.stop) for block in blocks] == [
        ("train", 0, 100),
        ("train", 100, 200),
        ("train", 200, 250),
        ("testA", 0, 100),
    ]
