"""The bytes of a shard, field by field."""

from __future__ import annotations

import json
import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.codecs import Codec, codec_of
from storage.errors import CorruptObject
from storage.feature_plan import ArrayPlan
from storage.objects import Objects
from storage.shards import (
    RowStatus,
    ShardRow,
    ShardTail,
    build_shard,
    decode_chunk,
    parse_tail,
    read_tail,
    tail_bytes_guess,
)

ARRAY = ArrayPlan("l6", 5, 2, 6, 3)


@pytest.fixture(params=["raw16", "int8"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return codec_of(request.param)


def _rows(codec: Codec) -> list[ShardRow]:
    features = np.random.default_rng(0).standard_normal((2, 2, 3), dtype=np.float32)
    features[1, 0, 2] = 1000
    return [
        ShardRow("first é", 2, 3, RowStatus.OK, "", codec.encode(features)),
        ShardRow("second", 1, 6, RowStatus.REJECTED, "out of memory"),
    ]


def test_layout(codec: Codec) -> None:
    rows = _rows(codec)
    data = build_shard(ARRAY, rows, codec)
    chunk_bytes = 2 * 6 * codec.dtype.itemsize
    stored = rows[0].stored
    assert stored is not None
    assert data[:chunk_bytes] == stored.values.tobytes()
    assert data[chunk_bytes : chunk_bytes + 4] == struct.pack("<I", google_crc32c.value(data[:chunk_bytes]))
    sentinel = np.frombuffer(data[chunk_bytes + 4 : 2 * chunk_bytes + 4], codec.dtype)
    np.testing.assert_array_equal(sentinel, np.full(12, codec.sentinel, codec.dtype))
    index = np.frombuffer(data[-52:-4], "<u8").reshape(3, 2)
    size = chunk_bytes + 4
    assert index.tolist() == [[0, size], [size, size], [2**64 - 1, 2**64 - 1]]
    assert data[-4:] == struct.pack("<I", google_crc32c.value(data[-52:-4]))
    magic, block_bytes, crc = struct.unpack("<8sQI", data[-72:-52])
    assert magic == b"SLSHARD1"
    block = data[2 * size : -72]
    assert len(block) == block_bytes
    assert crc == google_crc32c.value(data[2 * size : -56])
    (header_bytes,) = struct.unpack_from("<I", block)
    header = json.loads(block[4 : 4 + header_bytes])
    assert [row["image_id"] for row in header["rows"]] == ["first é", "second"]
    assert len(block) - 4 - header_bytes == (16 + 12 * header["rows"][0]["num_outliers"] if codec.has_affine else 0)


def test_round_trip(codec: Codec) -> None:
    rows = _rows(codec)
    data = build_shard(ARRAY, rows, codec)
    tail = parse_tail(data, ARRAY, codec)
    assert isinstance(tail, ShardTail)
    assert [(row.image_id, row.height, row.width, row.status, row.detail) for row in tail.rows] == [
        (row.image_id, row.height, row.width, row.status, row.detail) for row in rows
    ]
    chunks = [data[offset : offset + size] for offset, size in tail.extents]
    found = decode_chunk(chunks[0], tail.rows[0], ARRAY, codec)
    assert rows[0].stored is not None
    np.testing.assert_array_equal(found.dequantise(), rows[0].stored.dequantise())
    assert found.values.shape == (2, 6)
    with pytest.raises(CorruptObject, match="second: the row was rejected and holds no features"):
        decode_chunk(chunks[1], tail.rows[1], ARRAY, codec)


def test_a_short_tail_says_what_it_needs(codec: Codec) -> None:
    data = build_shard(ARRAY, _rows(codec), codec)
    needed = parse_tail(data[-100:], ARRAY, codec)
    assert isinstance(needed, int)
    assert isinstance(parse_tail(data[-needed:], ARRAY, codec), ShardTail)
    assert parse_tail(data[1 - needed :], ARRAY, codec) == needed


def test_many_outliers_take_a_second_read(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of("int8")
    objects = Objects.open("memory://outliers")
    data = build_shard(ARRAY, _rows(codec), codec)
    objects.create(ARRAY.shard_key(0), data)
    assert tail_bytes_guess(ARRAY, codec) > len(data)
    monkeypatch.setattr("storage.shards.tail_bytes_guess", lambda *_: 80)
    assert len(read_tail(objects, ARRAY, 0, codec).rows) == 2


def test_another_encoding_is_refused() -> None:
    data = build_shard(ARRAY, _rows(codec_of("raw16")), codec_of("raw16"))
    with pytest.raises(CorruptObject, match="expected the encoding int8, found 'raw16'"):
        parse_tail(data, ARRAY, codec_of("int8"))


def test_a_shard_of_other_software_is_refused(codec: Codec) -> None:
    with pytest.raises(CorruptObject, match="expected at least 72 bytes, found 10"):
        parse_tail(bytes(10), ARRAY, codec)
    index = bytes(48)
    data = bytes(100) + index + struct.pack("<I", google_crc32c.value(index))
    with pytest.raises(CorruptObject, match="expected the trailer b'SLSHARD1'"):
        parse_tail(data, ARRAY, codec)


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"encoding":"raw16"}', b'{"encoding":"raw16","rows":[{}]}', b"\xff"])
def test_an_unreadable_block_is_refused(header: bytes) -> None:
    block = struct.pack("<I", len(header)) + header
    signed = block + b"SLSHARD1" + struct.pack("<Q", len(block))
    index = bytes(48)
    data = signed + struct.pack("<I", google_crc32c.value(signed))
    data += index + struct.pack("<I", google_crc32c.value(index))
    with pytest.raises(CorruptObject, match="metadata block can't be read"):
        parse_tail(data, ARRAY, codec_of("raw16"))


@settings(max_examples=200)
@given(st.data())
def test_any_flipped_bit_is_found(data: st.DataObject) -> None:
    codec = codec_of("int8")
    good = build_shard(ARRAY, _rows(codec), codec)
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    def read_all(shard: bytes) -> None:
        tail = parse_tail(shard, ARRAY, codec)
        if isinstance(tail, int):
            raise CorruptObject(f"needs {tail} bytes")
        for (offset, size), row in zip(tail.extents, tail.rows, strict=True):
            if row.status is RowStatus.OK:
                decode_chunk(shard[offset : offset + size], row, ARRAY, codec)

    read_all(good)
    rejected = range(16, 32)  # the second row's chunk, which nobody reads
    if not any(bad[spot] != good[spot] for spot in rejected):
        with pytest.raises(CorruptObject, match=r"checksum|trailer|needs|metadata block of"):
            read_all(bytes(bad))
