"""A store that one team publishes on a web server is read by others, and only read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.errors import CorruptObject, ObjectNotFound, UsageError
from storage.feature_upkeep import collect_garbage
from storage.features import FeatureStore, open_features
from storage.objects import Objects
from storage.testing import example_features, publish_example_part
from tests.web_server import serve_folder


def test_features_in_three_lines(tmp_path: Path) -> None:
    rows = example_features()
    for number, row in enumerate(rows):
        publish_example_part(Objects.open(tmp_path / "features"), f"part{number}", [row], "klt")
    local = FeatureStore.open(tmp_path / "features")
    with serve_folder(tmp_path) as server:
        features = open_features(f"{server.url}/features")
        assert features.snapshot == local.snapshot
        assert features.rejected == local.rejected
        assert set(features) == set(local)
        for image_id, values in features.items():
            np.testing.assert_array_equal(values, local[image_id])
        assert [image_id for image_id, _ in features.scan()] == [image_id for image_id, _ in local.scan()]
        features.verify()
        assert len(FeatureStore.open(f"{server.url}/features", snapshot=3)) == 3


def test_each_image_costs_one_request(tmp_path: Path) -> None:
    publish_example_part(Objects.open(tmp_path), "part", example_features(), "klt")
    with serve_folder(tmp_path) as server:
        features = open_features(server.url)
        for image_id in features:
            features[image_id]
        server.counts.clear()
        for image_id in features:
            features[image_id]
        assert server.counts == {"GET": len(features)}
        server.counts.clear()
        list(features.scan())
        assert server.counts == {"GET": len(set(features.shard_numbers(list(features)).tolist()))}


def test_damage_is_found_there_too(tmp_path: Path) -> None:
    plan, _ = publish_example_part(Objects.open(tmp_path), "part", example_features(), "klt")
    shard = next(shard for shard in plan.shards() if shard.rows[0].image_id == "image1")
    path = tmp_path / "parts" / "part" / shard.key
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with serve_folder(tmp_path) as server:
        features = open_features(server.url)
        with pytest.raises(CorruptObject, match=f"shard part/{shard.key}: image image1: checksum"):
            features.read(["image1"])
        path.unlink()
        with pytest.raises(CorruptObject, match=f"shard part/{shard.key}: missing"):
            features.read(["image3"])


def test_it_is_only_read(tmp_path: Path) -> None:
    with serve_folder(tmp_path) as server:
        objects = Objects.open(server.url)
        assert not objects.can_list
        with pytest.raises(ObjectNotFound, match="no snapshot; no features there"):
            open_features(server.url)
        for action in (lambda: objects.create("a", b""), lambda: objects.put("a", b""), lambda: objects.delete("a")):
            with pytest.raises(UsageError, match="https:// is read-only; write through the object store behind it"):
                action()
        with pytest.raises(UsageError, match="a web server can't be listed"):
            list(objects.list())
        with pytest.raises(UsageError, match="can't be tidied"):
            collect_garbage(objects, older_than_s=0.0)
