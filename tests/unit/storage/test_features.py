"""Details of the reader; what it promises is in tests/contract/test_features.py."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from storage.errors import CorruptObject
from storage.features import FeatureStore, open_features
from storage.objects import Objects
from storage.testing import example_features, publish_example_part


@pytest.fixture
def store() -> Objects:
    store = Objects.open(f"memory://{uuid.uuid4().hex}/features")
    publish_example_part(store, "part", example_features(), "int8")
    return store


def test_a_shard_costs_one_tail_and_each_image_one_read(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("read_tail", "read_buffers", "read", "size"):

        def counting(
            objects: Objects, *args: object, name: str = name, method: object = getattr(Objects, name)
        ) -> object:
            calls.append(name)
            return method(objects, *args)

        monkeypatch.setattr(Objects, name, counting)
    features = FeatureStore.open(store)
    assert calls == ["read"] * 4  # snapshot, manifest, group, rows
    calls.clear()
    features.read(["image0", "image2"])
    assert calls == ["read_tail", "read_buffers", "read_buffers"]
    calls.clear()
    features.read(["image2", "image0"])
    assert calls == ["read_buffers", "read_buffers"]


def test_reading_nothing(store: Objects) -> None:
    features = open_features(store)
    assert features.read([]) == []
    assert features.missing([]) == []


def test_it_is_a_mapping(store: Objects) -> None:
    features = open_features(store.url)
    assert len(features) == 7
    assert "image0" in features
    assert list(features)[:1] == ["image4"]
    with pytest.raises(KeyError, match="image5"):
        features["image5"]
    assert features.get("other") is None
    assert repr(features) == f"FeatureStore({store.url!r}, 7 images)"
    assert features.description is not None
    assert features.description.num_channels == 6
    assert [manifest.facts["num_rejected"] for manifest in features.manifests] == [1]


def test_an_index_that_names_another_image_is_found(store: Objects) -> None:
    features = FeatureStore.open(store)
    index = features._index
    position = int(index.find(["image0"])[0])
    index.row[position] = index.row[index.find(["image4"])[0]]
    index.array[position] = index.array[index.find(["image4"])[0]]
    with pytest.raises(CorruptObject, match="row 0 isn't image image0, as the index says"):
        features.read(["image0"])


def test_the_cache_of_tails_is_bounded(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    features = FeatureStore.open(store)
    ids = list(features)
    features.read(ids)
    assert len(features._tails) == 4
    assert features._tail_bytes == sum(tail.size_bytes for tail in features._tails.values())
    monkeypatch.setattr("storage.features._CACHED_TAIL_BYTES", 1000)
    features = FeatureStore.open(store)
    first = features.read(ids)
    assert 1 <= len(features._tails) < 4
    assert features._tail_bytes <= 1000
    for before, after in zip(first, features.read(ids), strict=True):
        np.testing.assert_array_equal(before, after)


def test_scanning_takes_one_read_per_shard(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    features = FeatureStore.open(store)
    calls: list[str] = []
    read_buffer = Objects.read_buffer

    def counting(objects: Objects, key: str) -> memoryview:
        calls.append(key)
        return read_buffer(objects, key)

    monkeypatch.setattr(Objects, "read_buffer", counting)
    for name in ("read_tail", "read_buffers", "read"):
        monkeypatch.delattr(Objects, name)
    found = list(features.scan())
    assert len(calls) == len(set(calls)) == len(set(features.shard_numbers(list(features)).tolist())) == 4
    assert [image_id for image_id, _ in found] == list(features)
    monkeypatch.undo()
    for image_id, feature in found:
        np.testing.assert_array_equal(feature.dequantise(), features[image_id])
    some = [image_id for image_id, _ in features.scan(["image7", "image4", "image0"])]
    assert some == ["image4", "image0", "image7"]


def test_a_scan_may_be_left(store: Objects) -> None:
    features = FeatureStore.open(store)
    scan = features.scan()
    image_id, _ = next(scan)
    scan.close()
    assert image_id == next(iter(features))
    assert list(scan) == []
    assert len(list(features.scan())) == 7


def test_shard_numbers_tell_which_images_one_read_gives(store: Objects) -> None:
    features = FeatureStore.open(store)
    ids = list(features)
    numbers = features.shard_numbers(ids).tolist()
    refs = [features.ref(image_id) for image_id in ids]
    arrays = features.parts[0].arrays
    places = [(ref.array, ref.row // arrays[ref.array].rows_per_shard) for ref in refs]
    assert len(set(places)) == 4
    for one in range(len(ids)):
        for other in range(len(ids)):
            assert (numbers[one] == numbers[other]) == (places[one] == places[other])
