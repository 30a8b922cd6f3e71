"""Memory that features are read into, so that nothing is copied behind the read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from storage.stored_features import Allocate, StoredFeature

__all__ = ["BufferRing", "StackedMemory", "ValueMemory"]

_ALIGNMENT = 64  # of every feature, so that it may be viewed in its own type, and is read in whole cache lines


@runtime_checkable
class ValueMemory(Protocol):
    """Gives the memory that the values of each feature of a read come to lie in. Threads share it."""

    def at(self, position: int) -> Allocate:
        """Memory for the feature at a position of the read."""
        ...


class BufferRing:
    """Memory that is used again: each feature gets the next of so many buffers, which then overwrites what it held.

    Features that were read into it stay good until as many more have been read.

    Args:
        num_buffers: features in use at a time.
    """

    def __init__(self, num_buffers: int) -> None:
        self._buffers: list[npt.NDArray[np.uint8]] = [np.empty(0, np.uint8)] * num_buffers
        self._lock, self._next = threading.Lock(), 0

    def at(self, position: int) -> Allocate:
        """Memory for the feature at a position: the next buffer, whatever the position."""
        del position
        return self._next_buffer

    def _next_buffer(self, num_bytes: int) -> memoryview:
        with self._lock:
            place, self._next = self._next, (self._next + 1) % len(self._buffers)
            if self._buffers[place].size < num_bytes:
                self._buffers[place] = np.empty(num_bytes, np.uint8)
            return self._buffers[place].data[:num_bytes]


class StackedMemory:
    """Memory in which the features of a group lie one behind the other: a batch as soon as they are read.

    Args:
        groups: positions of the read that belong together, each in one group at most; features of a group have one
            shape.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        self._groups = groups
        self._places = {
            position: (number, place) for number, group in enumerate(groups) for place, position in enumerate(group)
        }
        self._blocks: dict[int, npt.NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def at(self, position: int) -> Allocate:
        """Memory for the feature at a position: its place in its group."""
        return partial(self._slot, *self._places[position])

    def _slot(self, number: int, place: int, num_bytes: int) -> memoryview:
        with self._lock:
            if number not in self._blocks:
                stride = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
                self._blocks[number] = np.empty((len(self._groups[number]), stride), np.uint8)
        return self._blocks[number][place].data[:num_bytes]

    def stacked(self, number: int, features: Sequence[StoredFeature]) -> npt.NDArray[Any]:
        """Values of a group's features, [features, channels, cells]; a copy only where some don't lie in their place.

        Args:
            number: of the group.
            features: that were read, in the order of the group.
        """
        values = [feature.values for feature in features]
        block, first = self._blocks.get(number), values[0]
        if block is None or not all(
            own.ctypes.data == row.ctypes.data and own.strides == first.strides and own.shape == first.shape
            for own, row in zip(values, block, strict=True)
        ):
            return np.stack(values)
        return np.lib.stride_tricks.as_strided(
            first, (len(values), *first.shape), (block.strides[0], *first.strides), writeable=True
        )
