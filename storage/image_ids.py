"""Finds images by their ids in columns: eighty bytes per image, where a dictionary of strings takes hundreds."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every column in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

__all__ = ["Ids", "ImageIds", "decoded_ids", "hash_ids", "ids_of_column"]

pc: Any = pyarrow.compute  # its functions are made at import, unseen by the checker

Ids: TypeAlias = npt.NDArray[Any]
"""Image ids, UTF-8: np.bytes_, whose width is a part of its dtype."""

_WORD_BYTES = 8


class ImageIds:
    """Image ids by their positions, and the other way round.

    Args:
        ids: image ids; of one that is there twice the first position counts.
        hashed: what `hash_ids` gave of them; None: computed here.
    """

    def __init__(self, ids: Ids, hashed: tuple[int, npt.NDArray[np.uint64]] | None = None) -> None:
        self.ids = ids
        self._seed, hashes = hash_ids(ids) if hashed is None else hashed
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, image_ids: Sequence[str] | Ids) -> npt.NDArray[np.int64]:
        """Position of each image, -1 for unknown ones."""
        wanted = image_ids if isinstance(image_ids, np.ndarray) else _encoded(image_ids)
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        hashes = _hashes(wanted, self.ids.dtype.itemsize, self._seed)
        # In order of their hashes a million are looked up four times as fast: neighbours meet the same cache lines.
        order = np.argsort(hashes)
        places = np.minimum(np.searchsorted(self._sorted, hashes[order]), len(self) - 1)
        is_hit = self._sorted[places] == hashes[order]
        candidates, hits = self._order[places[is_hit]], order[is_hit]
        is_same = self.ids[candidates] == wanted[hits]
        found = np.full(len(wanted), -1, np.int64)
        found[hits[is_same]] = candidates[is_same]
        return found


def ids_of_column(column: Any) -> Ids:
    """Image ids of a column of strings; of equal length, as hashes are, without a Python object each.

    One Arrow array of strings ends at 2^31 bytes, which are 33 million ids: chunks are never joined as such.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    pieces = [_ids_of_chunk(chunk) for chunk in chunks if len(chunk)]
    return np.concatenate(pieces) if pieces else np.empty(0, "S1")


def decoded_ids(ids: Ids) -> list[str]:
    """Image ids as strings."""
    return [image_id.decode() for image_id in ids.tolist()]


def hash_ids(ids: Ids) -> tuple[int, npt.NDArray[np.uint64]]:
    """The first seed whose hashes tell all ids apart, and those; of a million ids one in 10^7 needs the second."""
    for seed in range(64):
        hashes = _hashes(ids, ids.dtype.itemsize, seed)
        order = np.argsort(hashes)
        equal = hashes[order][1:] == hashes[order][:-1]
        if (ids[order[1:][equal]] == ids[order[:-1][equal]]).all():
            return seed, hashes
    raise AssertionError("64 hashes collide")


def _encoded(image_ids: Sequence[str]) -> Ids:
    if not len(image_ids):
        return np.empty(0, "S1")
    return np.array([image_id.encode() for image_id in image_ids])


def _ids_of_chunk(array: Any) -> Ids:
    array = array.cast(pa.large_string())  # of the views that are sliced too, one layout
    lengths = pc.binary_length(array)
    width = pc.max(lengths).as_py()
    if pc.min(lengths).as_py() < width or not width:
        return _encoded(array.to_pylist())
    _, offsets, data = array.buffers()
    start = int(np.frombuffer(offsets, np.int64, 1, 8 * array.offset)[0])
    return np.frombuffer(data, f"S{width}", len(array), start)


def _hashes(ids: Ids, width: int, seed: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id, by its first `width` bytes."""
    num_words = -(-width // _WORD_BYTES)
    words = ids.astype(f"S{num_words * _WORD_BYTES}", copy=False).view("<u8").reshape(len(ids), num_words)
    return (words * _factors(num_words, seed)).sum(axis=1, dtype=np.uint64)


@lru_cache(maxsize=8)
def _factors(num_words: int, seed: int) -> npt.NDArray[np.uint64]:
    """Odd numbers, by which multiplying loses nothing."""
    return np.random.default_rng(seed).integers(0, 2**63, num_words, np.uint64) * np.uint64(2) + np.uint64(1)
