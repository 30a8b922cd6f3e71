from __future__ import annotations

import uuid

import pytest

from storage.codecs import codec_of
from storage.errors import CorruptObject, ObjectNotFound, UnknownKind
from storage.feature_index import PartDescription, PartEntry, add_part, open_part, part_objects, read_snapshot
from storage.features import plan_rows, publish_part, write_part_metadata
from storage.keys import bytes_key, canonical_json
from storage.objects import Objects

DESCRIPTION = PartDescription("teacher", "int8", 4, {"stride": 16})
CODEC = codec_of("int8")


@pytest.fixture
def store() -> Objects:
    return Objects.open(f"memory://{uuid.uuid4().hex}/features")


def test_snapshots_are_numbered_and_keep_their_order(store: Objects) -> None:
    assert read_snapshot(store) is None
    entries = [PartEntry(f"p{number}", "0" * 64, number) for number in range(12)]
    for number, entry in enumerate(entries, start=1):
        assert add_part(store, DESCRIPTION, entry).number == number
    assert add_part(store, DESCRIPTION, entries[3]).number == 12
    newest = read_snapshot(store)
    assert newest is not None
    assert newest.parts == tuple(entries)
    assert newest.description == DESCRIPTION
    third = read_snapshot(store, 3)
    assert third is not None
    assert third.parts == tuple(entries[:3])
    with pytest.raises(ObjectNotFound, match=r"index/00000013\.json"):
        read_snapshot(store, 13)


def test_the_loser_of_a_race_builds_on_the_winner(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer takes the number between our reading and our writing."""
    create, rivals = Objects.create, [PartEntry("rival", "0" * 64, 1)]

    def contested(objects: Objects, key: str, data: bytes) -> bool:
        if rivals:
            add_part(store, DESCRIPTION, rivals.pop())
        return create(objects, key, data)

    monkeypatch.setattr(Objects, "create", contested)
    snapshot = add_part(store, DESCRIPTION, PartEntry("ours", "0" * 64, 1))
    assert [part.part for part in snapshot.parts] == ["rival", "ours"]
    assert snapshot.number == 2


def test_a_part_with_another_manifest_is_refused(store: Objects) -> None:
    add_part(store, DESCRIPTION, PartEntry("p", "0" * 64, 1))
    with pytest.raises(CorruptObject, match="part p is listed with another manifest"):
        add_part(store, DESCRIPTION, PartEntry("p", "1" * 64, 1))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"description":{"encoding":"raw16"},"parts":[{}]}'])
def test_an_unreadable_snapshot_is_named(store: Objects, data: bytes) -> None:
    store.create("index/00000001.json", data)
    with pytest.raises(CorruptObject, match=r"index/00000001\.json: not an index snapshot"):
        read_snapshot(store)


def test_an_encoding_of_a_later_version_is_named(store: Objects) -> None:
    add_part(store, PartDescription("teacher", "klt9", 4), PartEntry("p", "0" * 64, 1))
    with pytest.raises(UnknownKind, match="unknown feature encoding 'klt9'"):
        read_snapshot(store)


def test_other_files_in_the_index_are_ignored(store: Objects) -> None:
    store.create("index/notes.txt", b"")
    store.create("index/00000007.json.bak", b"")
    assert read_snapshot(store) is None


def test_a_group_of_another_layout_is_refused(store: Objects) -> None:
    plan = plan_rows([], 4, 1)
    part = part_objects(store, "p")
    write_part_metadata(part, plan, DESCRIPTION, CODEC)
    manifest = publish_part(store, "p", plan, DESCRIPTION, CODEC, recipe={}, inputs={})
    group = canonical_json({"zarr_format": 3, "node_type": "group", "attributes": {}})
    changed = manifest.to_json().replace(manifest.file("zarr.json").sha256.encode(), bytes_key(group).encode())
    part.put("zarr.json", group)
    part.put("manifest.json", changed)
    with pytest.raises(CorruptObject, match="not a part of this version: KeyError 'sailloft'"):
        open_part(store, PartEntry("p", bytes_key(changed), 0))
