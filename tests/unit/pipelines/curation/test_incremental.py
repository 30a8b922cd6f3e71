"""A corpus that goes on from a parent has the rows of one that is made anew, and does work for what is new alone."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.curation import corpora, intake, shards
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local, curate_with, find_target
from pipelines.curation.steps.images import ProbedImage
from pipelines.curation.testing import Backwards, Killed, KilledAfter, polygon_of, write_coco
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import ManifestConflict, ObjectNotFound, SourceError
from storage.manifest import Manifest, verify_manifest
from storage.objects import Objects
from storage.schema import ImageRecord

_SIDE = 48
_BOXES = [[2, 3, 20, 20], [10, 10, 40, 30]]
_TEXTS = ["the cup", "a cup", "Cup.", "the red cup", "a dog"]
_OWN_FACTS = {"layer", "parents", "since_parent", "parts"}


def _picture(seed: int) -> Image.Image:
    """Smooth shapes, as photographs have and noise hasn't."""
    cells = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8))
    return cells.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _pictures() -> dict[str, bytes]:
    """Some that look alike, some that are the same bytes under two names, two with one COCO id, one that is damaged."""
    plain = {f"{number}.png": _encoded(_picture(number)) for number in range(5)}
    alike = {f"alike{number}.jpg": _encoded(_picture(number), "JPEG", quality=60 + number) for number in range(3)}
    worse = {"worse0.jpg": _encoded(_picture(0), "JPEG", quality=30)}
    same = {"same0.png": plain["0.png"], "same4.png": plain["4.png"]}
    coco = {f"{name}000000000007.png": _encoded(_picture(20 + len(name))) for name in ("", "COCO_train2014_")}
    return {**plain, **alike, **worse, **same, **coco, "bad.png": b"no picture", "more.png": _encoded(_picture(30))}


class Lake:
    """A folder of sources that changes at random."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)
        self.pictures = _pictures()
        self.sources: dict[str, dict[str, object]] = {}
        for name in self.draw.sample(sorted(self.pictures), 11):
            self._bring(name)
        for _ in range(4):
            self._write()

    def change(self) -> None:
        """One to three changes."""
        for _ in range(self.draw.randint(1, 3)):
            kind = self.draw.choice(["write", "write", "write", "drop", "bring", "mend"])
            if kind == "write":
                self._write()
            elif kind == "drop" and len(self.sources) > 2:
                del self.sources[self.draw.choice(sorted(self.sources))]
            elif kind == "bring":
                self._bring(self.draw.choice(sorted(self.pictures)))
            elif kind == "mend":
                self.pictures["bad.png"] = _encoded(_picture(40))
                self._bring("bad.png")

    def config(self, parent: Path | None = None) -> CurationConfig:
        order = self.draw.sample(sorted(self.sources), len(self.sources))
        rows = {"root": str(self.root), "sources": [self.sources[name] for name in order], "max_reject_share": 1}
        shards = {"images_per_shard": self.draw.choice([2, 3, 512])}
        return CurationConfig.model_validate({**rows, **shards, "parent": None if parent is None else str(parent)})

    def _bring(self, name: str) -> None:
        for folder in ("", "folder/") if name.startswith(("1", "alike")) else ("",):
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.pictures[name])

    def _write(self) -> None:
        """A source that is new, or another one in the place of an old one."""
        kind = self.draw.choice(["rows", "rows", "rows", "refs", "folder"])
        if kind == "folder":
            if (self.root / "folder").exists():
                self.sources["folder"] = {"kind": "images", "pictures": ["folder"], "images": ""}
        elif kind == "refs":
            self._write_refs(self.draw.choice(["g1", "g2"]))
        else:
            name = f"rows{self.draw.randint(0, 4)}.jsonl"
            (self.root / name).write_text("\n".join(json.dumps(self._row()) for _ in range(self.draw.randint(0, 9))))
            family = self.draw.choice(["one", "two"])
            self.sources[name] = {"kind": "generic", "rows": [name], "family": family}

    def _row(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "image": self.draw.choice([*self.pictures, "never.png"]),
            "split": self.draw.choice(["train"] * 5 + ["val"]),
        }
        if self.draw.random() < 0.4:
            return row | {"caption": self.draw.choice(_TEXTS)}
        if self.draw.random() < 0.1:
            return row | {"expression": "no mask"}
        box = {"segmentation": {"box_xyxy_px": self.draw.choice([*_BOXES, [50, 50, 60, 60]])}}
        return row | {"expression": self.draw.choice(_TEXTS)} | box

    def _write_refs(self, folder: str) -> None:
        names = self.draw.sample(sorted(self.pictures), 4)
        write_coco(
            self.root / folder / "instances.json",
            [{"id": n, "file_name": name, "height": _SIDE, "width": _SIDE} for n, name in enumerate(names)],
            [
                {"id": n, "image_id": n, "category_id": 1, "segmentation": polygon_of((2, 3, 20, 20))}
                for n in range(len(names))
            ],
        )
        refs = [
            {
                "ref_id": n,
                "image_id": n,
                "ann_id": [n],
                "split": self.draw.choice(["train", "train", "train", "testA"]),
                "sentences": [{"sent_id": 2 * n + k, "raw": self.draw.choice(_TEXTS)} for k in range(2)],
            }
            for n in range(len(names))
        ]
        (self.root / folder / "grefs(unc).json").write_text(json.dumps(refs))
        self.sources[folder] = {"kind": "grefcoco", "folder": folder, "images": ""}


def _content(output: Path) -> dict[str, object]:
    """All that doesn't depend on how a corpus came about."""
    corpus = Corpus.open(Objects.open(output))
    verify_manifest(corpus.objects)
    facts = {name: value for name, value in corpus.manifest.facts.items() if name not in _OWN_FACTS}
    images = sorted(corpus.images(), key=_image_id)
    assert len({image.image_id for image in images}) == len(images)
    return {
        "facts": facts,
        "samples": Counter(corpus.samples()),
        "images": images,
        "rejects": Counter(corpus.rejects()),
        "parts": sorted(json.dumps(part, sort_keys=True) for part in corpus.manifest.facts["parts"]),  # type: ignore[union-attr]
    }


def _image_id(image: ImageRecord) -> str:
    return image.image_id


@pytest.fixture(autouse=True)
def _no_pictures_in_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards follow from rows and facts, and drawing them takes most of the time."""
    monkeypatch.setattr(corpora, "card_files", lambda *arguments: {})


def _curate(config: CurationConfig, output: Path) -> Manifest:
    return curate_local(config, Objects.open(output), NullProgress())


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes_gives_the_rows_of_a_fresh_run(tmp_path: Path, seed: int) -> None:
    lake = Lake(tmp_path / "lake", seed)
    parent = tmp_path / "0"
    manifest = _curate(lake.config(), parent)
    for number in range(1, 5):
        lake.change()
        config, output = lake.config(parent), tmp_path / f"{number}"
        found = _curate(config, output)
        _curate(config.model_copy(update={"parent": None}), tmp_path / f"fresh{number}")
        if found.key == manifest.key:
            assert not [path for path in output.rglob("*") if path.is_file()]
            continue
        assert _content(output) == _content(tmp_path / f"fresh{number}")
        if found.facts["parents"]:
            assert found.facts["parents"] == [manifest.key, *manifest.facts["parents"]]  # type: ignore[misc]
        manifest, parent = found, output


def test_killed_at_every_item_and_in_any_order_it_gives_the_same_bytes(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake", 2)
    _curate(lake.config(), tmp_path / "parent")
    for _ in range(3):
        lake.change()
    config = lake.config(tmp_path / "parent").model_copy(update={"images_per_shard": 2})
    manifest = _curate(config, tmp_path / "whole")
    assert manifest.facts["parents"]
    curate_with(Backwards(), config, Objects.open(tmp_path / "backwards"), NullProgress())
    assert _bytes_of(tmp_path / "backwards") == _bytes_of(tmp_path / "whole")
    num_kills = 0
    for num_items in range(1, 200):
        try:
            curate_with(KilledAfter(num_items), config, Objects.open(tmp_path / "killed"), NullProgress())
        except Killed:
            num_kills += 1
        else:
            break
    assert num_kills > 10
    assert _bytes_of(tmp_path / "killed") == _bytes_of(tmp_path / "whole")


def _write_rows(root: Path, name: str, rows: list[dict[str, object]]) -> dict[str, object]:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(json.dumps(row) for row in rows))
    return {"kind": "generic", "rows": [name]}


def _write_pictures(root: Path, numbers: range) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (root / f"{number}.png").write_bytes(_encoded(_picture(number)))


def _cup(number: int, text: str = "the cup", split: str = "train") -> dict[str, object]:
    box = {"segmentation": {"box_xyxy_px": _BOXES[0]}}
    return {"image": f"{number}.png", "expression": text, "split": split, **box}


def _config(root: Path, *sources: dict[str, object], parent: Path | None = None, **fields: object) -> CurationConfig:
    rows = {"root": str(root), "sources": sources, "images_per_shard": 2, **fields}
    return CurationConfig.model_validate({**rows, "parent": None if parent is None else str(parent)})


def test_work_is_done_for_what_is_new_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "in"
    _write_pictures(root, range(12))
    old = [_write_rows(root, f"{n}.jsonl", [_cup(2 * n), _cup(2 * n + 1)]) for n in range(5)]
    _curate(_config(root, *old), tmp_path / "parent")
    for number in range(10):
        (root / f"{number}.png").unlink()  # nobody looks for them
    new = _write_rows(root, "new.jsonl", [_cup(10), _cup(11)])
    decoded: list[str] = []
    hashed: list[int] = []

    def look_at(data: bytes, max_image_px: int, name: str, image_id: str | None = None) -> ProbedImage:
        decoded.append(name)
        return _look_at(data, max_image_px, name, image_id)

    def digest(roots: Any, num_threads: int, files: Any) -> Any:
        hashed.append(len(files))
        return _hash_files(roots, num_threads, files)

    _look_at, _hash_files = shards.look_at, intake.hash_files
    monkeypatch.setattr(shards, "look_at", look_at)
    monkeypatch.setattr("pipelines.curation.gathering.hash_files", digest)
    manifest = _curate(_config(root, new, *old, parent=tmp_path / "parent"), tmp_path / "child")
    assert sorted(decoded) == ["10.png", "11.png"]
    assert hashed == [2]
    before, after = (
        {path.relative_to(folder): path.stat().st_ino for path in folder.rglob("*.parquet") if "0000" in path.name}
        for folder in (tmp_path / "parent", tmp_path / "child")
    )
    assert before.items() <= after.items()  # links, not copies
    assert {path.as_posix() for path in after.keys() - before.keys()} == {
        f"{folder}/l1-00000.parquet" for folder in ("images", "samples", "rejects", "looks")
    }
    assert manifest.facts["since_parent"] == {
        "parts_kept": 5,
        "parts_read": 1,
        "parts_gone_or_replaced": 0,
        "samples_added": 2,
        "samples_taken_out": 0,
    }


def test_nothing_new_is_the_parent_and_nothing_is_written(tmp_path: Path) -> None:
    root = tmp_path / "in"
    _write_pictures(root, range(3))
    sources = [_write_rows(root, "a.jsonl", [_cup(0)]), _write_rows(root, "b.jsonl", [_cup(1), _cup(9)])]
    parent = _curate(_config(root, *sources), tmp_path / "parent")
    reports: list[object] = []

    class Recorder:
        def update(self, done: int, total: int, **facts: object) -> None:
            reports.append(facts.get("unit"))

    config = _config(root, *reversed(sources), parent=tmp_path / "parent")
    assert curate_local(config, Objects.open(tmp_path / "child"), Recorder()) == parent
    assert reports[-1] == "parts of sources, nothing new"
    assert not [path for path in (tmp_path / "child").rglob("*") if path.is_file()]
    target = find_target(config)
    assert (target.key, target.present) == (parent.key, Objects.open(tmp_path / "parent"))
    _write_pictures(root, range(10))  # the picture that was missing is there
    assert find_target(config).present is None
    child = _curate(config, tmp_path / "child")
    assert (child.facts["num_samples"], child.facts["rejects_by_reason"]) == (3, {})


def test_rows_come_back_when_the_evaluation_set_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "in"
    _write_pictures(root, range(4))
    (root / "alike.jpg").write_bytes(_encoded(_picture(2), "JPEG", quality=70))
    train = _write_rows(root, "train.jsonl", [*(_cup(n) for n in range(4)), _cup(0, "a cup")])
    late = _write_rows(
        root,
        "val.jsonl",
        [_cup(0, split="val"), _cup(1, split="testA"), _cup(2) | {"image": "alike.jpg", "split": "val"}],
    )
    first = _curate(_config(root, train), tmp_path / "0")
    both = _curate(_config(root, train, late, parent=tmp_path / "0"), tmp_path / "1")
    assert both.facts["rejects_by_reason"] == {"leakage": 3, "expression_duplicate": 1}
    assert both.facts["since_parent"] == {
        "parts_kept": 1,
        "parts_read": 1,
        "parts_gone_or_replaced": 0,
        "samples_added": 3,
        "samples_taken_out": 3,
    }
    last = _curate(_config(root, train, parent=tmp_path / "1"), tmp_path / "2")
    assert last.facts["parents"] == [both.key, first.key]
    assert last.facts["since_parent"]["samples_added"] == 3  # type: ignore[index, call-overload]
    assert _content(tmp_path / "2") == _content(tmp_path / "0")


def test_a_parent_of_other_rules_is_not_mixed_in(tmp_path: Path) -> None:
    root = tmp_path / "in"
    _write_pictures(root, range(2))
    sources = [_write_rows(root, "a.jsonl", [_cup(0), _cup(0, "a cup"), _cup(1)])]
    _curate(_config(root, *sources), tmp_path / "parent")
    reports: list[str] = []

    class Recorder:
        def update(self, done: int, total: int, **facts: object) -> None:
            reports.append(str(facts.get("unit")))

    rules: dict[str, Any] = {"filters": {"near_duplicate_expressions": False}}
    output = Objects.open(tmp_path / "child")
    found = curate_local(_config(root, *sources, parent=tmp_path / "parent", **rules), output, Recorder())
    assert any("it was made with another curation.filters" in report for report in reports)
    assert (found.facts["parents"], found.facts["num_samples"]) == ([], 3)
    assert found == _curate(_config(root, *sources, **rules), tmp_path / "fresh")


def test_a_picture_that_is_another_under_an_unchanged_file_is_named(tmp_path: Path) -> None:
    root = tmp_path / "in"
    _write_pictures(root, range(2))
    old = _write_rows(root, "a.jsonl", [_cup(0), _cup(0, "a cup"), _cup(1)])
    _curate(_config(root, old), tmp_path / "parent")
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    (root / "0.png").write_bytes((root / "1.png").read_bytes())
    new = _write_rows(root, "b.jsonl", [_cup(0) | {"image": "copy.png", "expression": "cup"}])
    with pytest.raises(SourceError, match=r"a\.jsonl: row=1: its picture isn't the one .* curation\.parent=null"):
        _curate(_config(root, old, new, parent=tmp_path / "parent"), tmp_path / "child")


def test_a_parent_that_is_absent_or_in_the_way_is_named(tmp_path: Path) -> None:
    root = tmp_path / "in"
    _write_pictures(root, range(2))
    sources = [_write_rows(root, "a.jsonl", [_cup(0)])]
    with pytest.raises(ObjectNotFound, match=r"curation\.parent: no corpus at .*absent"):
        _curate(_config(root, *sources, parent=tmp_path / "absent"), tmp_path / "child")
    _curate(_config(root, *sources), tmp_path / "parent")
    more = _write_rows(root, "b.jsonl", [_cup(1)])
    with pytest.raises(ManifestConflict, match="write to another folder"):
        _curate(_config(root, *sources, more, parent=tmp_path / "parent"), tmp_path / "parent")
