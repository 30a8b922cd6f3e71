"""The bytes of a shard, field by field."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

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
    ShardBuilder,
    ShardRow,
    ShardTail,
    decode_chunk,
    encode_row,
    parse_tail,
    read_tail,
    tail_bytes_guess,
)
from storage.testing import example_codec

ARRAY = ArrayPlan("l6", 5, 2, 6, 3)


@pytest.fixture(params=["raw16", "int8", "klt"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return example_codec(request.param, 2)


def build_shard(array: ArrayPlan, rows: list[ShardRow], codec: Codec, order: Sequence[int] = (0, 1)) -> bytes:
    data = bytearray()
    builder = ShardBuilder(array, codec, len(rows), data.extend)
    for slot in order:
        builder.add(slot, encode_row(rows[slot], array, codec))
    builder.finish()
    return bytes(data)


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
    assert rows[0].stored is not None
    chunks = [bytes(codec.pack(rows[0].stored.values)), bytes(codec.pack(np.full((2, 6), codec.sentinel, codec.dtype)))]
    ends = np.cumsum([len(chunk) + 4 for chunk in chunks]).tolist()
    for chunk, end in zip(chunks, ends, strict=True):
        assert data[end - 4 - len(chunk) : end] == chunk + struct.pack("<I", google_crc32c.value(chunk))
    index = np.frombuffer(data[-52:-4], "<u8").reshape(3, 2)
    assert index.tolist() == [[0, ends[0]], [ends[0], ends[1] - ends[0]], [2**64 - 1, 2**64 - 1]]
    assert data[-4:] == struct.pack("<I", google_crc32c.value(data[-52:-4]))
    magic, block_bytes, crc = struct.unpack("<8sQI", data[-72:-52])
    assert magic == b"SLSHARD2"
    block = data[ends[1] : -72]
    assert len(block) == block_bytes
    assert crc == google_crc32c.value(data[ends[1] : -56])
    (header_bytes,) = struct.unpack_from("<I", block)
    header = json.loads(block[4 : 4 + header_bytes])
    assert [row["image_id"] for row in header["rows"]] == ["first é", "second"]
    num_numbers = codec.num_scales(2) + codec.num_offsets(2) + 3 * header["rows"][0]["num_outliers"]
    assert len(block) - 4 - header_bytes == 4 * num_numbers


def test_rows_may_come_in_any_order(codec: Codec) -> None:
    rows = _rows(codec)
    first, second = (build_shard(ARRAY, rows, codec, order) for order in ((0, 1), (1, 0)))
    assert first != second
    for data in (first, second):
        tail = parse_tail(data, ARRAY, codec)
        assert isinstance(tail, ShardTail)
        assert [row.image_id for row in tail.rows] == ["first é", "second"]
        offset, size = tail.extents[0]
        assert rows[0].stored is not None
        found = decode_chunk(data[offset : offset + size], tail.rows[0], ARRAY, codec)
        np.testing.assert_array_equal(found.values, rows[0].stored.values)


def test_rows_are_given_once_and_all(codec: Codec) -> None:
    rows = _rows(codec)
    builder = ShardBuilder(ARRAY, codec, 2, lambda piece: None)
    builder.add(1, encode_row(rows[1], ARRAY, codec))
    with pytest.raises(ValueError, match="row 1 is given twice"):
        builder.add(1, encode_row(rows[1], ARRAY, codec))
    with pytest.raises(ValueError, match="expected 2 rows, got 1"):
        builder.finish()


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
    with pytest.raises(CorruptObject, match="expected the trailer b'SLSHARD2'"):
        parse_tail(data, ARRAY, codec)


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"encoding":"raw16"}', b'{"encoding":"raw16","rows":[{}]}', b"\xff"])
def test_an_unreadable_block_is_refused(header: bytes) -> None:
    block = struct.pack("<I", len(header)) + header
    signed = block + b"SLSHARD2" + struct.pack("<Q", len(block))
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


def test_a_chunk_that_would_unpack_to_more_than_its_row_is_refused_before_it_is_unpacked() -> None:
    """Blosc trusts what a chunk says of its own size."""
    codec = example_codec("klt", 2)
    chunk = bytearray(codec.pack(np.zeros((2, 6), np.uint16)))
    for claimed in (2**31 - 1, 25, 0):
        chunk[4:8] = claimed.to_bytes(4, "little")
        asked: list[int] = []

        def allocate(size: int, asked: list[int] = asked) -> memoryview:
            asked.append(size)
            return memoryview(bytearray(size))

        with pytest.raises(CorruptObject, match=f"expected a chunk that holds 24 bytes, found {claimed}"):
            codec.unpack(memoryview(bytes(chunk)), 2, 6, allocate)
        assert asked == []
