"""Missing and renamed files and pictures are named before a run, with where they may be instead."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.examination import SourceExamination, examine_sources
from pipelines.curation.testing import polygon_of, write_coco, write_picture, write_zip
from pipelines.progress import NullProgress
from storage.errors import UsageError

_NAMES = tuple(f"COCO_train2014_{number:012d}.png" for number in (1, 2, 3))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(_NAMES, start=1):
        write_picture(tmp_path / "images/train2014" / name, seed=number)
    write_coco(
        tmp_path / "refcoco/instances.json",
        [{"id": n, "file_name": name, "height": 24, "width": 32} for n, name in enumerate(_NAMES, start=1)],
        [{"id": n, "image_id": n, "category_id": 1, "segmentation": polygon_of((1, 1, 9, 9))} for n in (1, 2, 3)],
    )
    refs = [
        {"ref_id": n, "image_id": n, "ann_id": n, "split": "train", "sentences": [{"sent_id": n, "raw": f"cup {n}"}]}
        for n in (1, 2, 3)
    ]
    (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs))
    return tmp_path


def _examined(root: Path, num_pictures: int = 10, **source: object) -> SourceExamination:
    config = CurationConfig.model_validate({"root": str(root), "sources": [{"kind": "refcoco", **source}]})
    (found,) = examine_sources(config, num_pictures, NullProgress())
    return found


def test_a_whole_source_has_no_finding(root: Path) -> None:
    found = _examined(root)
    assert found.findings == ()
    assert (found.kind, found.num_records, found.num_pictures, found.num_missing) == ("refcoco", 3, 3, 0)
    assert found.files == ("refcoco/refs(unc).p", "refcoco/instances.json")
    assert _examined(root, num_pictures=2).num_pictures == 2
    assert _examined(root, num_pictures=0).num_records == 3


def test_a_renamed_file_is_found_where_it_is(root: Path) -> None:
    (root / "refcoco/refs(unc).p").rename(root / "refs(unc).p")
    (finding,) = _examined(root).findings
    assert finding.name == "refcoco/refs(unc).p"
    assert finding.problem == "absent"
    assert finding.remedy == "found refs(unc).p: move it, or name it in the source"
    (root / "refs(unc).p").rename(root / "refcoco/refs_unc.p")
    assert _examined(root).findings[0].remedy.startswith("found refcoco/refs_unc.p")
    (root / "refcoco/refs_unc.p").unlink()
    assert _examined(root).findings[0].remedy == "fetch it from where it is published"
    write_zip(root / "refcoco.zip", {"refs(unc).p": b""})
    assert _examined(root).findings[0].remedy == "unpack it, if it is in refcoco.zip"


def test_pictures_elsewhere(root: Path) -> None:
    shutil.move(root / "images/train2014", root / "train2014")
    found = _examined(root)
    assert found.num_missing == 3
    assert found.findings[0].name == "images/train2014"
    assert found.findings[0].problem.startswith(
        "3 of the first 3 pictures can't be read, such as images/train2014/COCO"
    )
    assert found.findings[0].remedy == "they are in train2014: set images to it"
    assert _examined(root, images="train2014").findings == ()
    write_zip(root / "train2014.zip", {name: (root / "train2014" / name).read_bytes() for name in _NAMES})
    shutil.rmtree(root / "train2014")
    assert _examined(root).findings[0].remedy == "they may be in train2014.zip: set images to it"
    assert _examined(root, images="train2014.zip").findings == ()
    (root / "train2014.zip").unlink()
    assert _examined(root).findings[0].remedy == f"put them into images/train2014 under {root}"


def test_some_pictures_are_missing(root: Path) -> None:
    (root / "images/train2014" / _NAMES[1]).unlink()
    found = _examined(root)
    assert (found.num_pictures, found.num_missing) == (3, 1)
    assert found.findings[0].problem.startswith("1 of the first 3 pictures")


def test_a_damaged_file_and_bad_records(root: Path) -> None:
    coco = json.loads((root / "refcoco/instances.json").read_text())
    coco["annotations"][0]["category_id"] = 99
    (root / "refcoco/instances.json").write_text(json.dumps(coco))
    assert _examined(root).rejects == {"category_unknown": 1}
    (root / "refcoco/instances.json").write_text('{"images": [')
    (finding,) = _examined(root).findings
    assert "expected JSON" in finding.problem


def test_no_root(tmp_path: Path) -> None:
    assert _examined(tmp_path / "nowhere").findings[0].problem == "the root is absent"
    config = CurationConfig.model_validate({"sources": [{"kind": "refcoco"}]})
    with pytest.raises(UsageError, match="has no root"):
        examine_sources(config, 1, NullProgress())
