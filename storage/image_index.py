"""Which row of which part holds an image: columns instead of a million small objects."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from storage.shards import RowStatus

__all__ = ["ImageIndex", "PartRows"]

pc: Any = pyarrow.compute  # its functions are made at import, unseen by the checker

_Ids: TypeAlias = npt.NDArray[Any]  # np.bytes_, whose width is a part of its dtype
_WORD_BYTES = 8


@dataclass(frozen=True, eq=False)
class PartRows:
    """The rows of one part."""

    table: pa.Table
    """Of `storage.feature_index.ROW_SCHEMA`."""
    arrays: Sequence[str]
    """Names of the part's arrays; their order numbers them."""


class ImageIndex:
    """Rows of all live parts, one per image.

    If several parts hold an image, the part that is listed first counts; a row with features counts
    before a rejected one.

    Args:
        parts: in the order of the snapshot.
    """

    ids: npt.NDArray[Any]
    """Image ids, UTF-8, in order of parts and rows."""
    part: npt.NDArray[np.int32]
    """Number of the part."""
    array: npt.NDArray[np.int16]
    """Number of the array within the part."""
    row: npt.NDArray[np.int64]
    """Row within the array."""
    height: npt.NDArray[np.int32]
    """Rows of the grid, in cells."""
    width: npt.NDArray[np.int32]
    """Columns of the grid, in cells."""
    is_ok: npt.NDArray[np.bool_]
    """Whether the row holds features; the others are rejected."""
    rejected: Mapping[str, str]
    """Rejected images with the reason."""

    def __init__(self, parts: Sequence[PartRows]) -> None:
        tables = [part.table for part in parts]
        ids = _joined([_ids_of(table["image_id"]) for table in tables])
        is_ok = _column(tables, "status", np.bool_, lambda column: pc.equal(column, RowStatus.OK.value))
        self._seed, hashes = _hashes_without_collision(ids)
        # By image, those with features first, then as listed: the first of each image counts.
        order = np.lexsort((np.arange(len(ids)), ~is_ok, hashes))
        first = np.ones(len(ids), np.bool_)
        first[1:] = hashes[order][1:] != hashes[order][:-1]
        kept = np.sort(order[first])
        self.ids, self.is_ok = ids[kept], is_ok[kept]
        self.part = np.repeat(np.arange(len(parts), dtype=np.int32), [table.num_rows for table in tables])[kept]
        numbers = [_array_numbers(part) for part in parts]
        self.array = (np.concatenate(numbers) if numbers else np.empty(0, np.int16))[kept]
        self.row = _column(tables, "row", np.int64)[kept]
        self.height, self.width = (_column(tables, name, np.int32)[kept] for name in ("height", "width"))
        hashes = hashes[kept]
        self._order = np.argsort(hashes)
        self._sorted = hashes[self._order]
        self.rejected = _reasons(tables, kept[~self.is_ok])

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Position of each image in the columns, -1 for unknown ones."""
        wanted = _encoded(image_ids)
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        places = np.searchsorted(self._sorted, _hashes(wanted, self._width, self._seed))
        found = self._order[np.minimum(places, len(self) - 1)]
        return np.where(self.ids[found] == wanted, found, -1)

    def name(self, position: int) -> str:
        """Image id at a position of the columns."""
        return bytes(self.ids[position]).decode()

    @property
    def _width(self) -> int:
        return self.ids.dtype.itemsize


def _encoded(image_ids: Sequence[str]) -> _Ids:
    if not len(image_ids):
        return np.empty(0, "S1")
    return np.array([image_id.encode() for image_id in image_ids])


def _ids_of(column: Any) -> _Ids:
    """Strings of a column as fixed-width bytes; of equal length, as hashes are, without a Python object each."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.string())
    if not len(array):
        return np.empty(0, "S1")
    lengths = pc.binary_length(array)
    width = pc.max(lengths).as_py()
    if pc.min(lengths).as_py() < width or not width:
        return _encoded(array.to_pylist())
    _, offsets, data = array.buffers()
    start = int(np.frombuffer(offsets, np.int32, 1, 4 * array.offset)[0])
    return np.frombuffer(data, f"S{width}", len(array), start)


def _joined(pieces: Sequence[_Ids]) -> _Ids:
    return np.concatenate(pieces) if pieces else np.empty(0, "S1")


def _column(tables: Sequence[pa.Table], name: str, dtype: Any, of: Any = lambda column: column) -> npt.NDArray[Any]:
    if not tables:
        return np.empty(0, dtype)
    return np.concatenate([np.asarray(of(table[name]).to_numpy(), dtype) for table in tables])


def _array_numbers(part: PartRows) -> npt.NDArray[np.int16]:
    numbers = pc.index_in(part.table["array"], value_set=pa.array(part.arrays, pa.string()))
    return np.asarray(numbers.to_numpy(), np.int16)


def _reasons(tables: Sequence[pa.Table], positions: npt.NDArray[np.int64]) -> dict[str, str]:
    if not len(positions):
        return {}
    names = pa.chunked_array([chunk for table in tables for chunk in table["image_id"].chunks], pa.string())
    details = pa.chunked_array([chunk for table in tables for chunk in table["detail"].chunks], pa.string())
    taken = pa.array(positions)
    return dict(zip(names.take(taken).to_pylist(), details.take(taken).to_pylist(), strict=True))


def _hashes(ids: _Ids, width: int, seed: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id, by its first `width` bytes."""
    num_words = -(-width // _WORD_BYTES)
    words = ids.astype(f"S{num_words * _WORD_BYTES}", copy=False).view("<u8").reshape(len(ids), num_words)
    return (words * _factors(num_words, seed)).sum(axis=1, dtype=np.uint64)


@lru_cache(maxsize=8)
def _factors(num_words: int, seed: int) -> npt.NDArray[np.uint64]:
    """Odd numbers, by which multiplying loses nothing."""
    return np.random.default_rng(seed).integers(0, 2**63, num_words, np.uint64) * np.uint64(2) + np.uint64(1)


def _hashes_without_collision(ids: _Ids) -> tuple[int, npt.NDArray[np.uint64]]:
    """Hashes by the first seed that tells all ids apart; of a million ids one in 10^7 needs the second."""
    for seed in range(64):
        hashes = _hashes(ids, ids.dtype.itemsize, seed)
        order = np.argsort(hashes)
        equal = hashes[order][1:] == hashes[order][:-1]
        if (ids[order][1:][equal] == ids[order][:-1][equal]).all():
            return seed, hashes
    raise AssertionError("64 hashes collide")
