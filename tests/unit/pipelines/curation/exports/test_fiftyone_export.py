"""The layout that FiftyOne imports as `COCODetectionDataset`, read as its importer reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from pipelines.curation.exports.chosen import Chosen
from pipelines.curation.exports.fiftyone import export_fiftyone
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.masks import decode_mask
from storage.objects import Objects
from tests.small_corpora import write_labelled_corpus

# pycocotools' decoder triggers it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

_OWN = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
"""Fields of COCO; the importer makes attributes of all others."""


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_labelled_corpus(Objects.open(tmp_path / "corpus"))


def _imported(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Labels by the path of their picture: box in shares of the picture, mask of that box, and attributes.

    Pictures are those below `data/`, at any depth; masks are cut to the rounded box.
    """
    labels = json.loads((folder / "labels.json").read_text())
    names = {category["id"]: category["name"] for category in labels["categories"]}
    found: dict[str, list[dict[str, Any]]] = {}
    for image in labels["images"]:
        with Image.open(folder / "data" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        found[image["file_name"]] = []
        for row in labels["annotations"]:
            if row["image_id"] == image["id"]:
                x, y, width, height = row["bbox"]
                whole = pycocotools.mask.decode(row["segmentation"]).astype(bool)
                assert whole.shape == (image["height"], image["width"])
                found[image["file_name"]].append(
                    {
                        "label": names[row["category_id"]],
                        "box": (x / image["width"], y / image["height"], width / image["width"]),
                        "mask": whole[round(y) : round(y + height), round(x) : round(x + width)],
                        "num_px": int(whole.sum()),
                        **{name: value for name, value in row.items() if name not in _OWN},
                    }
                )
    return found


def test_each_split_is_a_data_set_of_its_own(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    counts = export_fiftyone(Chosen(corpus), folder, NullProgress())
    assert counts.splits == {"train", "val"}
    assert counts.without_image == 1
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "train", "val"]
    for split in counts.splits:
        assert sorted(path.name for path in (folder / split).iterdir()) == ["data", "labels.json"]
    assert "fo.types.COCODetectionDataset" in (folder / "README.md").read_text()


def test_masks_lie_whole_in_their_boxes(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export_fiftyone(Chosen(corpus, splits=["train"]), folder, NullProgress())
    labels = [label for own in _imported(folder / "train").values() for label in own]
    expected = {
        (region.category or "unnamed", int(decode_mask(region.mask).sum()))
        for sample in corpus.samples(splits=["train"])
        for region in sample.regions
    }
    assert {(label["label"], label["num_px"]) for label in labels} == expected
    for label in labels:
        assert label["mask"].sum() == label["num_px"]
        assert np.all(np.array(label["box"]) >= 0)


def test_texts_are_plain_lists(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export_fiftyone(Chosen(corpus, splits=["train"]), folder, NullProgress())
    labels = [label for own in _imported(folder / "train").values() for label in own]
    cup = next(label for label in labels if label["label"] == "cup" and label["expressions"])
    assert cup["expressions"] == ["the small cup", "a cup"]
    assert (cup["families"], cup["tasks"], cup["pointed_at"]) == (["refer+"], ["referring"], [])
    unnamed = next(label for label in labels if label["label"] == "unnamed")
    assert (unnamed["expressions"], unnamed["pointed_at"]) == ([], ["<region1>"])
