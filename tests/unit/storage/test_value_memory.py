"""Features are read straight into the place that they have in a batch."""

from __future__ import annotations

import uuid
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from storage.features import BufferRing, FeatureStore, StackedMemory
from storage.objects import Objects
from storage.testing import example_features, publish_example_part


@pytest.fixture(params=["file", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(tmp_path if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def alike(store: FeatureStore, image_ids: list[str]) -> list[list[int]]:
    """Positions of the images of each grid."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, extent in enumerate(store.extents(image_ids)):
        groups[extent].append(position)
    return list(groups.values())


@pytest.mark.parametrize("encoding", ["raw16", "int8", "klt"])
def test_what_is_read_is_stacked_already(objects: Objects, encoding: str) -> None:
    publish_example_part(objects, "part", example_features(), encoding)
    store = FeatureStore.open(objects)
    image_ids = sorted(store, reverse=True)  # neither the order of the store nor that of its shards
    groups = alike(store, image_ids)
    assert max(map(len, groups)) > 1
    memory = StackedMemory(groups)
    features = store.read_stored(image_ids, memory=memory)
    for number, group in enumerate(groups):
        own = [features[position] for position in group]
        stacked = memory.stacked(number, own)
        assert all(np.shares_memory(stacked, feature.values) for feature in own)
        plain = store.read_stored([image_ids[position] for position in group])
        np.testing.assert_array_equal(stacked, np.stack([feature.values for feature in plain]))
        stacked[:] = 0  # nobody else's memory lies between
    for before, after in zip(store.read_stored(image_ids), features, strict=True):
        assert before.values.shape == after.values.shape
        assert not after.values.any()


def test_an_image_that_is_named_twice_is_copied(objects: Objects) -> None:
    publish_example_part(objects, "part", example_features(), "int8")
    store = FeatureStore.open(objects)
    memory = StackedMemory([[0, 1, 2]])
    image_ids = ["image0", "image0", "image0"]
    features = store.read_stored(image_ids, memory=memory)
    stacked = memory.stacked(0, features)
    np.testing.assert_array_equal(stacked, np.stack([store.read_stored(["image0"])[0].values] * 3))


def test_a_ring_is_used_again(objects: Objects) -> None:
    publish_example_part(objects, "part", example_features(), "klt")
    store, ring = FeatureStore.open(objects), BufferRing(2)
    image_ids = list(store)
    pair = [image_ids[position] for position in max(alike(store, image_ids), key=len)[:2]]  # of one size
    assert len(pair) == 2
    first = store.read_stored(pair, memory=ring)
    kept = [feature.values.copy() for feature in first]
    again = store.read_stored(pair, memory=ring)
    for feature, values in zip(again, kept, strict=True):
        np.testing.assert_array_equal(feature.values, values)
        assert any(np.shares_memory(feature.values, before.values) for before in first)
