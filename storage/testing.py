"""Contract suites: subclass one, give it its fixture, and the implementation has to keep the contract.

class TestLocalObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path):
        return Objects.open(tmp_path / "store")
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytest

from storage.calibration import TIERS, CalibrationSample
from storage.codecs import Codec, codec_of
from storage.errors import (
    CorruptObject,
    InfrastructureError,
    ManifestConflict,
    MissingFeature,
    ObjectNotFound,
    UsageError,
)
from storage.feature_index import read_snapshot
from storage.features import (
    FeatureRow,
    FeatureStore,
    PartDescription,
    PartPlan,
    part_objects,
    plan_rows,
    publish_part,
    write_part_metadata,
    write_shard,
    written_shards,
)
from storage.klt import KltCodec
from storage.manifest import FileEntry, Manifest, publish, read_manifest, verify_manifest
from storage.objects import ObjectInfo, Objects

__all__ = ["FeatureStoreContract", "ObjectStoreContract", "example_codec", "example_features", "publish_example_part"]


class ObjectStoreContract:
    """What `Objects` promises on every kind of store.

    A subclass has a fixture `objects`: an empty prefix, a new one for each test.
    """

    def test_reads_what_was_created(self, objects: Objects) -> None:
        assert objects.create("a/b.bin", b"0123456789")
        assert objects.read("a/b.bin") == b"0123456789"
        assert objects.size("a/b.bin") == 10
        assert objects.exists("a/b.bin")

    def test_create_never_overwrites(self, objects: Objects) -> None:
        assert objects.create("a", b"first")
        assert not objects.create("a", b"second, longer")
        assert objects.read("a") == b"first"

    def test_of_many_creators_one_wins(self, objects: Objects) -> None:
        bodies = [bytes([number]) * 10_000 for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(lambda body: objects.create("contested", body), bodies))
        assert created.count(True) == 1
        assert objects.read("contested") == bodies[created.index(True)]
        assert list(objects.list()) == [ObjectInfo("contested", 10_000)]

    def test_put_overwrites(self, objects: Objects) -> None:
        objects.put("a", b"first")
        objects.put("a", b"2")
        assert objects.read("a") == b"2"

    def test_empty_object(self, objects: Objects) -> None:
        assert objects.create("empty", b"")
        assert objects.read("empty") == b""
        assert objects.read_tail("empty", 5) == b""
        assert objects.read_range("empty", 0, 0) == b""
        assert objects.size("empty") == 0

    def test_large_object(self, objects: Objects) -> None:
        data = np.random.default_rng(0).bytes(9 * 2**20)
        assert objects.create("large", data)
        assert not objects.create("large", b"")
        assert objects.read("large") == data

    def test_ranges_come_in_the_order_asked_for(self, objects: Objects) -> None:
        objects.create("a", b"0123456789")
        assert objects.read_range("a", 3, 4) == b"3456"
        assert objects.read_ranges("a", [(8, 2), (0, 1), (4, 0), (0, 3)]) == [b"89", b"0", b"", b"012"]
        assert objects.read_ranges("a", []) == []

    @pytest.mark.parametrize("span", [(8, 3), (20, 1)])
    def test_range_past_the_end_is_corrupt(self, objects: Objects, span: tuple[int, int]) -> None:
        objects.create("a", b"0123456789")
        with pytest.raises(CorruptObject, match="found 10"):
            objects.read_ranges("a", [(0, 2), span])

    def test_tail(self, objects: Objects) -> None:
        objects.create("a", b"0123456789")
        assert objects.read_tail("a", 3) == b"789"
        assert objects.read_tail("a", 100) == b"0123456789"
        assert objects.read_tail("a", 0) == b""

    @pytest.mark.parametrize(
        "read",
        [
            lambda objects: objects.read("no/such"),
            lambda objects: objects.size("no/such"),
            lambda objects: objects.read_range("no/such", 0, 1),
            lambda objects: objects.read_tail("no/such", 1),
        ],
        ids=["read", "size", "read_range", "read_tail"],
    )
    def test_absent_object(self, objects: Objects, read: Callable[[Objects], object]) -> None:
        with pytest.raises(ObjectNotFound, match="no/such: no such object"):
            read(objects)
        objects.create("no/other", b"1")
        with pytest.raises(ObjectNotFound, match="no/such: no such object"):
            read(objects)
        assert not objects.exists("no/such")

    def test_delete(self, objects: Objects) -> None:
        objects.create("a", b"1")
        objects.delete("a")
        objects.delete("a")
        assert not objects.exists("a")
        assert objects.create("a", b"2")

    def test_delete_many(self, objects: Objects) -> None:
        for key in ("a", "b/1", "b/2", "c"):
            objects.create(key, b"1")
        objects.delete_many(["b/2", "absent", "a", "b/absent/too"])
        assert [info.key for info in objects.list()] == ["b/1", "c"]
        objects.delete_many([])

    def test_list_is_sorted_and_by_whole_segments(self, objects: Objects) -> None:
        assert list(objects.list()) == []
        assert list(objects.list("x")) == []
        for key in ("x/b", "x/a/2", "x/a/10", "xy/c", "top"):
            objects.create(key, key.encode())
        assert [info.key for info in objects.list()] == ["top", "x/a/10", "x/a/2", "x/b", "xy/c"]
        assert list(objects.list("x")) == [ObjectInfo("x/a/10", 6), ObjectInfo("x/a/2", 5), ObjectInfo("x/b", 3)]
        assert [info.key for info in objects.list("x/")] == ["x/a/10", "x/a/2", "x/b"]

    def test_folders_are_the_first_level(self, objects: Objects) -> None:
        """Names of folders right below, each once; neither files nor what lies deeper."""
        assert objects.folders() == objects.folders("a") == []
        for key in ("a/b/1", "a/b/c/2", "a/d/3", "a/4", "ab/e/5"):
            objects.create(key, b"")
        assert objects.folders("a") == objects.folders("a/") == ["b", "d"]
        assert objects.child("a").folders() == ["b", "d"]
        assert objects.folders() == ["a", "ab"]
        assert objects.folders("a/d") == []

    def test_list_of_many(self, objects: Objects) -> None:
        keys = [f"many/{number:04d}" for number in range(1100)]  # more than one page of S3
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda key: objects.create(key, b"1"), keys))
        assert [info.key for info in objects.list("many")] == keys

    def test_child_is_a_prefix(self, objects: Objects) -> None:
        child = objects.child("deep/er")
        child.create("a", b"1")
        assert objects.read("deep/er/a") == b"1"
        assert [info.key for info in child.list()] == ["a"]
        assert child == Objects.open(child.url) == objects.child("deep").child("er")
        assert hash(child) == hash(Objects.open(child.url))

    def test_survives_pickling(self, objects: Objects) -> None:
        objects.create("a", b"1")
        copy = pickle.loads(pickle.dumps(objects))
        assert copy == objects
        assert copy.read("a") == b"1"

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\0b"])
    def test_refuses_unsafe_keys(self, objects: Objects, key: str) -> None:
        with pytest.raises(UsageError, match="object key"):
            objects.create(key, b"1")
        with pytest.raises(UsageError, match="object key"):
            objects.read(key)

    def test_manifest_is_published_once(self, objects: Objects) -> None:
        objects.create("a.bin", b"12345")
        files = (FileEntry.of("a.bin", b"12345", 2),)
        manifest = Manifest("test", "k", 1, {"lr": 0.5}, {"corpus": "c"}, files, {"n": 1})
        assert read_manifest(objects) is None
        assert publish(objects, manifest) == manifest
        assert publish(objects, manifest) == manifest
        assert read_manifest(objects) == verify_manifest(objects) == manifest
        with pytest.raises(ManifestConflict, match="facts differ"):
            publish(objects, Manifest("test", "k", 1, {"lr": 0.5}, {"corpus": "c"}, files, {"n": 2}))
        objects.put("a.bin", b"12346")
        with pytest.raises(CorruptObject, match=r"a\.bin: expected 5 bytes"):
            verify_manifest(objects)


_SHAPES = [(4, 5), (7, 9), (4, 5), (9, 7), (1, 1), (8, 8), (4, 5), (6, 11)]
_REJECTED = 5  # position of the image on which the teacher failed


def example_features(num_channels: int = 6) -> list[FeatureRow]:
    """Eight images of six shapes in four size classes, one of them rejected, some with outliers."""
    generator = np.random.default_rng(7)
    rows: list[FeatureRow] = []
    for number, (height, width) in enumerate(_SHAPES):
        values = generator.normal(size=(num_channels, height, width)).astype(np.float32)
        values *= generator.uniform(0.1, 10, size=(num_channels, 1, 1)).astype(np.float32)
        if height * width > 1:
            values[number % num_channels, 0, 1] += 200
        rejected = number == _REJECTED
        rows.append(FeatureRow(f"image{number}", height, width, None if rejected else values, "poison" * rejected))
    return rows


@lru_cache(maxsize=8)
def example_codec(name: str, num_channels: int = 6) -> Codec:
    """A codec by the name that recipes give; `klt` is calibrated on the example features."""
    if name not in TIERS:
        return codec_of(name)
    sample = CalibrationSample()
    for row in example_features(num_channels):
        if row.values is not None:
            sample.add(row.values)
    return KltCodec(sample.fit(TIERS[name]))


def publish_example_part(
    store: Objects, part_key: str, rows: Sequence[FeatureRow], encoding: str, *, fingerprint: str = "teacher"
) -> tuple[PartPlan, Manifest]:
    """Writes and publishes one part with these rows, in shards of at most two images or so."""
    num_channels = 6
    codec = example_codec(encoding)
    plan = plan_rows(
        [(row.image_id, row.height, row.width) for row in rows],
        num_channels,
        codec.dtype.itemsize,
        max_shard_bytes=2 * 64 * num_channels * codec.dtype.itemsize,
    )
    description = PartDescription(fingerprint, codec.encoding, num_channels, {"stride": 4})
    part = part_objects(store, part_key)
    write_part_metadata(part, plan, description, codec)
    by_id = {row.image_id: row for row in rows}
    entries = {
        shard.key: write_shard(
            part, shard.array, shard.index, [by_id[planned.image_id] for planned in shard.rows], codec
        )
        for shard in plan.shards()
    }
    manifest = publish_part(store, part_key, plan, description, codec, recipe={}, inputs={}, written=entries)
    return plan, manifest


class FeatureStoreContract:
    """What the feature store promises on every kind of object store and with every encoding.

    A subclass has the fixtures `store`, an empty prefix, and `encoding`, a codec's name.
    """

    def test_reads_back_every_image(self, store: Objects, encoding: str) -> None:
        rows = example_features()
        publish_example_part(store, "part", rows, encoding)
        features = FeatureStore.open(store)
        wanted = [row for row in reversed(rows) if row.values is not None]
        found = features.read([row.image_id for row in wanted])
        for row, values in zip(wanted, found, strict=True):
            assert values.dtype == np.float32
            assert values.shape == (6, row.height, row.width)
            assert row.values is not None
            _assert_close(values, row.values, encoding)
            np.testing.assert_array_equal(features[row.image_id], values)
        assert set(features) == {row.image_id for row in wanted}
        features.verify()

    def test_stored_values_dequantise_to_what_read_gives(self, store: Objects, encoding: str) -> None:
        publish_example_part(store, "part", example_features(), encoding)
        features = FeatureStore.open(store)
        ids = ["image3", "image0", "image3"]
        for stored, values in zip(features.read_stored(ids), features.read(ids), strict=True):
            assert stored.values.dtype == example_codec(encoding).dtype
            assert stored.values.shape == (6, stored.height * stored.width)
            assert stored.values.flags.writeable
            np.testing.assert_array_equal(stored.dequantise(), values)

    def test_rejected_images_are_absent_but_known(self, store: Objects, encoding: str) -> None:
        _, manifest = publish_example_part(store, "part", example_features(), encoding)
        features = FeatureStore.open(store)
        assert features.rejected == {"image5": "poison"}
        assert "image5" not in features
        assert features.missing(["image5", "image0", "other"]) == ["image5", "other"]
        with pytest.raises(MissingFeature, match="first image5, rejected: poison"):
            features.read(["image0", "image5"])
        assert (manifest.facts["num_images"], manifest.facts["num_rejected"]) == (7, 1)

    def test_refs_tell_where_features_lie(self, store: Objects, encoding: str) -> None:
        plan, _ = publish_example_part(store, "part", example_features(), encoding)
        ref = FeatureStore.open(store).ref("image3")
        assert (ref.part, ref.array, ref.height, ref.width) == ("part", "l64", 9, 7)
        assert [array.name for array in plan.arrays] == ["l1", "l20", "l64", "l67"]
        assert plan.rows[2][ref.row].image_id == "image3"

    def test_parts_add_up_and_snapshots_stay(self, store: Objects, encoding: str) -> None:
        rows = example_features()
        publish_example_part(store, "one", rows[:3], encoding)
        pinned = FeatureStore.open(store)
        publish_example_part(store, "two", rows[3:], encoding)
        both = FeatureStore.open(store)
        assert len(pinned) == 3
        assert len(both) == 7
        assert {ref.part for ref in both.refs.values()} == {"one", "two"}
        assert len(FeatureStore.open(store, snapshot=1)) == 3
        _assert_close(both["image7"], rows[7].values, encoding)

    def test_an_image_rejected_once_can_come_later(self, store: Objects, encoding: str) -> None:
        rows = example_features()
        publish_example_part(store, "one", rows, encoding)
        again = FeatureRow("image5", 8, 8, np.ones((6, 8, 8), np.float32))
        publish_example_part(store, "two", [again], encoding)
        features = FeatureStore.open(store)
        assert features.rejected == {}
        _assert_close(features["image5"], again.values, encoding)

    def test_publishing_again_changes_nothing(self, store: Objects, encoding: str) -> None:
        rows = example_features()
        first = publish_example_part(store, "part", rows, encoding)
        listed = list(store.list())
        assert publish_example_part(store, "part", rows, encoding) == first
        assert list(store.list()) == listed

    def test_what_is_written_counts(self, store: Objects, encoding: str) -> None:
        """A repeated task that computed other bits doesn't change, or describe, what stands there."""
        rows = example_features()
        plan, first = publish_example_part(store, "part", rows, encoding)
        shard = next(shard for shard in plan.shards() if shard.rows[0].image_id == "image1")
        part = part_objects(store, "part")
        others = [FeatureRow(row.image_id, row.height, row.width, None, "late") for row in shard.rows]
        written = write_shard(part, shard.array, shard.index, others, example_codec(encoding))
        assert written.entry == first.file(shard.key)
        assert not written.rejected

    def test_resumes_by_listing(self, store: Objects, encoding: str) -> None:
        rows = example_features()
        plan, first = publish_example_part(store.child("whole"), "part", rows, encoding)
        resumed, by_id = store.child("resumed"), {row.image_id: row for row in rows}
        codec = example_codec(encoding)
        part, description = part_objects(resumed, "part"), PartDescription("teacher", codec.encoding, 6, {"stride": 4})
        assert written_shards(part) == frozenset()
        shards = list(plan.shards())
        for shard in shards[::2]:
            write_shard(part, shard.array, shard.index, [by_id[row.image_id] for row in shard.rows], codec)
        write_part_metadata(part, plan, description, codec)
        assert written_shards(part) == {shard.key for shard in shards[::2]}
        with pytest.raises(InfrastructureError, match="shards are missing"):
            publish_part(resumed, "part", plan, description, codec, recipe={}, inputs={})
        assert FeatureStore.open(resumed, absent_ok=True).missing(["image0"]) == ["image0"]
        for shard in shards[1::2]:
            write_shard(part, shard.array, shard.index, [by_id[row.image_id] for row in shard.rows], codec)
        assert publish_part(resumed, "part", plan, description, codec, recipe={}, inputs={}) == first
        assert _bytes_of(resumed) == _bytes_of(store.child("whole"))

    def test_racing_publications_both_become_live(self, store: Objects, encoding: str) -> None:
        rows = [row for row in example_features() if row.values is not None]
        with ThreadPoolExecutor(len(rows)) as pool:
            list(pool.map(lambda row: publish_example_part(store, f"part-{row.image_id}", [row], encoding), rows))
        features = FeatureStore.open(store)
        assert sorted(features) == [row.image_id for row in rows]
        snapshot = read_snapshot(store)
        assert snapshot is not None
        assert snapshot.number == len(rows)

    def test_a_store_is_of_one_teacher(self, store: Objects, encoding: str) -> None:
        rows = example_features()
        publish_example_part(store, "one", rows[:2], encoding)
        with pytest.raises(UsageError, match="give each teacher and encoding its own store"):
            publish_example_part(store, "two", rows[2:], encoding, fingerprint="another")
        assert sorted(FeatureStore.open(store)) == ["image0", "image1"]

    def test_survives_pickling(self, store: Objects, encoding: str) -> None:
        rows = example_features()
        publish_example_part(store, "one", rows[:3], encoding)
        features = FeatureStore.open(store)
        data = pickle.dumps(features)
        publish_example_part(store, "two", rows[3:], encoding)
        copy = pickle.loads(data)
        assert copy.refs == features.refs
        np.testing.assert_array_equal(copy["image1"], features["image1"])

    def test_absent_store(self, store: Objects, encoding: str) -> None:
        with pytest.raises(ObjectNotFound, match="run teach first"):
            FeatureStore.open(store)
        empty = FeatureStore.open(store, absent_ok=True)
        assert len(empty) == 0
        assert empty.description is None
        with pytest.raises(MissingFeature, match="first a; run teach"):
            empty.read(["a"])

    @pytest.mark.parametrize("position", ["first", "chunk", "block", "magic", "index", "last"])
    def test_a_flipped_bit_is_found(self, store: Objects, encoding: str, position: str) -> None:
        plan, _ = publish_example_part(store, "part", example_features(), encoding)
        part = part_objects(store, "part")
        shard = next(shard for shard in plan.shards() if shard.rows[0].image_id == "image1")
        data = bytearray(part.read(shard.key))
        tail = 16 * shard.array.rows_per_shard + 4
        spot = {"first": 0, "chunk": 70, "block": -tail - 40, "magic": -tail - 20, "index": -tail, "last": -1}[position]
        data[spot] ^= 4
        part.put(shard.key, bytes(data))
        features = FeatureStore.open(store)
        with pytest.raises(CorruptObject, match=rf"feature store .*, shard part/{shard.key}: "):
            features.read(["image1"])
        with pytest.raises(CorruptObject, match=shard.key):
            features.verify()
        assert features.read(["image0"])[0].shape == (6, 4, 5)

    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
    def test_a_torn_shard_is_found(self, store: Objects, encoding: str, kept: float) -> None:
        plan, _ = publish_example_part(store, "part", example_features(), encoding)
        part = part_objects(store, "part")
        shard = next(shard for shard in plan.shards() if shard.rows[0].image_id == "image1")
        data = part.read(shard.key)
        part.put(shard.key, data[: int(len(data) * kept)])
        with pytest.raises(CorruptObject, match=rf"shard part/{shard.key}: "):
            FeatureStore.open(store).read(["image0", "image1"])

    def test_a_missing_shard_is_found(self, store: Objects, encoding: str) -> None:
        plan, _ = publish_example_part(store, "part", example_features(), encoding)
        shard = next(shard for shard in plan.shards() if shard.rows[0].image_id == "image1")
        part_objects(store, "part").delete(shard.key)
        with pytest.raises(CorruptObject, match=rf"shard part/{shard.key}: missing"):
            FeatureStore.open(store).read(["image1"])

    @pytest.mark.parametrize("name", ["manifest.json", "zarr.json", "rows.parquet"])
    def test_changed_metadata_is_found(self, store: Objects, encoding: str, name: str) -> None:
        publish_example_part(store, "part", example_features(), encoding)
        part = part_objects(store, "part")
        part.put(name, part.read(name) + b" ")
        with pytest.raises(CorruptObject, match=rf"part/{name}: expected SHA-256"):
            FeatureStore.open(store)
        part.delete(name)
        with pytest.raises(CorruptObject, match=rf"part/{name}: missing"):
            FeatureStore.open(store)

    def test_an_unholdable_value_rejects_its_image(self, store: Objects, encoding: str) -> None:
        rows = example_features()[:2]
        assert rows[1].values is not None
        rows[1].values[0, 0, 0] = np.nan
        publish_example_part(store, "part", rows, encoding)
        features = FeatureStore.open(store)
        assert sorted(features) == ["image0"]
        assert "1 of 378 values are not finite" in features.rejected["image1"]


def _assert_close(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32] | None, encoding: str) -> None:
    assert expected is not None
    if encoding == "raw16":
        np.testing.assert_array_equal(found, expected.astype(np.float16).astype(np.float32))
        return
    if encoding == "klt":
        # In a rotated channel half a step and the dead zone: 0.06 of the image's deviation; by 6 channels.
        variance = expected.reshape(len(expected), -1).var(axis=1).mean()
        assert ((found - expected) ** 2).mean() <= 2e-3 * max(variance, 1.0)
        return
    # Half a step of the coarsest channel: 12 sigma / 254 / 2, with room for the sigma of few values.
    spread = expected.reshape(len(expected), -1).std(axis=1).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * spread + 1e-6)


def _bytes_of(objects: Objects) -> dict[str, bytes]:
    return {info.key: objects.read(info.key) for info in objects.list()}
