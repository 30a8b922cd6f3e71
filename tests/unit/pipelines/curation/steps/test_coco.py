"""A COCO file by id: good rows, and every way in which a row can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.curation.records import RecordError
from pipelines.curation.steps.coco import CocoIndex, checked_segmentation
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from storage.errors import SourceError
from storage.schema import RejectReason

_POLYGON = [[1, 1, 5, 1, 5, 5.5]]


def _index(folder: Path) -> CocoIndex:
    images = [
        {"id": 1, "file_name": "COCO_train2014_000000000025.jpg", "height": 4, "width": 6},
        {"id": 2, "file_name": "a.jpg", "height": 0, "width": 6},
        {"id": 3, "file_name": "a.jpg", "height": 4, "width": 6},
        {"id": 3, "file_name": "b.jpg", "height": 4, "width": 6},
        {"id": 4, "file_name": "a.jpg", "height": 4, "width": 6},
        {"id": 4, "file_name": "a.jpg", "height": 4, "width": 6},
        {"id": "5", "file_name": "a.jpg", "height": 4, "width": 6},
        None,
    ]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "segmentation": _POLYGON},
        {"id": 2, "image_id": 1, "category_id": 0, "segmentation": _POLYGON},
        {"id": 3, "image_id": 1, "category_id": 8, "segmentation": _POLYGON},
        {"id": 4, "image_id": 1, "category_id": 7},
        {"id": 5, "image_id": 99, "category_id": 7, "segmentation": _POLYGON},
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "cup"}]}
    return _index_of(folder, content)


def _index_of(folder: Path, content: object) -> CocoIndex:
    (folder / "instances.json").write_text(json.dumps(content))
    return CocoIndex(SourceFiles(SourceFolder(str(folder))), "instances.json", annotations=range(10))


def test_good_rows(tmp_path: Path) -> None:
    index = _index(tmp_path)
    image = index.image(1, "images")
    assert image.path == "images/COCO_train2014_000000000025.jpg"
    assert (image.height, image.width, image.coco_id) == (4, 6, 25)
    region = index.annotation(1, 1)
    assert (region.segmentation, region.category, region.source_id) == (_POLYGON, "cup", "1")
    assert index.annotation(1, 1) is region
    assert index.annotation(2, 1).category is None  # 0 is "unknown"
    assert index.image(4, "").path == "a.jpg"  # listed twice, but alike


@pytest.mark.parametrize(
    ("image_id", "reason", "detail"),
    [
        (2, RejectReason.FIELD_INVALID, "height: expected an integer >= 1, got 0"),
        (3, RejectReason.FIELD_INVALID, "id 3 stands for 2 different images of instances.json"),
        (5, RejectReason.IMAGE_UNKNOWN, "id 5 is not among the 6 images of instances.json"),
    ],
)
def test_bad_images(tmp_path: Path, image_id: int, reason: RejectReason, detail: str) -> None:
    with pytest.raises(RecordError, match=detail) as caught:
        _index(tmp_path).image(image_id, "images")
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("annotation_id", "image_id", "reason", "detail"),
    [
        (9, 1, RejectReason.ANNOTATION_MISSING, "id 9 is not among the 5 annotations"),
        (1, 4, RejectReason.FIELD_INVALID, "annotation 1: expected on image_id 4, but it is on image_id 1"),
        (3, 1, RejectReason.CATEGORY_UNKNOWN, "id 8 is not among the 1 categories"),
        (4, 1, RejectReason.MASK_INVALID, "segmentation: expected polygons or RLE, got None"),
        (5, 99, RejectReason.IMAGE_UNKNOWN, "annotation 5: its image_id 99 is not among the images"),
    ],
)
def test_bad_annotations(tmp_path: Path, annotation_id: int, image_id: int, reason: RejectReason, detail: str) -> None:
    with pytest.raises(RecordError, match=detail) as caught:
        _index(tmp_path).annotation(annotation_id, image_id)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "value",
    [
        _POLYGON,
        {"size": [4, 6], "counts": [3, 4, 17]},
        {"size": [4, 6], "counts": "34"},
        {"size": (4, 6), "counts": b"34"},
    ],
)
def test_segmentations_in_form(value: object) -> None:
    assert checked_segmentation(value) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], RejectReason.MASK_EMPTY),
        ("polygon", RejectReason.MASK_INVALID),
        ([1, 2, 3], RejectReason.MASK_INVALID),
        ([[1, "2"]], RejectReason.MASK_INVALID),
        ([[True, 2]], RejectReason.MASK_INVALID),
        ([[[1, 2], [3, 4]]], RejectReason.MASK_INVALID),
        ({"counts": [1]}, RejectReason.MASK_INVALID),
        ({"size": [4, 6], "counts": None}, RejectReason.MASK_INVALID),
        ({"size": [4, 6], "counts": [[1]]}, RejectReason.MASK_INVALID),
    ],
)
def test_segmentations_out_of_form(value: object, reason: RejectReason) -> None:
    with pytest.raises(RecordError, match=f"{reason}: segmentation") as caught:
        checked_segmentation(value)
    assert caught.value.reason is reason


def test_a_file_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^instances.json: expected a COCO mapping, got a list"):
        _index_of(tmp_path, [])
    with pytest.raises(SourceError, match=r"^instances.json: expected a list under 'annotations'"):
        _index_of(tmp_path, {"images": [], "categories": [], "annotations": {}})
