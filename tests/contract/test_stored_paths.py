"""What is read back from storage names files below its own prefix; whatever else it names isn't read.

Whoever can write to a store could otherwise have files of the reader's machine read, or written, for them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.weight_files import read_weights
from storage.corpus import Corpus
from storage.errors import CorruptObject, SailloftError, UsageError
from storage.feature_index import PartDescription, PartEntry, add_part, described_arrays, read_snapshot
from storage.features import FeatureStore
from storage.keys import canonical_json, content_key
from storage.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest, verify_manifest
from storage.objects import Objects, is_key
from storage.retirement import RETIRED_NAME, Retirement, read_retirement, successor_of
from storage.run_records import read_run
from storage.stage_notes import read_note
from tests.small_corpora import noise_picture, write_corpus

OUTSIDE = ("../outside", "a/../../outside", "/etc/passwd", "a//b", "./a", "", "a\\b", "a\0b")
DESCRIPTION = PartDescription("teacher", "int8", 4, {"stride": 16})


@pytest.mark.parametrize("path", OUTSIDE)
def test_what_is_no_key(path: str, tmp_path: Path) -> None:
    assert not is_key(path)
    objects = Objects.open(tmp_path / "in")
    (tmp_path / "in").mkdir()
    actions: list[Callable[[], object]] = [
        lambda: objects.read(path),
        lambda: objects.read_range(path, 0, 1),
        lambda: objects.open_file(path),
        lambda: objects.size(path),
        lambda: objects.create(path, b""),
        lambda: objects.put(path, b""),
        lambda: objects.new(path),
        lambda: objects.delete(path),
        lambda: objects.copy("a", objects, path),
        lambda: objects.copy(path, objects, "a"),
        lambda: objects.child(path),
    ]
    for action in actions:
        with pytest.raises(UsageError, match=r"object key .*: expected path segments"):
            action()
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_manifest_that_names_files_elsewhere_is_none(path: str, tmp_path: Path) -> None:
    objects = Objects.open(tmp_path)
    objects.create(MANIFEST_NAME, Manifest("x", "k", 1, {}, {}, (FileEntry.of(path, b"1"),)).to_json())
    for read in (read_manifest, verify_manifest):
        with pytest.raises(CorruptObject, match=r"manifest\.json: not a manifest: expected files below it, got "):
            read(objects)


def test_a_corpus_reads_no_file_from_elsewhere(tmp_path: Path) -> None:
    """The file outside is a right one, so that nothing but its place speaks against it."""
    folder = tmp_path / "w/corpus"
    write_corpus(Objects.open(folder), [noise_picture(1, 16, 24)], "c")
    content = json.loads((folder / MANIFEST_NAME).read_text())
    entry = next(item for item in content["files"] if item["path"].startswith("images/"))
    shutil.move(folder / entry["path"], tmp_path / "outside.parquet")
    entry["path"] = "images/../../../outside.parquet"
    (folder / MANIFEST_NAME).write_bytes(canonical_json(content))
    with pytest.raises(CorruptObject, match=r"expected files below it, got 'images/\.\./\.\./\.\./outside\.parquet'"):
        list(Corpus.open(str(folder)).images())


@pytest.mark.parametrize("part", ["../../outside", "/etc", ".."])
def test_a_feature_store_lists_no_part_elsewhere(part: str, tmp_path: Path) -> None:
    store = Objects.open(tmp_path / "features")
    add_part(store, DESCRIPTION, PartEntry("p", "0" * 64, 1))
    place = tmp_path / "features/index/00000001.json"
    content = json.loads(place.read_text())
    content["parts"][0]["part"] = part
    content["key"] = content_key({name: content[name] for name in ("description", "parts")})
    place.write_bytes(canonical_json(content))
    for read in (read_snapshot, FeatureStore.open):
        with pytest.raises(CorruptObject, match=r"index/00000001\.json: expected parts below the store, got "):
            read(store)


@pytest.mark.parametrize("name", ["../../outside", "/etc"])
def test_a_part_has_no_array_elsewhere(name: str) -> None:
    attributes = {**DESCRIPTION.to_json(), "arrays": [{"name": name, "num_rows": 1, "cells": 4, "rows_per_shard": 1}]}
    data = json.dumps({"attributes": {"sailloft": attributes}}).encode()
    with pytest.raises(ValueError, match="expected arrays below the part, got "):
        described_arrays(data)


@pytest.mark.parametrize("successor", ["../elsewhere", "/etc", "a/b", "..", 3])
def test_a_retired_corpus_has_its_successor_beside_it(successor: object, tmp_path: Path) -> None:
    corpus = Objects.open(tmp_path / "curate/c0")
    note = json.loads(Retirement("c0", "c1", "asked to", {}, {}, {}, []).to_json())
    corpus.create(RETIRED_NAME, json.dumps({**note, "successor": successor}).encode())
    for read in (read_retirement, successor_of):
        with pytest.raises(CorruptObject, match=r"retired\.json: ValueError expected a successor beside it"):
            read(corpus)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_records_and_notes_are_read_by_plain_names(name: str, tmp_path: Path) -> None:
    workspace = Objects.open(tmp_path / "w")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/start.json").write_text("{}")
    (tmp_path / "secret.json").write_text('{"seconds": 1, "num_starts": 1}')
    with pytest.raises(UsageError, match="object key"):
        read_run(workspace, name)
    assert read_note(workspace.child("notes"), name) is None


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors"])
def test_an_index_of_weights_names_files_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(SailloftError, match="object key"):
        read_weights(Objects.open(folder))
