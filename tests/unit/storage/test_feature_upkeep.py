"""Compaction, forgetting and the removal of what nobody needs."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from storage.errors import CorruptObject, MissingFeature, ObjectNotFound, UsageError
from storage.feature_index import read_snapshot, replace_parts
from storage.feature_upkeep import collect_garbage, compact
from storage.features import FeatureRow, FeatureStore
from storage.objects import Objects
from storage.testing import example_features, publish_example_part


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}/features")


@pytest.fixture(params=["raw16", "int8", "klt"])
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _publish_singly(store: Objects, encoding: str) -> list[FeatureRow]:
    rows = example_features()
    for number, row in enumerate(rows):
        publish_example_part(store, f"part{number}", [row], encoding)
    return rows


def _keys(store: Objects) -> set[str]:
    return {info.key for info in store.list()}


def test_small_parts_become_one_with_the_same_bytes(store: Objects, encoding: str) -> None:
    _publish_singly(store, encoding)
    before = FeatureStore.open(store)
    stored = dict(before.scan())
    seen: list[tuple[int, int]] = []
    done = compact(store, on_shard=lambda number, total: seen.append((number, total)))
    assert (len(done.retired), done.num_images, done.num_forgotten) == (8, 8, 0)
    assert seen == [(number, 4) for number in range(1, 5)]
    after = FeatureStore.open(store)
    after.verify()
    assert [part.key for part in after.parts] == [done.part]
    assert after.rejected == before.rejected == {"image5": "poison"}
    assert set(after) == set(before)
    for image_id, feature in after.scan():
        np.testing.assert_array_equal(feature.values, stored[image_id].values)
        np.testing.assert_array_equal(feature.scale, stored[image_id].scale)
        np.testing.assert_array_equal(feature.outlier_value, stored[image_id].outlier_value)
        assert feature.relative_mse == stored[image_id].relative_mse
    # Readers of an earlier snapshot go on.
    np.testing.assert_array_equal(before["image1"], after["image1"])
    assert after.manifests[0].facts["num_rejected"] == 1
    # There is nothing left to do.
    assert compact(store).part is None
    assert len(_keys(store)) == len(_keys(store))


def test_shards_are_filled_by_what_chunks_really_take(store: Objects) -> None:
    generator = np.random.default_rng(0)
    rows = [FeatureRow(f"{number}", 8, 8, generator.standard_normal((6, 8, 8), np.float32)) for number in range(30)]
    for row in rows:
        publish_example_part(store, f"part{row.image_id}", [row], "klt")
    compact(store, max_shard_bytes=4000)
    features = FeatureStore.open(store)
    (part,) = features.parts
    (array,) = part.arrays.values()
    assert array.num_rows == len(features) == 30
    # Random values take some 8 bits of the 16 that the integers have.
    assert 4000 / 768 < array.rows_per_shard < 4000 / 768 * 4


def test_full_parts_are_left_alone(store: Objects) -> None:
    publish_example_part(store, "one", example_features()[:3], "raw16")
    publish_example_part(store, "two", example_features()[3:], "raw16")
    before = _keys(store)
    assert compact(store, max_shard_bytes=100).part is None
    assert _keys(store) == before


def test_a_new_part_stands_where_the_first_old_one_stood(store: Objects) -> None:
    """So that the row that counted goes on to count."""
    rows = example_features()
    publish_example_part(store, "first", rows[:2], "raw16")
    publish_example_part(store, "second", rows[2:4], "raw16")
    other = [
        FeatureRow(row.image_id, row.height, row.width, np.zeros((6, row.height, row.width), np.float32))
        for row in rows[:2]
    ]
    publish_example_part(store, "double", other, "raw16")
    assert FeatureStore.open(store).ref("image0").part == "first"
    done = compact(store)
    features = FeatureStore.open(store)
    assert done.num_images == 4
    assert rows[0].values is not None
    np.testing.assert_array_equal(features["image0"], rows[0].values.astype(np.float16).astype(np.float32))


def test_forgotten_images_are_gone_and_may_come_again(store: Objects, encoding: str) -> None:
    rows = _publish_singly(store, encoding)
    publish_example_part(store, "double", rows[:1], encoding)
    done = compact(store, forget=["image0", "image5", "unheard-of"])
    assert (done.num_images, done.num_forgotten) == (6, 3)
    features = FeatureStore.open(store)
    assert features.rejected == {}
    with pytest.raises(MissingFeature, match="first image0; run teach"):
        features.read(["image0"])
    collect_garbage(store, older_than_s=0.0)
    assert not any(b"image0" in store.read(key) for key in _keys(store))
    features = FeatureStore.open(store)
    features.verify()
    assert len(features.read(sorted(features))) == 6
    publish_example_part(store, "again", rows[:1], encoding)
    assert "image0" in FeatureStore.open(store)


def test_a_store_may_be_emptied(store: Objects) -> None:
    publish_example_part(store, "one", example_features()[:2], "int8")
    done = compact(store, forget=["image0", "image1"])
    assert (done.part, done.num_forgotten) == (None, 2)
    features = FeatureStore.open(store)
    assert len(features) == 0
    assert features.description is not None


def test_only_parts_that_hold_a_forgotten_image_are_touched(store: Objects) -> None:
    publish_example_part(store, "one", example_features()[:3], "raw16")
    publish_example_part(store, "two", example_features()[3:], "raw16")
    done = compact(store, forget=["image1"], max_shard_bytes=100)
    assert done.retired == ("one",)
    assert [part.key for part in FeatureStore.open(store).parts] == [done.part, "two"]


def test_a_killed_compaction_is_continued(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish_singly(store, "klt")
    with monkeypatch.context() as patched:
        patched.setattr("storage.feature_upkeep.publish_part", _killed)
        with pytest.raises(KeyboardInterrupt):
            compact(store)
    before = FeatureStore.open(store)
    assert len(before.parts) == 8
    seen: list[int] = []
    compact(store, on_shard=lambda number, total: seen.append(number))
    assert seen == []
    assert len(FeatureStore.open(store).parts) == 1


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_damaged_chunk_is_not_copied(store: Objects) -> None:
    _publish_singly(store, "int8")
    part = FeatureStore.open(store).parts[1]
    key = next(file.path for file in part.manifest.files if "/c/" in file.path)
    data = bytearray(part.objects.read(key))
    data[0] ^= 1
    part.objects.put(key, bytes(data))
    with pytest.raises(CorruptObject, match=f"{part.key}/{key}: image .*: checksum of its chunk"):
        compact(store)
    assert len(FeatureStore.open(store).parts) == 8


def test_parts_replaced_meanwhile_are_not_replaced_again(store: Objects) -> None:
    _publish_singly(store, "int8")
    description = FeatureStore.open(store).description
    assert description is not None
    replace_parts(store, description, ["part1"], None)
    with pytest.raises(UsageError, match="part part1 is live no longer"):
        replace_parts(store, description, ["part0", "part1"], None)
    snapshot = read_snapshot(store)
    assert snapshot is not None
    assert len(snapshot.parts) == 7


def test_an_absent_store(store: Objects) -> None:
    with pytest.raises(ObjectNotFound, match="run teach first"):
        compact(store)
    assert collect_garbage(store, older_than_s=0.0).keys == ()


def test_garbage_is_what_no_snapshot_needs(store: Objects) -> None:
    publish_example_part(store, "one", example_features()[:2], "int8")
    publish_example_part(store, "two", example_features()[2:4], "int8")
    publish_example_part(store, "three", example_features()[4:], "int8")
    live = _keys(store)
    done = compact(store)
    live = {key for key in live | _keys(store) if not key.startswith(("parts/one", "parts/two", "parts/three"))}
    for orphan in ("parts/orphan/l4/c/0/0/0", f"parts/{done.part}/l64/c/9/0/0", "leases/old.json"):
        store.create(orphan, b"left by a killed run")
    assert collect_garbage(store, older_than_s=3600.0).keys == ()
    would = collect_garbage(store, older_than_s=0.0, dry_run=True)
    assert "parts/orphan/l4/c/0/0/0" in _keys(store)
    found = collect_garbage(store, older_than_s=0.0)
    assert found == would
    assert _keys(store) == live
    assert found.size_bytes > 60
    FeatureStore.open(store).verify()


def test_a_retired_part_is_as_old_as_its_retirement(tmp_path: Path) -> None:
    store = Objects.open(tmp_path)
    for name, rows in (("one", example_features()[:2]), ("two", example_features()[2:])):
        publish_example_part(store, name, rows, "int8")
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 10_000,) * 2)
    compact(store)
    assert collect_garbage(store, older_than_s=5_000.0).keys == ()
    for path in (tmp_path / "index").iterdir():
        os.utime(path, (time.time() - 6_000,) * 2)
    assert len(collect_garbage(store, older_than_s=5_000.0).keys) > 10


def test_unfinished_local_files_are_removed(tmp_path: Path) -> None:
    store = Objects.open(tmp_path)
    publish_example_part(store, "one", example_features(), "int8")
    unfinished = tmp_path / "parts" / "one" / "l64" / "c" / "0" / "0" / "0#123"
    unfinished.write_bytes(b"half")
    assert collect_garbage(store, older_than_s=60.0).keys == ()
    assert collect_garbage(store, older_than_s=0.0).keys == ("parts/one/l64/c/0/0/0#123",)
    assert not unfinished.exists()
