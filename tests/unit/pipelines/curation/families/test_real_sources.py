"""The readers on real files: masks equal the ground truth, and no row is lost."""

from __future__ import annotations

import csv
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.steps.source_files import iterate_rows
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.masks import decode_mask
from storage.objects import Objects
from storage.schema import RejectReason, Sample, Task

_SEEMLY = {RejectReason.IMAGE_MISSING, RejectReason.EXPRESSION_DUPLICATE, RejectReason.IMAGE_DUPLICATE}
"""Rejects that don't tell of a reader's fault: a folder may hold some of the pictures, and training samples twice."""


def _refer_sources(root: Path) -> list[dict[str, str]]:
    """The sets of the RefCOCO family that a folder holds."""
    found = [
        {
            "kind": "refcoco",
            "dataset": file.parent.name,
            "split_by": file.name.removeprefix("refs(").removesuffix(").p"),
        }
        for file in sorted(root.glob("refcoco*/refs(*).p"))
    ]
    assert found, f"{root} holds no refs(*).p"
    return found


def _corpus(root: Path, output: Path, *sources: object) -> Corpus:
    config = CurationConfig.model_validate({"root": str(root), "sources": sources})
    curate_local(config, Objects.open(output), NullProgress())
    return Corpus.open(Objects.open(output))


@pytest.fixture(scope="module")
def refer(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = shared_data / "data/refer_seg"
    return _corpus(root, tmp_path_factory.mktemp("refer"), *_refer_sources(root))


def test_referring_masks_equal_the_ground_truth(refer: Corpus, shared_data: Path) -> None:
    coco_ids = {image.image_id: image.coco_id for image in refer.images()}
    lowest = 1.0
    for sample in refer.samples():
        (region,) = sample.regions
        name = f"{coco_ids[sample.image_id or '']}_{region.source_id}.png"
        truth = np.asarray(Image.open(shared_data / "data/refer_seg/masks" / name)) > 0
        mask = decode_mask(region.mask)
        lowest = min(lowest, (mask & truth).sum() / (mask | truth).sum())
    assert lowest >= 0.995


def test_no_referring_row_is_lost(refer: Corpus, shared_data: Path) -> None:
    expected: Counter[str] = Counter()
    root = shared_data / "data/refer_seg"
    sources = _refer_sources(root)
    for name in (f"{source['dataset']}/refs({source['split_by']}).p" for source in sources):
        with (root / name).open("rb") as file:
            refs: list[Any] = list(iterate_rows(file, name))
        assert refs == pickle.loads((root / name).read_bytes())
        expected[name] = sum(len(ref["sentences"]) for ref in refs)
    found = Counter(sample.source_file for sample in refer.samples())
    found.update(reject.source_file for reject in refer.rejects())
    assert found == expected == Counter(dict(refer.manifest.facts["records_in"]))  # type: ignore[arg-type]
    assert {reject.reason for reject in refer.rejects()} <= _SEEMLY
    listed = {
        row["id"]
        for name in {source["dataset"] for source in sources}
        for row in json.loads((root / name / "instances.json").read_text())["images"]
        if (root / "images/train2014" / row["file_name"]).exists()
    }
    assert {image.coco_id for image in refer.images()} == listed


def test_expressions_are_those_of_the_published_table(refer: Corpus, shared_data: Path) -> None:
    table: set[tuple[str, str, str, str]] = set()
    with (shared_data / "data/refer_seg/expressions.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["has_mask"] == "1":
                text = row["sent"].lower().removesuffix(".").strip()
                table.add((row["dataset"], row["split"], f"ref_id={row['ref_id']}/sent_id={row['sent_id']}", text))
    samples = {(sample.family, sample.split, sample.locator, sample.turns[0].text) for sample in refer.samples()}
    lost = {(reject.family, reject.locator) for reject in refer.rejects()}
    table = {row for row in table if (row[0], row[2]) not in lost}
    assert samples == {(family, split, locator, " ".join(text.split())) for family, split, locator, text in table}


def test_three_uses_of_panoptic_equal_the_png(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "data/coco2017"
    splits = [path.stem.removeprefix("panoptic_") for path in sorted(root.glob("annotations/panoptic_*2017.json"))]
    assert splits, f"{root} holds no annotations/panoptic_*2017.json"
    sources = [
        {"kind": "coco_panoptic", "annotations": f"annotations/panoptic_{split}.json", "images": split, "split": split}
        for split in splits
    ]
    corpus = _corpus(root, tmp_path, *sources)
    by_locator = {(sample.split, sample.locator): sample for sample in corpus.samples()}
    expected_rejects: set[str] = set()
    image_ids: set[int] = set()
    for split in splits:
        content = json.loads((root / f"annotations/panoptic_{split}.json").read_text())
        things = {row["id"] for row in content["categories"] if row["isthing"]}
        for annotation in content["annotations"]:
            image_ids.add(annotation["image_id"])
            png = np.asarray(Image.open(root / f"annotations/panoptic_{split}" / annotation["file_name"]), np.int64)
            ids = png @ np.array([1, 256, 65536])
            where = f"image_id={annotation['image_id']}"
            groups: dict[int, list[Any]] = {}
            for segment in annotation["segments_info"]:
                groups.setdefault(segment["category_id"], []).append(segment)
                sample = by_locator.pop((split, f"{where}/segment_id={segment['id']}/use=category"))
                assert [mask.tobytes() for mask in _masks(sample)] == [(ids == segment["id"]).tobytes()]
                if segment["iscrowd"]:
                    expected_rejects.add(f"{where}/segment_id={segment['id']}/use=instance")
            for category_id, segments in groups.items():
                sample = by_locator.pop((split, f"{where}/category_id={category_id}/use=semantic"))
                union = np.isin(ids, [segment["id"] for segment in segments])
                assert np.array_equal(np.logical_or.reduce(_masks(sample)), union)
                single = [ids == segment["id"] for segment in segments if not segment["iscrowd"]]
                if category_id in things and single:
                    sample = by_locator.pop((split, f"{where}/category_id={category_id}/use=instance"))
                    lefts = [int(mask.any(axis=0).argmax()) for mask in _masks(sample)]
                    assert lefts == sorted(lefts)
                    assert sorted(mask.tobytes() for mask in _masks(sample)) == sorted(
                        mask.tobytes() for mask in single
                    )
    assert not by_locator
    assert {reject.locator for reject in corpus.rejects()} == expected_rejects
    assert {image.coco_id for image in corpus.images()} == image_ids


def test_panoptic_pictures_that_referring_sets_evaluate_on_are_found(shared_data: Path, tmp_path: Path) -> None:
    """By the published lists of ids, and by the sets themselves; each is named with the set that evaluates on it."""
    data = shared_data / "data"
    names = ["leakage/refer_eval_image_ids_by_split.json", "leakage/refcoco_val_test_img_ids.json"]
    sets: dict[str, list[int]] = json.loads((data / names[0]).read_text())
    sets[names[1]] = json.loads((data / names[1]).read_text())
    panoptic = json.loads((data / "coco2017/annotations/panoptic_train2017.json").read_text())
    listed = {row["image_id"] for row in panoptic["annotations"]}
    expected = {coco_id: name for name in sorted(sets, reverse=True) for coco_id in sets[name] if coco_id in listed}
    assert expected, "none of the pictures here is one that a set evaluates on"
    source = {"kind": "coco_panoptic", "root": str(data / "coco2017")}
    config = CurationConfig.model_validate(
        {"root": str(data), "sources": [source], "leakage": {"evaluation_ids": names}}
    )
    curate_local(config, Objects.open(tmp_path / "out"), NullProgress())
    corpus = Corpus.open(Objects.open(tmp_path / "out"))
    leaks = [reject for reject in corpus.rejects() if reject.reason is RejectReason.LEAKAGE]
    found = {int(reject.locator.partition("/")[0].removeprefix("image_id=")): reject.detail for reject in leaks}
    assert found == {
        coco_id: f"COCO id {coco_id} is an evaluation image of {name}" for coco_id, name in expected.items()
    }
    assert {image.coco_id for image in corpus.images()} == listed - expected.keys()
    removed = {"samples_removed": len(leaks), "images": len(expected)}
    assert corpus.manifest.facts["leakage"] == {"coco_panoptic": removed}


def _masks(sample: Sample) -> list[np.ndarray[tuple[int, int], np.dtype[np.bool_]]]:
    """One mask per region, in the order of targets or prompts."""
    (turn,) = sample.turns
    if sample.task is Task.INSTANCE:
        assert turn.targets == tuple((place,) for place in range(len(sample.regions)))
    elif sample.task is Task.SEMANTIC:
        assert turn.targets == (tuple(range(len(sample.regions))),)
    else:
        assert [prompt.region for prompt in sample.prompts] == [0]
    return [decode_mask(region.mask) for region in sample.regions]
