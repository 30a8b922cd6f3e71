"""Pictures that look alike: near perceptual hashes propose, thumbnails decide.

Plain pictures share hashes by chance, so that a hash alone would take any two of clear sky for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["look_alikes"]

_BITS = 64
_PAIRS_AT_ONCE = 2**20


def look_alikes(
    hashes: npt.NDArray[np.uint64],
    other_hashes: npt.NDArray[np.uint64],
    thumbnails: npt.NDArray[np.uint8],
    other_thumbnails: npt.NDArray[np.uint8],
    max_distance: int,
    max_difference: float,
) -> list[tuple[int, int, int]]:
    """Pairs of pictures that look alike.

    Two hashes that differ in at most d bits agree in one of any d + 1 pieces that they are cut into: only those that
    share a piece are compared.

    Args:
        hashes: dHash of each picture on one side.
        other_hashes: of each on the other side.
        thumbnails: uint8 (pictures, cells), grey.
        other_thumbnails: the same on the other side.
        max_distance: bits in which hashes may differ.
        max_difference: mean absolute difference of thumbnails in grey levels, each less its mean.

    Returns:
        Row on one side, row on the other, number of bits that differ; in no order.
    """
    found: dict[tuple[int, int], int] = {}
    if not len(hashes) or not len(other_hashes):
        return []
    bounds = [piece * _BITS // (max_distance + 1) for piece in range(max_distance + 2)]
    for low, high in pairwise(bounds):
        mask = np.uint64(((1 << (high - low)) - 1) << low)
        for rows, others in _sharing(hashes & mask, other_hashes & mask):
            distance = np.bitwise_count(hashes[rows] ^ other_hashes[others])
            near = distance <= max_distance
            rows, others, distance = rows[near], others[near], distance[near]
            if not len(rows):
                continue
            difference = np.abs(_centred(thumbnails[rows]) - _centred(other_thumbnails[others])).mean(axis=1)
            alike = difference <= max_difference
            for row, other, bits in zip(rows[alike], others[alike], distance[alike], strict=True):
                found[int(row), int(other)] = int(bits)
    return [(row, other, bits) for (row, other), bits in found.items()]


def _sharing(
    keys: npt.NDArray[np.uint64], other_keys: npt.NDArray[np.uint64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rows of both sides with equal keys, as pairs, some at once."""
    order = np.argsort(other_keys, kind="stable")
    first = np.searchsorted(other_keys[order], keys, side="left")
    last = np.searchsorted(other_keys[order], keys, side="right")
    counts = last - first
    start = 0
    while start < len(keys):
        # As many rows as have together a million pairs, one at least.
        total = np.cumsum(counts[start:])
        stop = start + max(1, int(np.searchsorted(total, _PAIRS_AT_ONCE, side="right")))
        number = counts[start:stop]
        rows = np.repeat(np.arange(start, stop), number)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(number) - number, number)
        yield rows, order[np.repeat(first[start:stop], number) + within]
        start = stop


def _centred(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    cells = thumbnails.astype(np.float32)
    return cells - cells.mean(axis=1, keepdims=True) if cells.size else cells
