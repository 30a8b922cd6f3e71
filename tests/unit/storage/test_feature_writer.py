"""What the writer refuses; what it promises is in tests/contract/test_features.py."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from storage.codecs import codec_of
from storage.errors import CorruptObject, ManifestConflict
from storage.features import (
    FeatureRow,
    FeatureStore,
    PartDescription,
    part_objects,
    plan_rows,
    publish_part,
    write_part_metadata,
    write_shard,
)
from storage.objects import Objects

DESCRIPTION = PartDescription("teacher", "raw16", 2)
CODEC = codec_of("raw16")


@pytest.fixture
def store() -> Objects:
    return Objects.open(f"memory://{uuid.uuid4().hex}/features")


def _row(image_id: str, height: int = 2, width: int = 3, num_channels: int = 2) -> FeatureRow:
    return FeatureRow(image_id, height, width, np.ones((num_channels, height, width), np.float32))


def test_rows_must_fit_the_plan(store: Objects) -> None:
    array = plan_rows([("a", 2, 3), ("b", 3, 2)], 2, 2).arrays[0]
    with pytest.raises(ValueError, match="shard 0 of l6: expected 2 rows, got 1"):
        write_shard(store, array, 0, [_row("a")], CODEC)
    with pytest.raises(ValueError, match="a grid of 2x2 doesn't belong in l6"):
        write_shard(store, array, 0, [_row("a"), _row("b", 2, 2)], CODEC)
    with pytest.raises(ValueError, match=r"expected features of shape \(2, 3, 2\), got \(3, 3, 2\)"):
        write_shard(store, array, 0, [_row("a"), _row("b", 3, 2, 3)], CODEC)
    assert list(store.list()) == []


def test_other_metadata_under_one_key(store: Objects) -> None:
    plan = plan_rows([("a", 2, 3)], 2, 2)
    write_part_metadata(store, plan, DESCRIPTION, CODEC)
    write_part_metadata(store, plan, DESCRIPTION, CODEC)
    with pytest.raises(ManifestConflict, match=r"l6/zarr\.json: other metadata|zarr\.json: other metadata"):
        write_part_metadata(store, plan, PartDescription("teacher", "int8", 2), codec_of("int8"))


def test_shards_of_other_images_are_refused(store: Objects) -> None:
    plan = plan_rows([("a", 2, 3)], 2, 2)
    part = part_objects(store, "p")
    write_part_metadata(part, plan, DESCRIPTION, CODEC)
    write_shard(part, plan.arrays[0], 0, [_row("other")], CODEC)
    with pytest.raises(CorruptObject, match="l6/c/0/0/0: holds other images than planned"):
        publish_part(store, "p", plan, DESCRIPTION, CODEC, recipe={}, inputs={})
    assert FeatureStore.open(store, absent_ok=True).snapshot is None


@pytest.mark.parametrize("position", [0, 30, -1])
def test_a_shard_torn_before_publication_is_found(store: Objects, position: int) -> None:
    """An earlier run's shard is read whole and verified, chunks too."""
    plan = plan_rows([("a", 2, 3)], 2, 2)
    part = part_objects(store, "p")
    write_part_metadata(part, plan, DESCRIPTION, CODEC)
    entry = write_shard(part, plan.arrays[0], 0, [_row("a")], CODEC).entry
    data = bytearray(part.read(entry.path))
    data[position] ^= 1
    part.put(entry.path, bytes(data))
    with pytest.raises(CorruptObject, match=r"l6/c/0/0/0: .*delete it and run teach again"):
        publish_part(store, "p", plan, DESCRIPTION, CODEC, recipe={}, inputs={})


def test_an_empty_part(store: Objects) -> None:
    plan = plan_rows([], 2, 2)
    write_part_metadata(part_objects(store, "p"), plan, DESCRIPTION, CODEC)
    manifest = publish_part(store, "p", plan, DESCRIPTION, CODEC, recipe={}, inputs={})
    assert manifest.facts["num_images"] == 0
    assert len(FeatureStore.open(store)) == 0


def test_a_part_published_but_not_yet_live_becomes_live(store: Objects) -> None:
    """A crash between manifest and index is mended by publishing again."""
    plan = plan_rows([("a", 2, 3)], 2, 2)
    part = part_objects(store, "p")
    write_part_metadata(part, plan, DESCRIPTION, CODEC)
    write_shard(part, plan.arrays[0], 0, [_row("a")], CODEC)
    publish_part(store, "p", plan, DESCRIPTION, CODEC, recipe={}, inputs={})
    store.delete("index/00000001.json")
    assert FeatureStore.open(store, absent_ok=True).missing(["a"]) == ["a"]
    publish_part(store, "p", plan, DESCRIPTION, CODEC, recipe={}, inputs={})
    assert FeatureStore.open(store).missing(["a"]) == []
