"""A corpus that goes on from a parent has the rows of one that is made anew, and does work for what is new alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.curation import compaction, corpora, intake, looking
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local, curate_with, find_target
from pipelines.curation.steps.images import ProbedImage
from pipelines.curation.testing import Backwards, Killed, KilledAfter
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import ManifestConflict, ObjectNotFound, SourceError
from storage.keys import bytes_key
from storage.manifest import Manifest, verify_manifest
from storage.objects import Objects
from storage.schema import ImageRecord
from tests.changing_sources import BOXES, Lake, encoded, smooth_picture

_OWN_FACTS = {"layer", "parents", "since_parent", "parts"}


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


def _curate_with_kills(config: CurationConfig, output: Path) -> int:
    """Kills the run after one item, two items and so on, until it comes to its end; returns the number of kills."""
    for num_items in range(1, 200):
        try:
            curate_with(KilledAfter(num_items), config, Objects.open(output), NullProgress())
        except Killed:
            continue
        return num_items - 1
    raise AssertionError("the run doesn't end")


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes_gives_the_rows_of_a_fresh_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(compaction, "MAX_SMALL", 2)  # shards are joined again and again
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


def test_killed_at_every_item_and_in_any_order_it_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_SHARDS_PER_TASK", 1)
    lake = Lake(tmp_path / "lake", 2)
    _curate(lake.config(), tmp_path / "parent")
    for _ in range(3):
        lake.change()
    config = lake.config(tmp_path / "parent").model_copy(update={"images_per_shard": 2})
    manifest = _curate(config, tmp_path / "whole")
    assert manifest.facts["parents"]
    curate_with(Backwards(), config, Objects.open(tmp_path / "backwards"), NullProgress())
    assert _bytes_of(tmp_path / "backwards") == _bytes_of(tmp_path / "whole")
    assert _curate_with_kills(config, tmp_path / "killed") > 10
    assert _bytes_of(tmp_path / "killed") == _bytes_of(tmp_path / "whole")


def _shards(output: Path) -> list[str]:
    return sorted(path.stem for path in (output / "looks").iterdir())


def _grow(root: Path, tmp_path: Path, num_layers: int, **fields: object) -> list[dict[str, object]]:
    """A corpus in `0`, and those of layers on top of it, each of one picture more and one record without picture."""
    sources: list[dict[str, object]] = []
    _write_pictures(root, range(num_layers + 2))
    for number in range(num_layers + 1):
        rows = [_cup(number), _cup(number + 1, "a dog"), _cup(99)]
        sources.append(_write_rows(root, f"{number}.jsonl", rows))
        parent = tmp_path / f"{number - 1}" if number else None
        config = _config(root, *sources, parent=parent, images_per_shard=4, max_reject_share=1, **fields)
        _curate(config, tmp_path / f"{number}")
    return sources


def test_many_small_layers_become_few_shards(tmp_path: Path) -> None:
    root = tmp_path / "in"
    sources = _grow(root, tmp_path, 10)
    small = [f"l{number}-00000" for number in range(1, 9)]
    assert _shards(tmp_path / "7") == ["00000", *small[:7]]
    assert _shards(tmp_path / "8") == ["00000", *small]  # the first one has two pictures, half of what it may have
    # Of nine shards with one picture each four are joined, four, and the last stays by itself.
    assert _shards(tmp_path / "9") == ["00000", "l9-00000", "l9-joined-00000", "l9-joined-00001"]
    assert _shards(tmp_path / "10") == [*_shards(tmp_path / "9")[:1], "l10-00000", *_shards(tmp_path / "9")[1:]]
    whole = Corpus.open(Objects.open(tmp_path / "9"))
    assert whole.manifest.facts["since_parent"]["samples_added"] == 2  # type: ignore[index, call-overload]
    assert whole.manifest.facts["since_parent"]["samples_taken_out"] == 0  # type: ignore[index, call-overload]
    assert len(whole.manifest.facts["parents"]) == 9  # type: ignore[arg-type]
    for number in (9, 10):
        config = _config(root, *sources[: number + 1], images_per_shard=4, max_reject_share=1)
        _curate(config, tmp_path / f"fresh{number}")
        assert _content(tmp_path / f"{number}") == _content(tmp_path / f"fresh{number}")


def test_rejects_of_many_layers_become_few_files(tmp_path: Path) -> None:
    root = tmp_path / "in"
    sources: list[dict[str, object]] = []
    _write_pictures(root, range(12))
    for number in range(11):
        sources.append(_write_rows(root, f"{number}.jsonl", [_cup(number), {"image": f"{number}.png", "split": "?"}]))
        parent = tmp_path / f"{number - 1}" if number else None
        _curate(_config(root, *sources, parent=parent, max_reject_share=1), tmp_path / f"{number}")
    by_readers = [
        sorted(path.stem for path in (tmp_path / name / "rejects").iterdir() if "source" in path.stem)
        for name in ("9", "10")
    ]
    assert by_readers[0] == ["l9-source-00000", "l9-source-joined-00009"]
    assert by_readers[1] == ["l10-source-00000", *by_readers[0]]
    _curate(_config(root, *sources, max_reject_share=1), tmp_path / "fresh")
    assert _content(tmp_path / "10") == _content(tmp_path / "fresh")


def test_shards_are_joined_while_rows_are_withheld_and_come_back(tmp_path: Path) -> None:
    root = tmp_path / "in"
    sources = _grow(root, tmp_path, 8)
    late = _write_rows(root, "val.jsonl", [_cup(2, split="val"), _cup(5, split="testA")])
    fields: dict[str, Any] = {"images_per_shard": 4, "max_reject_share": 1}
    more = [_write_rows(root, f"more{number}.jsonl", [_cup(number, "more")]) for number in (20, 21)]
    _write_pictures(root, range(20, 22))
    steps = [(*sources, late, more[0]), (*sources[:6], *more), (*sources, *more)]
    for number, chosen in enumerate(steps, start=9):
        _curate(_config(root, *chosen, parent=tmp_path / f"{number - 1}", **fields), tmp_path / f"{number}")
        _curate(_config(root, *chosen, **fields), tmp_path / f"fresh{number}")
        assert _content(tmp_path / f"{number}") == _content(tmp_path / f"fresh{number}")
    assert "l9-joined-00000" in _shards(tmp_path / "9")


def test_a_run_that_joins_shards_may_be_killed_at_every_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_SHARDS_PER_TASK", 1)
    root = tmp_path / "in"
    sources = _grow(root, tmp_path, 8)
    _write_pictures(root, range(20, 21))
    config = _config(
        root,
        *sources,
        _write_rows(root, "9.jsonl", [_cup(0, split="val"), _cup(20)]),
        parent=tmp_path / "8",
        images_per_shard=4,
        max_reject_share=1,
    )
    _curate(config, tmp_path / "whole")
    assert "l9-joined-00001" in _shards(tmp_path / "whole")
    assert _curate_with_kills(config, tmp_path / "killed") > 10
    assert _bytes_of(tmp_path / "killed") == _bytes_of(tmp_path / "whole")


def _write_rows(root: Path, name: str, rows: list[dict[str, object]]) -> dict[str, object]:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(json.dumps(row) for row in rows))
    return {"kind": "generic", "rows": [name]}


def _write_pictures(root: Path, numbers: range) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (root / f"{number}.png").write_bytes(encoded(smooth_picture(number)))


def _cup(number: int, text: str = "the cup", split: str = "train") -> dict[str, object]:
    box = {"segmentation": {"box_xyxy_px": BOXES[0]}}
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
        decoded.append(str(image_id))
        return _look_at(data, max_image_px, name, image_id)

    def digest(roots: Any, num_threads: int, files: Any) -> Any:
        hashed.append(len(files))
        return _hash_files(roots, num_threads, files)

    _look_at, _hash_files = looking.look_at, intake.hash_files
    monkeypatch.setattr(looking, "look_at", look_at)
    monkeypatch.setattr("pipelines.curation.gathering.hash_files", digest)
    manifest = _curate(_config(root, new, *old, parent=tmp_path / "parent"), tmp_path / "child")
    assert sorted(decoded) == sorted(bytes_key((root / f"{number}.png").read_bytes()) for number in (10, 11))
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
    (root / "alike.jpg").write_bytes(encoded(smooth_picture(2), "JPEG", quality=70))
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
