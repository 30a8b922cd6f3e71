"""Images with their annotations, part by part: no row is lost, whatever the order of the file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipelines.curation.steps.coco_groups import ImageGroup, image_groups
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from storage.errors import SourceError
from storage.schema import RejectReason

_IMAGES: list[object] = [
    {"id": 7, "caption": "seven"},
    {"id": 3, "caption": "three"},
    {"id": 4, "caption": "four"},
    {"id": 4, "caption": "four again"},
    {"id": True, "caption": "no id"},
    "no mapping",
    {"id": 1, "caption": "without annotations"},
]
_ANNOTATIONS: list[object] = [
    {"id": 12, "image_id": 3},
    {"id": 11, "image_id": 7},
    {"id": 10, "image_id": 3},
    {"image_id": 7},
    {"id": 13, "image_id": 4},
    {"id": 14, "image_id": 99},
    {"id": 15, "image_id": [3]},
    {"id": 16, "image_id": True},
    None,
]


def _write(folder: Path, images: list[object], annotations: list[object]) -> SourceFiles:
    (folder / "captions.json").write_text(json.dumps({"annotations": annotations, "images": images}))
    return SourceFiles(SourceFolder(str(folder)))


@pytest.mark.parametrize("images_per_pass", [1, 2, 100])
def test_groups_and_rows_that_are_in_none(tmp_path: Path, images_per_pass: int) -> None:
    found = list(image_groups(_write(tmp_path, _IMAGES, _ANNOTATIONS), "captions.json", images_per_pass))
    groups = [group for group in found if isinstance(group, ImageGroup)]
    assert [(group.locator, group.image["caption"]) for group in groups] == [
        ("image_id=7", "seven"),
        ("image_id=3", "three"),
        ("image_id=1", "without annotations"),
    ]
    assert [[where for where, _ in group.annotations] for group in groups] == [
        ["annotations[3]", "annotation_id=11"],
        ["annotation_id=10", "annotation_id=12"],
        [],
    ]
    assert groups[1].annotations[0][1] == {"id": 10, "image_id": 3}
    refused = {locator: error.reason for locator, error in (row for row in found if not isinstance(row, ImageGroup))}
    assert refused == {
        "images[2]": RejectReason.FIELD_INVALID,
        "images[3]": RejectReason.FIELD_INVALID,
        "images[4]": RejectReason.FIELD_INVALID,
        "images[5]": RejectReason.FIELD_INVALID,
        "annotations[5]": RejectReason.IMAGE_UNKNOWN,
        "annotations[6]": RejectReason.FIELD_INVALID,
        "annotations[7]": RejectReason.FIELD_INVALID,
        "annotations[8]": RejectReason.FIELD_INVALID,
    }


def test_neither_order_nor_parts_change_a_group(tmp_path: Path) -> None:
    draw = random.Random(0)
    images: list[object] = [{"id": number, "caption": str(number)} for number in range(20)]
    annotations: list[object] = [{"id": number, "image_id": draw.randrange(20)} for number in range(60)]

    def groups(images_per_pass: int) -> dict[str, object]:
        files = _write(tmp_path, draw.sample(images, 20), draw.sample(annotations, 60))
        found = [group for group in image_groups(files, "captions.json", images_per_pass)]
        return {group.locator: group for group in found if isinstance(group, ImageGroup)}

    whole = groups(100)
    assert len(whole) == 20
    assert groups(7) == whole
    assert groups(1) == whole


def test_a_file_without_its_lists(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps({"images": []}))
    with pytest.raises(SourceError, match=r"captions.json: expected a list under 'annotations'"):
        list(image_groups(SourceFiles(SourceFolder(str(tmp_path))), "captions.json"))
