"""Tidy statistics of a corpus: how often each quantity falls into each bin, by family, task and split."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.errors import DataError
from storage.masks import areas_px
from storage.schema import Mask

__all__ = ["STATISTICS_SCHEMA", "Bins", "Quantity", "Statistics"]

pc: Any = pyarrow.compute
_Integers: TypeAlias = NDArray[np.int64]
Bins: TypeAlias = dict[tuple[float, float], int]
"""Counts by (start, end) of the bin; ascending, empty bins left out."""


class Quantity(StrEnum):
    """What is counted. A bin reaches from its start up to, but not including, its end."""

    WORDS_PER_EXPRESSION = "words_per_expression"
    """Words on the user's side of a turn; placeholders are no words, and a side without words isn't counted."""
    WORDS_PER_ANSWER = "words_per_answer"
    """The same of the assistant's side."""
    MASK_AREA_SHARE = "mask_area_share"
    """Area of a mask as a share of its image; the last bin includes 1."""
    MASKS_PER_SAMPLE = "masks_per_sample"
    """Regions of a sample."""
    EXPRESSIONS_PER_IMAGE = "expressions_per_image"
    """Turns of a family, task and split on one image."""
    IMAGE_WIDTH_PX = "image_width_px"
    """Width of an image that samples of a family, task and split lie on; each image once."""
    IMAGE_HEIGHT_PX = "image_height_px"
    """Height of such an image."""


STATISTICS_SCHEMA = pa.schema(
    [
        pa.field("family", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("quantity", pa.string(), nullable=False),
        pa.field("bin_start", pa.float64(), nullable=False),
        pa.field("bin_end", pa.float64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
"""Columns of `statistics.parquet`; rows are sorted by all of them but the last."""

_SIDE_STEP_PX = 32
# Five bins per decade: 1e-05, 1.58e-05, 2.51e-05, ... 1. Most masks of photographs cover less than a tenth.
_AREA_EDGES = np.array([0.0, *(float(f"{10 ** (place / 5):.3g}") for place in range(-25, 1))])
_PLACEHOLDERS = r"<region\d+>|\[SEG\]|</?p>"
_SEPARATOR = "\0"
_BITS = 32
_LOWER = 2**_BITS - 1


class Statistics:
    """Counts that grow shard by shard and don't depend on the order of shards."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Quantity, int]] = Counter()

    def add(self, samples: pa.Table, images: pa.Table) -> None:
        """Counts one shard.

        Args:
            samples: of `SAMPLE_SCHEMA`; all samples of each of its images.
            images: `image_id`, `height` and `width` of all images that the samples name.

        Raises:
            DataError: a sample names an image that isn't there.
        """
        if not samples.num_rows:
            return
        samples = samples.combine_chunks()
        columns = [samples[name].combine_chunks() for name in ("family", "task", "split")]
        encoded = pc.binary_join_element_wise(*columns, _SEPARATOR).dictionary_encode()
        names = cast("list[str]", encoded.dictionary.to_pylist())
        groups = _integers(encoded.indices)
        turns = samples["turns"].combine_chunks()
        of_turn = groups[_integers(pc.list_parent_indices(turns))]
        for quantity, side in ((Quantity.WORDS_PER_EXPRESSION, "text"), (Quantity.WORDS_PER_ANSWER, "answer")):
            words = _num_words(pc.struct_field(pc.list_flatten(turns), side))
            self._count(names, quantity, of_turn[words > 0], words[words > 0])
        regions = samples["regions"].combine_chunks()
        self._count(names, Quantity.MASKS_PER_SAMPLE, groups, _integers(pc.list_value_length(regions)))
        shares = _area_shares(pc.struct_field(pc.list_flatten(regions), "mask"))
        bins = np.clip(np.searchsorted(_AREA_EDGES, shares, side="right") - 1, 0, len(_AREA_EDGES) - 2)
        self._count(names, Quantity.MASK_AREA_SHARE, groups[_integers(pc.list_parent_indices(regions))], bins)
        self._count_images(names, groups, samples["image_id"].combine_chunks(), turns, images)

    def bins(self, family: str, quantity: Quantity) -> Bins:
        """The counts of one quantity in a family, all tasks and splits together."""
        found: Counter[int] = Counter()
        for (group, of, place), count in self._counts.items():
            if of is quantity and group.partition(_SEPARATOR)[0] == family:
                found[place] += count
        return {_edges(quantity, place): found[place] for place in sorted(found)}

    def families(self) -> tuple[str, ...]:
        """Families that have a sample, sorted."""
        return tuple(sorted({group.partition(_SEPARATOR)[0] for group, _, _ in self._counts}))

    @staticmethod
    def area_bins() -> list[tuple[float, float]]:
        """All bins of `MASK_AREA_SHARE`, empty ones too."""
        return [_edges(Quantity.MASK_AREA_SHARE, place) for place in range(len(_AREA_EDGES) - 1)]

    def to_table(self) -> pa.Table:
        """All counts as a table of `STATISTICS_SCHEMA`."""
        rows: list[Mapping[str, object]] = []
        for group, quantity, place in sorted(self._counts):
            family, task, split = group.split(_SEPARATOR)
            start, end = _edges(quantity, place)
            count = self._counts[group, quantity, place]
            facts = {"family": family, "task": task, "split": split, "quantity": quantity.value}
            rows.append({**facts, "bin_start": start, "bin_end": end, "count": count})
        return pa.Table.from_pylist(rows, schema=STATISTICS_SCHEMA)

    def to_parquet(self) -> bytes:
        """All counts as a Parquet file."""
        sink = io.BytesIO()
        pq.write_table(self.to_table(), sink, compression="zstd")
        return sink.getvalue()

    def _count(self, names: list[str], quantity: Quantity, groups: _Integers, bins: _Integers) -> None:
        """Adds one for each entry; `groups` are indices into `names`."""
        keys, counts = np.unique(_paired(groups, bins), return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self._counts[names[key >> _BITS], quantity, key & _LOWER] += count

    def _count_images(
        self, names: list[str], groups: _Integers, image_ids: pa.Array, turns: pa.Array, images: pa.Table
    ) -> None:
        places = pc.index_in(image_ids, value_set=images["image_id"].combine_chunks())
        lost = pc.and_(pc.is_valid(image_ids), pc.is_null(places))
        if pc.any(lost).as_py():
            name = image_ids.filter(lost)[0].as_py()
            raise DataError(f"image {name}: a sample lies on it, but it is not in the sample's shard; run curate again")
        pictured = _integers(pc.fill_null(places, -1)) >= 0
        if not pictured.any():
            return
        keys, inverse = np.unique(_paired(groups[pictured], _integers(pc.drop_null(places))), return_inverse=True)
        of_group, images_of_group = keys >> _BITS, keys & _LOWER
        num_turns = _integers(pc.list_value_length(turns))[pictured]
        totals = np.bincount(inverse, weights=num_turns, minlength=len(keys)).astype(np.int64)
        self._count(names, Quantity.EXPRESSIONS_PER_IMAGE, of_group[totals > 0], totals[totals > 0])
        for quantity, side in ((Quantity.IMAGE_WIDTH_PX, "width"), (Quantity.IMAGE_HEIGHT_PX, "height")):
            sides = _integers(images[side].combine_chunks())[images_of_group]
            self._count(names, quantity, of_group, sides // _SIDE_STEP_PX)


def _paired(upper: _Integers, lower: _Integers) -> _Integers:
    """Two small numbers as one, which is sorted in a tenth of the time."""
    return (upper << _BITS) | lower


def _num_words(texts: pa.Array) -> _Integers:
    """Number of words of each text; 0 for none and for null."""
    bare = pc.replace_substring_regex(pc.fill_null(texts, ""), pattern=_PLACEHOLDERS, replacement=" ")
    bare = pc.utf8_trim_whitespace(bare)
    words = pc.list_value_length(pc.utf8_split_whitespace(bare))
    return np.where(_integers(pc.binary_length(bare)) == 0, 0, _integers(words))


def _area_shares(masks: pa.Array) -> NDArray[np.float64]:
    columns = [cast("list[Any]", pc.struct_field(masks, name).to_pylist()) for name in ("height", "width", "counts")]
    found = [Mask(height, width, counts) for height, width, counts in zip(*columns, strict=True)]
    pixels = np.array([mask.height * mask.width for mask in found], np.float64)
    return areas_px(found) / np.maximum(pixels, 1)


def _edges(quantity: Quantity, place: int) -> tuple[float, float]:
    if quantity is Quantity.MASK_AREA_SHARE:
        return float(_AREA_EDGES[place]), float(_AREA_EDGES[place + 1])
    step = _SIDE_STEP_PX if quantity in (Quantity.IMAGE_WIDTH_PX, Quantity.IMAGE_HEIGHT_PX) else 1
    return float(place * step), float((place + 1) * step)


def _integers(values: pa.Array) -> _Integers:
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.int64)
