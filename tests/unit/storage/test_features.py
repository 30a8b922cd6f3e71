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


def test_a_shard_costs_one_tail_and_one_read_of_ranges(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("read_tail", "read_ranges", "read", "size"):

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
    assert calls == ["read_tail", "read_ranges"]
    features.read(["image2", "image0"])
    assert calls == ["read_tail", "read_ranges", "read_ranges"]


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
    number, ref = features._refs["image0"]
    features._refs["image9"] = (number, ref.__class__(**{name: getattr(ref, name) for name in ref.__slots__}))
    object.__setattr__(features._refs["image9"][1], "image_id", "image9")
    with pytest.raises(CorruptObject, match="row 0 isn't image image9, as the index says"):
        features.read(["image9"])


def test_the_cache_of_tails_is_bounded(store: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.features._CACHED_TAILS", 2)
    features = FeatureStore.open(store)
    ids = list(features)
    first = features.read(ids)
    assert len(features._tails) == 2
    for before, after in zip(first, features.read(ids), strict=True):
        np.testing.assert_array_equal(before, after)
