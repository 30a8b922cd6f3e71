"""The bytes of one shard file.

    chunk 0 | chunk 1 | ... | metadata block | trailer | Zarr shard index

A chunk is the row's values, little-endian [channels, cells], and their crc32c, as Zarr's `bytes` and
`crc32c` codecs write them. The shard index (one little-endian uint64 pair of offset and size per row
of the shard, then its crc32c) is Zarr's own, at the end. Zarr readers follow the index and never
look at the gap before it, where our block says what the rows are: image, extent, status, scales,
offsets and outliers. So the description and the bytes come to be in one write and can't disagree.

    block     uint32 length of the header | header: canonical JSON | per stored row of an affine codec:
              scale, offset (float32 x channels), outlier channel, cell (int32), value (float32)
    trailer   magic (8 bytes) | uint64 length of the block | uint32 crc32c of block, magic and length

One read of the tail gives index and block.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import google_crc32c
import numpy as np
import numpy.typing as npt

from storage.codecs import Codec, StoredFeature
from storage.errors import CorruptObject
from storage.feature_plan import ArrayPlan
from storage.keys import canonical_json
from storage.objects import Objects

__all__ = [
    "RowStatus",
    "ShardRow",
    "ShardTail",
    "build_shard",
    "decode_chunk",
    "parse_tail",
    "read_tail",
    "tail_bytes_guess",
]

_MAGIC = b"SLSHARD1"
_TRAILER = struct.Struct("<8sQI")
_CRC = struct.Struct("<I")
_HEADER_LENGTH = struct.Struct("<I")
_ABSENT = 2**64 - 1  # offset and size of a chunk that isn't there
_HEADER_BYTES_PER_ROW = 200
_SPARE_BYTES = 64 * 1024


class RowStatus(StrEnum):
    """What a row of a part holds."""

    OK = "ok"
    REJECTED = "rejected"
    """The teacher failed on the image; the row is filled with the sentinel."""


@dataclass(frozen=True, eq=False)
class ShardRow:
    """One row as written: its image, and the stored features unless it is rejected.

    A row read back from a shard's tail has the scales and outliers but no values.
    """

    image_id: str
    height: int
    width: int
    status: RowStatus
    detail: str = ""
    """Why it was rejected."""
    stored: StoredFeature | None = None


@dataclass(frozen=True, eq=False)
class ShardTail:
    """Index and block of a shard: where each row's chunk lies and what it is."""

    extents: tuple[tuple[int, int], ...]
    """(offset, size in bytes) of each row's chunk."""
    rows: tuple[ShardRow, ...]


def build_shard(array: ArrayPlan, rows: Sequence[ShardRow], codec: Codec) -> bytes:
    """The bytes of a shard that holds these rows."""
    pieces: list[bytes] = []
    extents = np.full((array.rows_per_shard, 2), _ABSENT, "<u8")
    position = 0
    for slot, row in enumerate(rows):
        chunk = _encode_chunk(array, row, codec)
        extents[slot] = position, len(chunk)
        position += len(chunk)
        pieces.append(chunk)
    block = _build_block(rows, codec)
    start = block + _MAGIC + struct.pack("<Q", len(block))
    index = extents.tobytes()
    pieces += [start, _CRC.pack(_crc(start)), index, _CRC.pack(_crc(index))]
    return b"".join(pieces)


def tail_bytes_guess(array: ArrayPlan, codec: Codec) -> int:
    """How many bytes to read from a shard's end to get index and block, most of the time."""
    per_row = 16 + _HEADER_BYTES_PER_ROW + (8 * array.num_channels if codec.has_affine else 0)
    return array.rows_per_shard * per_row + _TRAILER.size + _CRC.size + _SPARE_BYTES


def parse_tail(tail: bytes, array: ArrayPlan, codec: Codec) -> ShardTail | int:
    """Reads index and block from the last bytes of a shard.

    Returns:
        The parsed tail, or how many bytes from the end are needed if `tail` is too short.

    Raises:
        CorruptObject: a checksum or a length is wrong; the message says which, the caller which shard.
    """
    index_bytes = 16 * array.rows_per_shard
    fixed = index_bytes + _CRC.size + _TRAILER.size
    if len(tail) < fixed:
        raise CorruptObject(f"expected at least {fixed} bytes, found {len(tail)}")
    index = tail[-index_bytes - _CRC.size : -_CRC.size]
    if _CRC.unpack(tail[-_CRC.size :])[0] != _crc(index):
        raise CorruptObject("checksum of the shard index doesn't match")
    trailer = tail[-fixed : -index_bytes - _CRC.size]
    magic, block_bytes, crc = _TRAILER.unpack(trailer)
    if magic != _MAGIC:
        raise CorruptObject(f"expected the trailer {_MAGIC!r}, found {magic!r}")
    if block_bytes > 2**31:
        raise CorruptObject(f"metadata block of {block_bytes} bytes")
    if len(tail) < fixed + block_bytes:
        return fixed + int(block_bytes)
    block = tail[len(tail) - fixed - block_bytes : len(tail) - fixed]
    if _crc(block + trailer[: -_CRC.size]) != crc:
        raise CorruptObject("checksum of the metadata block doesn't match")
    rows = _parse_block(block, array, codec)
    extents = np.frombuffer(index, "<u8").reshape(-1, 2)[: len(rows)]
    if len(extents) < len(rows) or (extents == _ABSENT).any():
        raise CorruptObject("a row of the metadata block has no chunk")
    return ShardTail(tuple((int(offset), int(size)) for offset, size in extents), rows)


def decode_chunk(chunk: bytes, row: ShardRow, array: ArrayPlan, codec: Codec) -> StoredFeature:
    """The stored features of a row, from its chunk and what the tail says about it.

    Raises:
        CorruptObject: the chunk's size or checksum is wrong, or the row holds nothing.
    """
    expected = array.num_channels * array.cells * codec.dtype.itemsize + _CRC.size
    if len(chunk) != expected:
        raise CorruptObject(f"image {row.image_id}: expected a chunk of {expected} bytes, found {len(chunk)}")
    body = memoryview(chunk)[: -_CRC.size]
    if _CRC.unpack(chunk[-_CRC.size :])[0] != _crc(body):
        raise CorruptObject(f"image {row.image_id}: checksum of its chunk doesn't match")
    if row.stored is None:
        raise CorruptObject(f"image {row.image_id}: the row was rejected and holds no features")
    values = np.frombuffer(body, codec.dtype).reshape(array.num_channels, array.cells)
    about = row.stored
    return StoredFeature(
        values[:, : row.height * row.width].copy(),  # writable and contiguous, as torch wants it
        row.height,
        row.width,
        about.scale,
        about.offset,
        about.outlier_channel,
        about.outlier_cell,
        about.outlier_value,
    )


def _crc(data: bytes | memoryview) -> int:
    return google_crc32c.value(bytes(data) if isinstance(data, memoryview) else data)


def _encode_chunk(array: ArrayPlan, row: ShardRow, codec: Codec) -> bytes:
    values: npt.NDArray[Any]
    if row.stored is None:
        values = np.full((array.num_channels, array.cells), codec.sentinel, codec.dtype)
    else:
        values = np.zeros((array.num_channels, array.cells), codec.dtype)
        values[:, : row.height * row.width] = row.stored.values
    body = values.tobytes()
    return body + _CRC.pack(_crc(body))


def _build_block(rows: Sequence[ShardRow], codec: Codec) -> bytes:
    header = canonical_json(
        {
            "encoding": codec.name,
            "rows": [
                {
                    "image_id": row.image_id,
                    "height": row.height,
                    "width": row.width,
                    "status": str(row.status),
                    "detail": row.detail,
                    "num_outliers": 0 if row.stored is None else row.stored.outlier_cell.size,
                }
                for row in rows
            ],
        }
    )
    pieces = [_HEADER_LENGTH.pack(len(header)), header]
    for row in rows:
        stored = row.stored
        if stored is not None and codec.has_affine:
            pieces += [stored.scale.astype("<f4").tobytes(), stored.offset.astype("<f4").tobytes()]
            pieces += [stored.outlier_channel.astype("<i4").tobytes(), stored.outlier_cell.astype("<i4").tobytes()]
            pieces.append(stored.outlier_value.astype("<f4").tobytes())
    return b"".join(pieces)


def _parse_block(block: bytes, array: ArrayPlan, codec: Codec) -> tuple[ShardRow, ...]:
    """Rows of a block whose checksum was right: what is wrong here was written by other software."""
    try:
        (header_bytes,) = _HEADER_LENGTH.unpack_from(block)
        position = _HEADER_LENGTH.size + header_bytes
        header = cast("dict[str, Any]", json.loads(block[_HEADER_LENGTH.size : position]))
        if header["encoding"] != codec.name:
            raise CorruptObject(f"expected the encoding {codec.name}, found {header['encoding']!r}")
        rows: list[ShardRow] = []
        for entry in header["rows"]:
            stored = None
            if entry["status"] == RowStatus.OK:
                stored, position = _parse_stored(block, position, entry, array, codec)
            rows.append(
                ShardRow(
                    entry["image_id"],
                    entry["height"],
                    entry["width"],
                    RowStatus(entry["status"]),
                    entry["detail"],
                    stored,
                )
            )
    except (struct.error, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptObject(f"metadata block can't be read: {type(error).__name__} {error}") from error
    if position != len(block):
        raise CorruptObject(f"metadata block: expected {position} bytes, found {len(block)}")
    return tuple(rows)


def _parse_stored(
    block: bytes, position: int, entry: dict[str, Any], array: ArrayPlan, codec: Codec
) -> tuple[StoredFeature, int]:
    nothing = np.empty((array.num_channels, 0), codec.dtype)
    if not codec.has_affine:
        return StoredFeature(nothing, entry["height"], entry["width"]), position
    channels, outliers = array.num_channels, entry["num_outliers"]
    if position + 8 * channels + 12 * outliers > len(block):
        raise CorruptObject(f"metadata block of {len(block)} bytes is too short for image {entry['image_id']}")
    fields: list[npt.NDArray[Any]] = []
    for dtype, count in (("<f4", channels), ("<f4", channels), ("<i4", outliers), ("<i4", outliers), ("<f4", outliers)):
        fields.append(np.frombuffer(block, dtype, count, position).copy())
        position += 4 * count
    scale, offset, channel, cell, value = fields
    return StoredFeature(nothing, entry["height"], entry["width"], scale, offset, channel, cell, value), position


def read_tail(part: Objects, array: ArrayPlan, shard_index: int, codec: Codec) -> ShardTail:
    """Fetches and parses the tail of a shard, in one read most of the time.

    Raises:
        ObjectNotFound: the shard is missing.
        CorruptObject: it is torn.
    """
    key = array.shard_key(shard_index)
    parsed = parse_tail(part.read_tail(key, tail_bytes_guess(array, codec)), array, codec)
    if isinstance(parsed, int):
        needed = parsed
        parsed = parse_tail(part.read_tail(key, needed), array, codec)
        if isinstance(parsed, int):
            raise CorruptObject(f"expected at least {needed} bytes")
    return parsed
