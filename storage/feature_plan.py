"""Which image goes to which row of which array and shard: pure, and the same on every machine.

Photographs have many shapes, most of them rare. An array holds a *size class*: every grid whose
number of cells lies close below the class's, so that only the tail of a row is padding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["MAX_SHARD_BYTES", "ArrayPlan", "PartPlan", "PlannedRow", "ShardPlan", "class_cells", "plan_rows"]

MAX_SHARD_BYTES = 64 * 2**20
"""Stored size of a full shard; balanced shards lie between half of this and this."""

_STEPS_PER_OCTAVE = 24  # ratio 2^(1/24) = 1.0293: under 2.9 % padding
_MAX_OCTAVE = 31


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """An image and the grid of its features, in cells."""

    image_id: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """One array: [num_rows, num_channels, cells], cut into shards of `rows_per_shard` rows."""

    name: str
    num_rows: int
    num_channels: int
    cells: int
    rows_per_shard: int

    @property
    def num_shards(self) -> int:
        """Number of shards; the last may hold fewer rows."""
        return -(-self.num_rows // self.rows_per_shard)

    def shard_rows(self, shard_index: int) -> range:
        """Rows of the array that lie in one shard."""
        if not 0 <= shard_index < self.num_shards:
            raise ValueError(f"array {self.name}: no shard {shard_index}, it has {self.num_shards}")
        start = shard_index * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def shard_key(self, shard_index: int) -> str:
        """Key of a shard's object below the part."""
        return f"{self.name}/c/{shard_index}/0/0"


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The unit of work: one shard and the images that make it, in order."""

    array: ArrayPlan
    index: int
    rows: tuple[PlannedRow, ...]

    @property
    def key(self) -> str:
        """Key of the shard's object below the part."""
        return self.array.shard_key(self.index)


@dataclass(frozen=True, slots=True)
class PartPlan:
    """All arrays of a part, by rising size class, and the images in their rows."""

    arrays: tuple[ArrayPlan, ...]
    rows: tuple[tuple[PlannedRow, ...], ...]
    """Per array, in the order of `arrays`."""

    @property
    def num_images(self) -> int:
        """Number of planned images."""
        return sum(array.num_rows for array in self.arrays)

    def shards(self) -> Iterator[ShardPlan]:
        """Every shard of the part."""
        for array, rows in zip(self.arrays, self.rows, strict=True):
            for index in range(array.num_shards):
                span = array.shard_rows(index)
                yield ShardPlan(array, index, rows[span.start : span.stop])


def _root_floor(exponent: int) -> int:
    """Floor of 2^(exponent / 24), by integers alone."""
    guess = int(2.0 ** (exponent / _STEPS_PER_OCTAVE))
    power = 1 << exponent
    while guess**_STEPS_PER_OCTAVE > power:
        guess -= 1
    while (guess + 1) ** _STEPS_PER_OCTAVE <= power:
        guess += 1
    return guess


@lru_cache(maxsize=1)
def _ladder() -> tuple[int, ...]:
    return tuple(sorted({_root_floor(exponent) for exponent in range(_STEPS_PER_OCTAVE * _MAX_OCTAVE + 1)}))


def class_cells(num_cells: int) -> int:
    """Cells of the size class of a grid with `num_cells` cells.

    Classes are a fixed ladder with 24 steps from one power of two to the next, so that padding
    stays under 2.9 %; up to 34 cells there is none.

    Raises:
        ValueError: `num_cells` is not within 1 to 2^31.

    >>> class_cells(30 * 40), class_cells(64 * 64), class_cells(7)
    (1217, 4096, 7)
    """
    ladder = _ladder()
    if not 1 <= num_cells <= ladder[-1]:
        raise ValueError(f"feature grid: expected 1 to {ladder[-1]} cells, got {num_cells}")
    return ladder[bisect_left(ladder, num_cells)]


def plan_rows(
    images: Iterable[tuple[str, int, int]],
    num_channels: int,
    bytes_per_value: int | float,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> PartPlan:
    """Assigns images to arrays, rows and shards.

    Within an array images of one exact shape are contiguous, shapes come in the order of their
    first image, and images of a shape keep the given order. Shards of an array are of equal size
    but for the last.

    Args:
        images: (image_id, height, width) with the size of the feature grid in cells.
        num_channels: of every image.
        bytes_per_value: as stored, what is expected of a compressing encoding.
        max_shard_bytes: stored size that a shard should not exceed (one image may).

    Raises:
        ValueError: an image twice, or a size below 1.
    """
    if min(num_channels, max_shard_bytes) < 1 or bytes_per_value <= 0:
        raise ValueError("plan_rows: channels and shard size must be at least 1, bytes per value above 0")
    shapes: dict[tuple[int, int], list[PlannedRow]] = {}
    seen: set[str] = set()
    for image_id, height, width in images:
        if image_id in seen:
            raise ValueError(f"plan_rows: image {image_id} is listed twice")
        if min(height, width) < 1:
            raise ValueError(f"plan_rows: image {image_id} has a grid of {height}x{width} cells")
        seen.add(image_id)
        shapes.setdefault((height, width), []).append(PlannedRow(image_id, height, width))
    classes: dict[int, list[PlannedRow]] = {}
    for (height, width), rows in shapes.items():
        classes.setdefault(class_cells(height * width), []).extend(rows)
    arrays = [
        _plan_array(cells, classes[cells], num_channels, bytes_per_value, max_shard_bytes) for cells in sorted(classes)
    ]
    return PartPlan(tuple(arrays), tuple(tuple(classes[array.cells]) for array in arrays))


def _plan_array(
    cells: int, rows: Sequence[PlannedRow], num_channels: int, bytes_per_value: int | float, max_shard_bytes: int
) -> ArrayPlan:
    most = max(1, int(max_shard_bytes / (num_channels * cells * bytes_per_value)))
    num_shards = -(-len(rows) // most)
    return ArrayPlan(f"l{cells}", len(rows), num_channels, cells, -(-len(rows) // num_shards))
