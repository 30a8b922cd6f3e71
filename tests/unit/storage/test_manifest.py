from __future__ import annotations

import uuid

import pytest

from storage.errors import CorruptObject, ManifestConflict, ObjectNotFound
from storage.keys import bytes_key
from storage.manifest import MANIFEST_NAME, FileEntry, Manifest, publish, read_manifest, verify_manifest
from storage.objects import Objects


@pytest.fixture
def objects() -> Objects:
    return Objects.open(f"memory://{uuid.uuid4().hex}/out")


def _manifest(*files: FileEntry, **changed: object) -> Manifest:
    values = {"kind": "corpus", "key": "k" * 64, "schema_version": 1, "recipe": {"lr": 0.1}, "inputs": {}, "facts": {}}
    return Manifest(**(values | changed), files=files)


def test_json_is_canonical_and_round_trips() -> None:
    first, second = FileEntry.of("b", b"22", 3), FileEntry.of("a", b"1")
    manifest = _manifest(first, second, facts={"z": 1, "a": {"c": None}})
    data = manifest.to_json()
    assert data == _manifest(second, first, facts={"a": {"c": None}, "z": 1}).to_json()
    assert Manifest.from_json(data) == _manifest(second, first, facts={"z": 1, "a": {"c": None}})
    assert data.startswith(b'{"facts":{"a":{"c":null},"z":1},"files":[{"path":"a","rows":null,"sha256":"')
    assert first == FileEntry("b", 2, bytes_key(b"22"), 3)
    assert manifest.file("b") is first
    with pytest.raises(KeyError, match="c"):
        manifest.file("c")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        _manifest().to_json().replace(b'"key":"', b'"kez":"'),
        _manifest().to_json().replace(b'"schema_version":1', b'"schema_version":"1"'),
        _manifest().to_json().replace(b'"files":[]', b'"files":[{"path":1,"size_bytes":1,"sha256":"","rows":null}]'),
        _manifest().to_json().replace(b'"files":[]', b'"files":[{"path":"a"}]'),
        _manifest().to_json().replace(b'"files":[]', b'"files":[3]'),
    ],
)
def test_what_is_no_manifest_is_refused(objects: Objects, data: bytes) -> None:
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.from_json(data)
    objects.create(MANIFEST_NAME, data)
    with pytest.raises(CorruptObject, match=r"manifest\.json: not a manifest"):
        read_manifest(objects)


def test_a_conflict_names_what_differs(objects: Objects) -> None:
    publish(objects, _manifest(FileEntry.of("a", b"1"), FileEntry.of("b", b"1")))
    with pytest.raises(ManifestConflict, match=r"recipe, files b, c differ; raise the step's VERSION"):
        publish(objects, _manifest(FileEntry.of("a", b"1"), FileEntry.of("c", b"1"), recipe={"lr": 0.2}))


def test_a_conflict_with_rubbish(objects: Objects) -> None:
    objects.create(MANIFEST_NAME, b"{")
    with pytest.raises(ManifestConflict, match="it can't be read"):
        publish(objects, _manifest())


def test_verify_names_the_first_wrong_file(objects: Objects) -> None:
    with pytest.raises(ObjectNotFound, match="absent or incomplete"):
        verify_manifest(objects)
    objects.create("a", b"1")
    manifest = publish(objects, _manifest(FileEntry.of("a", b"1"), FileEntry.of("b", b"22")))
    with pytest.raises(CorruptObject, match="out/b: listed in the manifest but missing"):
        verify_manifest(objects)
    objects.create("b", b"23")
    with pytest.raises(CorruptObject, match="out/b: expected 2 bytes with SHA-256"):
        verify_manifest(objects)
    objects.put("b", b"22")
    assert verify_manifest(objects) == manifest
