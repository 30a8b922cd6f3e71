"""Real annotations in layouts without a family of their own, brought in as users' own rows (docs/own-data.md).

Each test shows the mapping that a user would write; masks come out as pycocotools decodes the published file. Pictures
that aren't there are stood in for by plain ones of their size.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco
import pytest
from PIL import Image

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.masks import decode_mask
from storage.objects import Objects
from storage.schema import RejectReason, Sample, Task

# pycocotools' decoder triggers it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        pytest.skip(f"{folder} holds no {pattern}")
    return found


def _curated(root: str, rows: Iterable[object], image_root: str | None = None) -> Corpus:
    """The corpus of rows that a user wrote, none of which vanishes."""
    lines = [json.dumps(row) for row in rows]
    Objects.open(root).create("rows.jsonl", "\n".join(lines).encode())
    source = {"kind": "generic", "split": "val", "root": root, "image_root": image_root}
    config = CurationConfig.model_validate({"sources": [source], "max_reject_share": 1})
    output = Objects.open(f"memory://{uuid.uuid4().hex}/corpus")
    curate_local(config, output, NullProgress())
    corpus = Corpus.open(output)
    places = [record.locator for record in (*corpus.samples(), *corpus.rejects())]
    assert sorted(places) == sorted(f"row={number}" for number in range(len(lines)))
    assert corpus.manifest.facts["records_in"] == {"rows.jsonl": len(lines)}
    return corpus


def _by_row(corpus: Corpus) -> dict[int, Sample]:
    return {int(sample.locator.removeprefix("row=")): sample for sample in corpus.samples()}


def _stand_in(path: Path, height: int, width: int) -> None:
    """A plain picture in the place of one that isn't there; its name gives its grey, so that no two are the same."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = int.from_bytes(path.name.encode()) % 251
        Image.new("RGB", (width, height), (grey, len(path.name), width % 251)).save(path)


def test_polygons_of_lvis(shared_data: Path, tmp_path: Path) -> None:
    num_photographs = 0
    for number, file in enumerate(_files(shared_data / "data/lvis", "*.json")):
        content = json.loads(file.read_text())
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        root = tmp_path / str(number)
        for image in images.values():
            # LVIS names the file of 2014 or none; its COCO URL ends in the folder and name of 2017.
            name = "/".join(image["coco_url"].split("/")[-2:])
            image["path"] = name
            photograph = shared_data / "data/coco2017" / name
            if photograph.exists():
                num_photographs += 1
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(photograph.read_bytes())
            _stand_in(root / name, image["height"], image["width"])
        rows: list[dict[str, Any]] = [
            {
                "image": images[annotation["image_id"]]["path"],
                "height": images[annotation["image_id"]]["height"],
                "width": images[annotation["image_id"]]["width"],
                "task": "category",
                "category": names[annotation["category_id"]].replace("_", " "),
                "regions": [{"segmentation": annotation["segmentation"], "id": annotation["id"]}],
            }
            for annotation in content["annotations"]
        ]
        samples = _by_row(_curated(str(root), rows))
        expected = {place for place, row in enumerate(rows) if _decoded(row).any()}
        assert set(samples) == expected
        for place, sample in samples.items():
            (region,) = sample.regions
            assert sample.task is Task.CATEGORY
            assert (region.source_id, sample.turns[0].answer) == (
                str(rows[place]["regions"][0]["id"]),
                rows[place]["category"],
            )
            mask, truth = decode_mask(region.mask), _decoded(rows[place])
            assert (mask & truth).sum() / (mask | truth).sum() >= 0.995
    assert num_photographs or not (shared_data / "data/coco2017").exists()


def _decoded(row: dict[str, Any]) -> np.ndarray:
    """The union of a row's polygons, by pycocotools."""
    (region,) = row["regions"]
    encoded = coco.frPyObjects(region["segmentation"], row["height"], row["width"])
    return coco.decode(coco.merge(encoded)) == 1


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_masklets_of_sa_v(shared_data: Path, tmp_path: Path, scheme: str) -> None:
    """Frame by frame, each object by its mask; where it is out of sight, its row is a reject. From any URL."""
    for file in _files(shared_data / "data/sav", "*.json"):
        video = json.loads(file.read_text())
        height, width = int(video["video_height"]), int(video["video_width"])
        root = (tmp_path / file.stem).as_uri() if scheme == "file" else f"memory://{uuid.uuid4().hex}/in"
        rows: list[dict[str, Any]] = []
        for number, frame in enumerate(video["masklet"]):
            name = f"{video['video_id']}/{number:05d}.png"
            _stand_in(tmp_path / "frames" / name, height, width)
            Objects.open(root).create(name, (tmp_path / "frames" / name).read_bytes())
            rows += [
                {"image": name, "task": "semantic", "category": f"object {masklet}", "segmentation": rle}
                for masklet, rle in zip(video["masklet_id"], frame, strict=True)
            ]
        corpus = _curated(root, rows)
        samples = _by_row(corpus)
        assert {reject.reason for reject in corpus.rejects()} <= {RejectReason.MASK_EMPTY}
        for place, row in enumerate(rows):
            truth = coco.decode(row["segmentation"]) == 1
            assert (place in samples) == truth.any()
            if place in samples:
                (region,) = samples[place].regions
                assert np.array_equal(decode_mask(region.mask), truth)


def test_rows_of_refcocos_with_and_without_a_target(shared_data: Path, tmp_path: Path) -> None:
    """The mask of a target is the panoptic segment that its row names; a row without one asks for nothing."""
    data = shared_data / "data"
    found: set[bool] = set()
    for number, file in enumerate(_files(data, "refcocos_*/*.json")):
        published = json.loads(file.read_text())
        rows: list[dict[str, Any]] = []
        for row in published:
            regions = [] if row["categories"]["empty_case"] else [{"segmentation": _segment(data, row)}]
            size = {"height": row["height"], "width": row["width"]}
            rows.append({"image": row["image"], "expression": row["normal_caption"], "regions": regions, **size})
        samples = _by_row(_curated(str(tmp_path / str(number)), rows, str(data / "coco2017")))
        assert sorted(samples) == list(range(len(rows)))
        for place, sample in samples.items():
            (turn,) = sample.turns
            is_empty = published[place]["categories"]["empty_case"]
            found.add(is_empty)
            assert sample.task is Task.REFERRING
            assert turn.text == rows[place]["expression"].lower()
            assert turn.targets == (((),) if is_empty else ((0,),))
            assert len(sample.regions) == (not is_empty)
            for region in sample.regions:
                assert np.array_equal(decode_mask(region.mask), _truth(rows[place]))
    assert True in found, "no row is without a target"


def _truth(row: dict[str, Any]) -> np.ndarray:
    segmentation = row["regions"][0]["segmentation"]
    if "box_xyxy_px" in segmentation:
        x0, y0, x1, y1 = segmentation["box_xyxy_px"]
        (segmentation,) = coco.frPyObjects([[x0, y0, x1, y0, x1, y1, x0, y1]], row["height"], row["width"])
    return coco.decode(segmentation) == 1


def _segment(data: Path, row: dict[str, Any]) -> dict[str, object]:
    """The panoptic segment that belongs to a row, as RLE; its box where it names none."""
    segment = row.get("_matched_panoptic_segment")
    if segment is None:
        return {"box_xyxy_px": row["solution"]}
    folder, name = row["image"].split("/")
    png = data / f"coco2017/annotations/panoptic_{folder}" / name.replace(".jpg", ".png")
    ids = np.asarray(Image.open(png), np.int64) @ np.array([1, 256, 65536])
    rle = coco.encode(np.asfortranarray(ids == segment["id"], np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}
