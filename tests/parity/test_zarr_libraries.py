"""Other Zarr v3 libraries open our store and see the stored values; we read what they write.

The compared values are the stored ones (float16, int8 or zigzag integers), so equality is exact. Fork is never
used: zarr-python's and tensorstore's threads wouldn't survive it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from storage.codecs import codec_of
from storage.errors import CorruptObject
from storage.feature_index import array_json
from storage.features import (
    ArrayPlan,
    FeatureStore,
    PartDescription,
    PartPlan,
    part_objects,
    plan_rows,
    publish_part,
    write_part_metadata,
)
from storage.objects import Objects
from storage.shards import RowStatus, ShardRow, decode_chunk
from storage.testing import example_codec, example_features, publish_example_part


@pytest.fixture(params=["raw16", "int8", "klt"])
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def published(tmp_path: Path, encoding: str) -> tuple[Path, PartPlan]:
    plan, _ = publish_example_part(Objects.open(tmp_path), "part", example_features(), encoding)
    return tmp_path, plan


def _with_tensorstore(folder: Path) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


def test_both_libraries_see_the_stored_values(published: tuple[Path, PartPlan], encoding: str) -> None:
    folder, plan = published
    features = FeatureStore.open(folder)
    group = zarr.open_group(folder / "parts" / "part", mode="r")
    assert dict(group.attrs)["sailloft"]["encoding"] == example_codec(encoding).encoding
    codec, num_compared = example_codec(encoding), 0
    for array, rows in zip(plan.arrays, plan.rows, strict=True):
        from_zarr = np.asarray(group[array.name][:])
        from_tensorstore = _with_tensorstore(folder / "parts" / "part" / array.name)
        assert from_zarr.dtype == from_tensorstore.dtype == codec.dtype
        assert from_zarr.shape == (array.num_rows, array.num_channels, array.cells)
        np.testing.assert_array_equal(from_zarr, from_tensorstore)
        for number, row in enumerate(rows):
            size = row.height * row.width
            if row.image_id in features.rejected:
                sentinel = np.full((array.num_channels, array.cells), codec.sentinel, codec.dtype)
                np.testing.assert_array_equal(from_zarr[number], sentinel)
                continue
            stored = features.read_stored([row.image_id])[0]
            np.testing.assert_array_equal(from_zarr[number, :, :size], stored.values)
            assert not from_zarr[number, :, size:].any()
            num_compared += 1
    assert num_compared == 7


def test_zarr_python_sees_the_sentinel_where_a_shard_is_missing(
    published: tuple[Path, PartPlan], encoding: str
) -> None:
    """A reader that takes missing for fill value still can't mistake it for features."""
    folder, plan = published
    shard = next(iter(plan.shards()))
    (folder / "parts" / "part" / shard.key).unlink()
    array = zarr.open_group(folder / "parts" / "part", mode="r")[shard.array.name]
    values = np.asarray(array[:])[: len(shard.rows)]
    np.testing.assert_array_equal(values, np.full_like(values, example_codec(encoding).sentinel))


@pytest.mark.parametrize("library", ["zarr-python", "tensorstore"])
def test_both_libraries_refuse_a_flipped_bit(published: tuple[Path, PartPlan], library: str) -> None:
    folder, plan = published
    shard = next(iter(plan.shards()))
    path = folder / "parts" / "part" / shard.key
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.write_bytes(bytes(data))
    array = folder / "parts" / "part" / shard.array.name
    if library == "zarr-python":
        with pytest.raises(ValueError, match=r"(?i)checksum|crc"):
            zarr.open_array(array, mode="r")[0]
    else:
        with pytest.raises(ValueError, match="Digest mismatch"):
            _with_tensorstore(array)


def test_our_chunk_decoder_reads_what_zarr_python_writes(tmp_path: Path, encoding: str) -> None:
    """Same metadata, chunks and index; only our block before the index is absent."""
    codec, plan = example_codec(encoding, 3), ArrayPlan("l12", 5, 3, 12, 2)
    (tmp_path / "zarr.json").write_bytes(array_json(plan, codec))
    low = 0 if codec.dtype.kind == "u" else -100
    values = np.random.default_rng(0).integers(low, 100, (5, 3, 12)).astype(codec.dtype)
    array = zarr.open_array(tmp_path, mode="r+")
    array[:] = values
    assert json.loads((tmp_path / "zarr.json").read_bytes()) == json.loads(array_json(plan, codec))
    for number in range(5):
        data = (tmp_path / "c" / str(number // 2) / "0" / "0").read_bytes()
        offset, size = np.frombuffer(data[-36:-4], "<u8").reshape(2, 2)[number % 2].tolist()
        stored = codec.encode(values[number].astype(np.float32).reshape(3, 3, 4))
        row = ShardRow("image", 3, 4, RowStatus.OK, "", stored)
        chunk = decode_chunk(data[offset : offset + size], row, plan, codec)
        np.testing.assert_array_equal(chunk.values, values[number])


def test_a_store_whose_shards_zarr_python_wrote_is_read(tmp_path: Path) -> None:
    """Our metadata and plan, their shards, one whole shard at a time; then published, read, and damaged."""
    rows = example_features()
    images = [(row.image_id, row.height, row.width) for row in rows]
    plan = plan_rows(images, 6, 2, max_shard_bytes=2 * 64 * 6 * 2)
    codec, description = codec_of("raw16"), PartDescription("teacher", "raw16", 6)
    store = Objects.open(tmp_path)
    part = part_objects(store, "part")
    write_part_metadata(part, plan, description, codec)
    by_id = {row.image_id: row for row in rows}
    for array, planned in zip(plan.arrays, plan.rows, strict=True):
        # By default a chunk of sentinels isn't written at all.
        with zarr.config.set({"array.write_empty_chunks": True}):
            opened = zarr.open_array(tmp_path / "parts" / "part" / array.name, mode="r+")
        values = np.full((array.num_rows, 6, array.cells), np.nan, np.float16)
        for number, row in enumerate(planned):
            features = by_id[row.image_id].values
            if features is not None:
                values[number] = 0
                values[number, :, : row.height * row.width] = features.reshape(6, -1)
        for shard in range(array.num_shards):
            span = array.shard_rows(shard)
            opened[span.start : span.stop] = values[span.start : span.stop]
    manifest = publish_part(store, "part", plan, description, codec, recipe={}, inputs={})
    assert (manifest.facts["num_images"], manifest.facts["num_rejected"]) == (7, 1)
    features = FeatureStore.open(store)
    assert features.rejected == {"image5": "holds no values"}
    scanned = dict(features.scan())
    for row in rows:
        if row.values is not None:
            expected = row.values.astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(features[row.image_id], expected)
            np.testing.assert_array_equal(scanned[row.image_id].dequantise(), expected)
    features.verify()
    path = tmp_path / "parts" / "part" / next(iter(plan.shards())).key
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptObject, match="checksum of its chunk"):
        FeatureStore.open(store).read(["image4"])
