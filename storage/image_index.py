"""Which row of which part holds an image: columns instead of a million small objects."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from storage.image_ids import ImageIds, decoded_ids, hash_ids, ids_of_column
from storage.shards import RowStatus

__all__ = ["ImageIndex", "PartRows"]

pc: Any = pyarrow.compute  # its functions are made at import, unseen by the checker


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
        ids = ids_of_column(_strings(tables, "image_id"))
        is_ok = _column(tables, "status", np.bool_, lambda column: pc.equal(column, RowStatus.OK.value))
        seed, hashes = hash_ids(ids)
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
        self._by_id = ImageIds(self.ids, (seed, hashes[kept]))
        self.rejected = dict(
            zip(
                decoded_ids(self.ids[~self.is_ok]),
                _strings(tables, "detail").take(pa.array(kept[~self.is_ok])).to_pylist(),
                strict=True,
            )
        )

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Position of each image in the columns, -1 for unknown ones."""
        return self._by_id.find(image_ids)

    def name(self, position: int) -> str:
        """Image id at a position of the columns."""
        return bytes(self.ids[position]).decode()


def _strings(tables: Sequence[pa.Table], name: str) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for table in tables for chunk in table[name].chunks], pa.string())


def _column(tables: Sequence[pa.Table], name: str, dtype: Any, of: Any = lambda column: column) -> npt.NDArray[Any]:
    if not tables:
        return np.empty(0, dtype)
    return np.concatenate([np.asarray(of(table[name]).to_numpy(), dtype) for table in tables])


def _array_numbers(part: PartRows) -> npt.NDArray[np.int16]:
    numbers = pc.index_in(part.table["array"], value_set=pa.array(part.arrays, pa.string()))
    return np.asarray(numbers.to_numpy(), np.int16)
