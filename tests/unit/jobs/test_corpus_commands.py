"""`sailloft corpus`: what the commands show and leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import corpora
from jobs.cli import app
from storage.errors import DataError, ObjectNotFound, UsageError
from storage.keys import Json
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION
from tests.small_corpora import write_labelled_corpus


@pytest.fixture
def url(tmp_path: Path) -> str:
    return write_labelled_corpus(Objects.open(tmp_path / "corpus")).objects.url


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["corpus", *arguments])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def test_show_counts_everything(url: str) -> None:
    lines = _run("show", url).splitlines()
    assert lines[0].startswith(f"{url}: 12 samples on 3 images, 1 records rejected, ")
    assert lines[1] == f"  key {'c' * 64}"
    assert "family   task                   split  samples" in lines
    assert "refer+   referring              train        3" in lines
    assert "source file  records  samples  rejects" in lines
    assert "b.json             7        6        1" in lines
    assert lines[-1] == "text_empty        1"


def test_show_as_json(url: str) -> None:
    shown = json.loads(_run("show", url, "--json"))
    assert (shown["url"], shown["key"], shown["num_files"]) == (url, "c" * 64, 5)
    assert (shown["num_samples"], shown["num_images"], shown["num_rejects"]) == (12, 3, 1)
    assert shown["samples"]["told"] == {"caption": {"val": 1}, "conversation": {"val": 1}}


def test_show_warns(tmp_path: Path) -> None:
    facts = {"leakage_gate": "off", "relabelled_splits": {"a.json": {"testA": "train"}}}
    publish(Objects.open(tmp_path), Manifest("corpus", "d", SCHEMA_VERSION, {}, {}, (), facts))
    assert _run("show", str(tmp_path)).splitlines()[2:] == [
        "  the leakage gate was off: training samples may lie on evaluation images",
        "  a.json: testA became train",
    ]


def test_show_names_the_parents(tmp_path: Path) -> None:
    counts = {
        "parts_kept": 3,
        "parts_read": 2,
        "parts_gone_or_replaced": 1,
        "samples_added": 40,
        "samples_taken_out": 7,
    }
    facts: dict[str, Json] = {"parents": ["e" * 64, "f" * 64], "since_parent": counts}
    publish(Objects.open(tmp_path), Manifest("corpus", "d", SCHEMA_VERSION, {}, {}, (), facts))
    assert _run("show", str(tmp_path)).splitlines()[2:] == [
        f"  parent {'e' * 64}",
        f"  parent {'f' * 64}",
        "  since the parent: 3 parts kept, 2 read, 1 gone or replaced; 40 samples added, 7 taken out",
    ]


def test_export_makes_a_folder(url: str, tmp_path: Path) -> None:
    target = tmp_path / "coco"
    shown = _run("export", url, "--format", "coco", "--to", str(target), "--split", "val")
    assert shown == f"{target}: 6 samples on 2 images (val); 1 samples without a picture left out\n"
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "annotations", "images"]
    target = tmp_path / "hf"
    shown = _run("export", url, "--format", "hf", "--to", str(target), "--family", "told", "--family", "refer+")
    assert shown == f"{target}: 6 samples on 4 images (train, val)\n"
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "data"]


def test_export_refuses_what_is_there_and_what_is_not(url: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="expected a new or empty folder, found content"):
        _run("export", url, "--format", "hf", "--to", str(tmp_path / "full"))
    with pytest.raises(UsageError, match="no sample of family 'refcoco'"):
        _run("export", url, "--format", "hf", "--to", str(tmp_path / "new"), "--family", "refcoco")
    with pytest.raises(ObjectNotFound, match="no corpus there, run curate first"):
        _run("export", str(tmp_path / "absent"), "--format", "coco", "--to", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["coco", "fiftyone", "hf"])
def test_a_failed_export_leaves_nothing(url: str, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise DataError("a bad shard")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("pipelines.curation.exports.hugging_face._row", fail)
    monkeypatch.setattr("pipelines.curation.exports.coco._write_picture", fail)
    with pytest.raises(DataError, match="a bad shard"):
        _run("export", url, "--format", form, "--to", str(tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == before


def test_the_folder_appears_at_the_end(url: str, tmp_path: Path) -> None:
    seen: list[bool] = []

    class _Watch:
        def update(self, done: int, total: int, **facts: object) -> None:
            seen.append((tmp_path / "out").exists())

    corpora.export_corpus(url, "coco", tmp_path / "out", None, None, _Watch())
    assert seen
    assert not any(seen)
    assert (tmp_path / "out/annotations/train.json").exists()
