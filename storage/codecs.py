"""How feature values are stored: `raw16` and `int8`.

A codec turns the float32 features of one image, [channels, cells], into a `StoredFeature`: an array
of a small dtype plus what is needed to get the values back. A student's loss can take the stored
integers to the device and dequantise there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from storage.errors import DataError, UnknownKind
from storage.keys import Json

__all__ = ["Codec", "Int8Codec", "Raw16Codec", "StoredFeature", "codec_of"]

Float32: TypeAlias = npt.NDArray[np.float32]
Int32: TypeAlias = npt.NDArray[np.int32]

_ROBUST_SIGMAS = 6.0
_IQR_OF_NORMAL = 1.349  # interquartile range of a normal distribution, in sigmas
_MAX_OUTLIER_SHARE = 1 / 256  # per side and channel; at 12 bytes each under 10 % of the int8 bytes


def _no_floats() -> Float32:
    return np.empty(0, np.float32)


def _no_ints() -> Int32:
    return np.empty(0, np.int32)


@dataclass(frozen=True, eq=False)
class StoredFeature:
    """The features of one image as stored.

    The value of channel c in cell n (row-major in the height x width grid) is
    `values[c, n] * scale[c] + offset[c]`, except at the outliers, whose values are given exactly.
    `scale` and `offset` are empty for a codec that stores values as they are.
    """

    values: npt.NDArray[Any]
    """[channels, height * width], float16 or int8."""
    height: int
    """Rows of the grid, in cells."""
    width: int
    """Columns of the grid, in cells."""
    scale: Float32 = field(default_factory=_no_floats)
    """[channels], or empty."""
    offset: Float32 = field(default_factory=_no_floats)
    """[channels], or empty."""
    outlier_channel: Int32 = field(default_factory=_no_ints)
    outlier_cell: Int32 = field(default_factory=_no_ints)
    outlier_value: Float32 = field(default_factory=_no_floats)

    def dequantise(self) -> Float32:
        """The features, float32 [channels, height, width]."""
        values = self.values.astype(np.float32)
        if self.scale.size:
            values *= self.scale[:, None]
            values += self.offset[:, None]
        values[self.outlier_channel, self.outlier_cell] = self.outlier_value
        return values.reshape(values.shape[0], self.height, self.width)


@runtime_checkable
class Codec(Protocol):
    """What a stored encoding has to offer."""

    @property
    def name(self) -> str:
        """As recipes and part metadata say it."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored values, little-endian."""
        ...

    @property
    def sentinel(self) -> float | int:
        """The value that marks what was never written; no stored value equals it."""
        ...

    @property
    def has_affine(self) -> bool:
        """Whether each row carries scales, offsets and outliers."""
        ...

    def encode(self, features: Float32) -> StoredFeature:
        """Stores float32 [channels, height, width]; raises DataError for values it can't hold."""
        ...

    def zarr_data_type(self) -> str:
        """`data_type` of the array's metadata."""
        ...

    def zarr_fill_value(self) -> Json:
        """`fill_value` of the array's metadata: the sentinel."""
        ...

    def zarr_codecs(self) -> Sequence[Json]:
        """The chunk's codec chain in the array's metadata."""
        ...


def _check_range(features: Float32, limit: float, advice: str) -> None:
    num_bad = int(features.size - np.count_nonzero(np.isfinite(features)))
    if num_bad:
        raise DataError(f"features: {num_bad} of {features.size} values are not finite")
    largest = float(np.abs(features).max(initial=0.0))
    if largest >= limit:
        raise DataError(f"features: a value of magnitude {largest:g} {advice}")


class Raw16Codec:
    """Half precision, 2 bytes per value; the sentinel is NaN."""

    name = "raw16"
    dtype = np.dtype("<f2")
    sentinel = float("nan")
    has_affine = False

    def encode(self, features: Float32) -> StoredFeature:
        """Rounds to float16.

        Raises:
            DataError: a value is not finite or beyond what float16 holds (65504).
        """
        # 65520 is the first value that rounds to infinity.
        _check_range(features, 65520.0, "is beyond float16 (65504); use the int8 encoding")
        channels, height, width = features.shape
        return StoredFeature(features.reshape(channels, -1).astype(self.dtype), height, width)

    def zarr_data_type(self) -> str:
        return "float16"

    def zarr_fill_value(self) -> Json:
        return "NaN"

    def zarr_codecs(self) -> Sequence[Json]:
        return [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


class Int8Codec:
    """One byte per value, affine per image and channel; the sentinel is -128.

    The range of a channel reaches to 6 robust sigmas (from the interquartile range) around its
    median, or as far as needed to leave out at most 1/256 of the values on either side. What lies
    further out is stored exactly beside it: a single value at 200 sigmas within the range would
    cost every other value 7 dB.
    """

    name = "int8"
    dtype = np.dtype("i1")
    sentinel = -128
    has_affine = True

    def encode(self, features: Float32) -> StoredFeature:
        """Quantises.

        Raises:
            DataError: a value is not finite, or above 1e30.
        """
        _check_range(features, 1e30, "is no feature; the teacher diverges")
        channels, height, width = features.shape
        flat = np.ascontiguousarray(features.reshape(channels, -1), dtype=np.float32)
        low, high = _robust_range(flat)
        scale = ((high - low) / 254.0).astype(np.float32)
        offset = (low + (high - low) / 2).astype(np.float32)
        # A range too narrow for float32 counts as constant; what differs becomes an outlier.
        step = np.where(scale > 0, scale, 1).astype(np.float32)
        centred = flat - offset[:, None]
        codes = np.clip(np.rint(centred / step[:, None]), -127, 127)
        restored = codes.astype(np.float32) * scale[:, None] + offset[:, None]
        # Half a step is what rounding costs; the rest of the margin is float32's own rounding.
        margin = 0.505 * scale + 1e-6 * np.abs(offset)
        channel, cell = np.nonzero(np.abs(flat - restored) > margin[:, None])
        return StoredFeature(
            codes.astype(np.int8),
            height,
            width,
            scale,
            offset,
            channel.astype(np.int32),
            cell.astype(np.int32),
            flat[channel, cell],
        )

    def zarr_data_type(self) -> str:
        return "int8"

    def zarr_fill_value(self) -> Json:
        return self.sentinel

    def zarr_codecs(self) -> Sequence[Json]:
        return [{"name": "bytes"}, {"name": "crc32c"}]


def _robust_range(flat: Float32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest and highest value per channel that the codes shall cover."""
    ordered = np.sort(flat, axis=1)
    num_cells = flat.shape[1]
    last = num_cells - 1
    lower_quartile, median, upper_quartile = (
        ordered[:, round(last * share)].astype(np.float64) for share in (0.25, 0.5, 0.75)
    )
    reach = _ROBUST_SIGMAS * (upper_quartile - lower_quartile) / _IQR_OF_NORMAL
    num_out = int(num_cells * _MAX_OUTLIER_SHARE)
    low = np.minimum(median - reach, ordered[:, num_out])
    high = np.maximum(median + reach, ordered[:, last - num_out])
    # Down to the values that are there, so that no code is spent on the gap before an outlier.
    first_in = np.count_nonzero(ordered < low[:, None], axis=1)
    last_in = np.count_nonzero(ordered <= high[:, None], axis=1) - 1
    channels = np.arange(len(ordered))
    return ordered[channels, first_in].astype(np.float64), ordered[channels, last_in].astype(np.float64)


_CODECS: dict[str, Codec] = {codec.name: codec for codec in (Raw16Codec(), Int8Codec())}


def codec_of(name: str) -> Codec:
    """The codec of that name; raises UnknownKind."""
    if name not in _CODECS:
        raise UnknownKind("feature encoding", name, _CODECS)
    return _CODECS[name]
