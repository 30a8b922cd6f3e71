"""The bytes of one shard file.

    chunk | chunk | ... | metadata block | trailer | Zarr shard index

A chunk is what Zarr's codecs make of the row's values [channels, cells], and its crc32c; chunks lie
in the order in which they came. The shard index (one little-endian uint64 pair of offset and size per
row of the shard, then its crc32c) is Zarr's own, at the end. Zarr readers follow the index and never
look at the gap before it, where our block says what the rows are: image, extent, status, scales,
offsets and outliers. So the description and the bytes come to be in one write and can't disagree.

    block     uint32 length of the header | header: canonical JSON | per stored row: scales, offsets
              (float32), outlier channel, cell (int32), value (float32)
    trailer   magic (8 bytes) | uint64 length of the block | uint32 crc32c of block, magic and length

One read of the tail gives index and block.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

import fastcrc
import numpy as np
import numpy.typing as npt

from storage.errors import CorruptObject, DataError
from storage.feature_plan import ArrayPlan
from storage.keys import Json, canonical_json
from storage.objects import Objects
from storage.stored_features import Allocate, Codec, StoredFeature

__all__ = [
    "EncodedRow",
    "RowStatus",
    "ShardBuilder",
    "ShardRow",
    "ShardTail",
    "checked_chunk",
    "decode_chunk",
    "encode_row",
    "is_described",
    "parse_index",
    "parse_tail",
    "plain_tail",
    "read_tail",
    "tail_bytes_guess",
    "unpack_row",
]

_MAGIC = b"SLSHARD2"
_TRAILER = struct.Struct("<8sQI")
_CRC = struct.Struct("<I")
_HEADER_LENGTH = struct.Struct("<I")
_ABSENT = 2**64 - 1  # offset and size of a chunk that isn't there
_HEADER_BYTES_PER_ROW = 220
_SPARE_BYTES = 16 * 1024


class RowStatus(StrEnum):
    """What a row of a part holds."""

    OK = "ok"
    REJECTED = "rejected"
    """The teacher failed on the image; the row is filled with the sentinel."""


@dataclass(frozen=True, eq=False)
class ShardRow:
    """One row: its image, and the stored features unless it is rejected.

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
class EncodedRow:
    """One row and its chunk, ready to be put into a shard."""

    row: ShardRow
    chunk: bytes | memoryview
    """As the codec packed it, without the checksum."""
    checksum: int
    """crc32c of `chunk`."""


@dataclass(frozen=True, eq=False)
class ShardTail:
    """Index and block of a shard: where each row's chunk lies and what it is."""

    extents: tuple[tuple[int, int], ...]
    """(offset, size in bytes) of each row's chunk with its checksum."""
    rows: tuple[ShardRow, ...]
    size_bytes: int
    """Of block and index, as a measure of what keeping it takes."""


def encode_row(row: ShardRow, array: ArrayPlan, codec: Codec) -> EncodedRow:
    """Packs the values of a row that `codec` has encoded; rejected rows are filled with the sentinel."""
    values: npt.NDArray[Any]
    num_cells = row.height * row.width
    if row.stored is None:
        values = np.full((array.num_channels, array.cells), codec.sentinel, codec.dtype)
    elif num_cells == array.cells:
        values = row.stored.values
    else:
        values = np.zeros((array.num_channels, array.cells), codec.dtype)
        values[:, :num_cells] = row.stored.values
    chunk = codec.pack(values)
    return EncodedRow(row, chunk, _crc(chunk))


class ShardBuilder:
    """Puts the rows of one shard, in any order, one behind the other; not safe for several threads.

    Args:
        array: the array that the shard belongs to.
        codec: of the store.
        num_rows: rows of this shard.
        write: takes the shard's bytes, piece by piece; they must not change afterwards.
    """

    def __init__(
        self, array: ArrayPlan, codec: Codec, num_rows: int, write: Callable[[bytes | memoryview], None]
    ) -> None:
        self._array, self._codec, self._write = array, codec, write
        self._rows: list[ShardRow | None] = [None] * num_rows
        self._extents = np.full((array.rows_per_shard, 2), _ABSENT, "<u8")
        self._size_bytes = 0

    def add(self, slot: int, encoded: EncodedRow) -> None:
        """Writes one row; `slot` counts from 0 within the shard. Its values are not kept.

        Raises:
            ValueError: the slot is taken.
        """
        if self._rows[slot] is not None:
            raise ValueError(f"shard of {self._array.name}: row {slot} is given twice")
        stored = encoded.row.stored
        if stored is not None:
            nothing = np.empty((self._array.num_channels, 0), self._codec.dtype)
            stored = replace(stored, values=nothing)
        self._rows[slot] = replace(encoded.row, stored=stored)
        size = len(encoded.chunk) + _CRC.size
        self._extents[slot] = self._size_bytes, size
        self._size_bytes += size
        self._write(encoded.chunk)
        self._write(_CRC.pack(encoded.checksum))

    def finish(self) -> tuple[ShardRow, ...]:
        """Writes what comes behind the rows, and returns them without their values.

        Raises:
            ValueError: rows are missing.
        """
        rows = tuple(row for row in self._rows if row is not None)
        if len(rows) < len(self._rows):
            raise ValueError(f"shard of {self._array.name}: expected {len(self._rows)} rows, got {len(rows)}")
        block = _build_block(rows, self._codec)
        start = block + _MAGIC + struct.pack("<Q", len(block))
        index = self._extents.tobytes()
        self._write(b"".join([start, _CRC.pack(_crc(start)), index, _CRC.pack(_crc(index))]))
        return rows


def tail_bytes_guess(array: ArrayPlan, codec: Codec) -> int:
    """How many bytes to read from a shard's end to get index and block, most of the time."""
    numbers = codec.num_scales(array.num_channels) + codec.num_offsets(array.num_channels)
    per_row = 16 + _HEADER_BYTES_PER_ROW + 4 * numbers
    return array.rows_per_shard * per_row + _TRAILER.size + _CRC.size + _SPARE_BYTES


def parse_tail(tail: bytes | memoryview, array: ArrayPlan, codec: Codec) -> ShardTail | int:
    """Reads index and block from the last bytes of a shard.

    Returns:
        The parsed tail, or how many bytes from the end are needed if `tail` is too short.

    Raises:
        CorruptObject: a checksum or a length is wrong; the message says which, the caller which shard.
    """
    view = memoryview(tail)
    index_bytes = 16 * array.rows_per_shard
    fixed = index_bytes + _CRC.size + _TRAILER.size
    if len(view) < fixed:
        raise CorruptObject(f"expected at least {fixed} bytes, found {len(view)}")
    places = parse_index(view, array)
    magic, block_bytes, crc = _TRAILER.unpack(view[-fixed : -index_bytes - _CRC.size])
    if magic != _MAGIC:
        raise CorruptObject(f"expected the trailer {_MAGIC!r}, found {magic!r}; was it written by other software?")
    if block_bytes > 2**40:
        raise CorruptObject(f"metadata block of {block_bytes} bytes")
    if len(view) < fixed + block_bytes:
        return fixed + int(block_bytes)
    signed = bytes(view[len(view) - fixed - block_bytes : -index_bytes - _CRC.size - _CRC.size])
    if _crc(signed) != crc:
        raise CorruptObject("checksum of the metadata block doesn't match")
    rows = _parse_block(signed[:block_bytes], array, codec)
    extents = places[: len(rows)]
    if len(extents) < len(rows) or any(_ABSENT in extent for extent in extents):
        raise CorruptObject("a row of the metadata block has no chunk")
    return ShardTail(extents, rows, len(signed) + index_bytes)


def parse_index(tail: bytes | memoryview, array: ArrayPlan) -> tuple[tuple[int, int], ...]:
    """(offset, size) of every chunk, by Zarr's own index at the end of a shard.

    Raises:
        CorruptObject: the index is torn.
    """
    view, index_bytes = memoryview(tail), 16 * array.rows_per_shard
    if len(view) < index_bytes + _CRC.size:
        raise CorruptObject(f"expected at least {index_bytes + _CRC.size} bytes, found {len(view)}")
    index = view[-index_bytes - _CRC.size : -_CRC.size]
    if _CRC.unpack(view[-_CRC.size :])[0] != _crc(index):
        raise CorruptObject("checksum of the shard index doesn't match")
    return tuple((int(offset), int(size)) for offset, size in np.frombuffer(index, "<u8").reshape(-1, 2))


def plain_tail(tail: bytes | memoryview, array: ArrayPlan, rows: Sequence[ShardRow]) -> ShardTail:
    """The tail of a shard that another Zarr library wrote, which says nothing of its rows.

    Args:
        tail: the last bytes of the shard, or all of it.
        array: as planned.
        rows: what its rows are, from elsewhere.

    Raises:
        CorruptObject: the index is torn, or a row was never written.
    """
    extents = parse_index(tail, array)[: len(rows)]
    if len(extents) < len(rows) or (_ABSENT, _ABSENT) in extents:
        raise CorruptObject("a row was never written")
    return ShardTail(extents, tuple(rows), 16 * array.rows_per_shard)


def is_described(tail: bytes | memoryview, array: ArrayPlan) -> bool:
    """Whether a shard has our block before its index; those of other Zarr libraries have none."""
    start = -16 * array.rows_per_shard - _CRC.size - _TRAILER.size
    return bytes(memoryview(tail)[start : start + len(_MAGIC)]) == _MAGIC


def checked_chunk(chunk: bytes | memoryview, image_id: str) -> tuple[memoryview, int]:
    """A chunk without its checksum, which is verified, and the checksum.

    Raises:
        CorruptObject: the checksum is wrong.
    """
    view = memoryview(chunk)
    if len(view) < _CRC.size:
        raise CorruptObject(f"image {image_id}: a chunk of {len(view)} bytes")
    body, checksum = view[: -_CRC.size], _CRC.unpack(view[-_CRC.size :])[0]
    if checksum != _crc(body):
        raise CorruptObject(f"image {image_id}: checksum of its chunk doesn't match")
    return body, checksum


def decode_chunk(
    chunk: bytes | memoryview, row: ShardRow, array: ArrayPlan, codec: Codec, allocate: Allocate | None = None
) -> StoredFeature:
    """The stored features of a row, from its chunk and what the tail says about it.

    Where the codec stores plain values and `chunk` is writable, they are a view of it; else they are
    written into a buffer of `allocate`, or a new one.

    Raises:
        CorruptObject: the chunk's size or checksum is wrong, or the row holds nothing.
    """
    body, _ = checked_chunk(chunk, row.image_id)
    return _unpacked(body, row, array, codec, allocate)


def unpack_row(encoded: EncodedRow, array: ArrayPlan, codec: Codec) -> StoredFeature:
    """The stored features of a row that `encode_row` has packed; raises as `decode_chunk`."""
    return _unpacked(memoryview(encoded.chunk), encoded.row, array, codec, None)


def _unpacked(
    body: memoryview, row: ShardRow, array: ArrayPlan, codec: Codec, allocate: Allocate | None
) -> StoredFeature:
    if row.stored is None:
        raise CorruptObject(f"image {row.image_id}: the row was rejected and holds no features")
    try:
        values = codec.unpack(body, array.num_channels, array.cells, allocate)
    except DataError as error:
        raise CorruptObject(f"image {row.image_id}: {error}") from error
    values = values[:, : row.height * row.width]
    if not values.flags.writeable:  # torch takes no others
        values = values.copy() if allocate is None else _copied(values, allocate)
    return row.stored.with_values(values)


def _copied(values: npt.NDArray[Any], allocate: Allocate) -> npt.NDArray[Any]:
    copy = np.frombuffer(allocate(values.nbytes), values.dtype).reshape(values.shape)
    np.copyto(copy, values)
    return copy


def _crc(data: bytes | bytearray | memoryview) -> int:
    return fastcrc.crc32.iscsi(data)  # crc32c by another name


def _build_block(rows: Sequence[ShardRow], codec: Codec) -> bytes:
    header = canonical_json({"encoding": codec.encoding, "rows": [_header_of(row) for row in rows]})
    pieces = [_HEADER_LENGTH.pack(len(header)), header]
    for row in rows:
        if row.stored is not None:
            stored = row.stored
            pieces += [array.astype("<f4").tobytes() for array in (stored.scale, stored.offset)]
            pieces += [array.astype("<i4").tobytes() for array in (stored.outlier_channel, stored.outlier_cell)]
            pieces.append(stored.outlier_value.astype("<f4").tobytes())
    return b"".join(pieces)


def _header_of(row: ShardRow) -> dict[str, Json]:
    about: dict[str, Json] = {"image_id": row.image_id, "height": row.height, "width": row.width}
    if row.stored is None:
        return {**about, "status": str(row.status), "detail": row.detail}
    return {
        **about,
        "status": str(row.status),
        "num_outliers": row.stored.outlier_cell.size,
        "relative_mse": row.stored.relative_mse,
    }


def _parse_block(block: bytes, array: ArrayPlan, codec: Codec) -> tuple[ShardRow, ...]:
    """Rows of a block whose checksum was right: what is wrong here was written by other software."""
    try:
        (header_bytes,) = _HEADER_LENGTH.unpack_from(block)
        position = _HEADER_LENGTH.size + header_bytes
        header = cast("dict[str, Any]", json.loads(block[_HEADER_LENGTH.size : position]))
        if header["encoding"] != codec.encoding:
            raise CorruptObject(f"expected the encoding {codec.encoding}, found {header['encoding']!r}")
        rows: list[ShardRow] = []
        for entry in header["rows"]:
            stored, status = None, RowStatus(entry["status"])
            if status is RowStatus.OK:
                stored, position = _parse_stored(block, position, entry, array, codec)
            rows.append(
                ShardRow(entry["image_id"], entry["height"], entry["width"], status, entry.get("detail", ""), stored)
            )
    except (struct.error, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CorruptObject):
            raise
        raise CorruptObject(f"metadata block can't be read: {type(error).__name__} {error}") from error
    if position != len(block):
        raise CorruptObject(f"metadata block: expected {position} bytes, found {len(block)}")
    return tuple(rows)


def _parse_stored(
    block: bytes, position: int, entry: dict[str, Any], array: ArrayPlan, codec: Codec
) -> tuple[StoredFeature, int]:
    channels, outliers = array.num_channels, int(entry["num_outliers"])
    counts = (codec.num_scales(channels), codec.num_offsets(channels), outliers, outliers, outliers)
    if position + 4 * sum(counts) > len(block):
        raise CorruptObject(f"metadata block of {len(block)} bytes is too short for image {entry['image_id']}")
    fields: list[npt.NDArray[Any]] = []
    for dtype, count in zip(("<f4", "<f4", "<i4", "<i4", "<f4"), counts, strict=True):
        fields.append(np.frombuffer(block, dtype, count, position).copy())
        position += 4 * count
    scale, offset, channel, cell, value = fields
    stored = StoredFeature(
        np.empty((channels, 0), codec.dtype),
        entry["height"],
        entry["width"],
        scale,
        offset,
        channel,
        cell,
        value,
        codec.basis,
        float(entry["relative_mse"]),
    )
    return stored, position


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
