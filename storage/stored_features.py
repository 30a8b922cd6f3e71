"""Features as they lie in a store, the way back from there, and what a codec is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from storage.errors import DataError
from storage.keys import Json

__all__ = [
    "Allocate",
    "Basis",
    "Codec",
    "Float32",
    "Int32",
    "StoredFeature",
    "check_range",
    "relative_error",
    "unzigzag",
    "zigzag",
]

Float32: TypeAlias = npt.NDArray[np.float32]
Int32: TypeAlias = npt.NDArray[np.int32]

Allocate: TypeAlias = Callable[[int], memoryview]
"""Gives a writable buffer of so many bytes, to read values into: memory of one's own, pinned or used again."""


def _no_floats() -> Float32:
    return np.empty(0, np.float32)


def _no_ints() -> Int32:
    return np.empty(0, np.int32)


@dataclass(frozen=True, eq=False)
class Basis:
    """A rotation of channel space about a point: features f have the coefficients `rotation @ (f - mean)`."""

    mean: Float32
    """[channels], in channels of the teacher."""
    rotation: Float32
    """[channels, channels], orthogonal; rows are principal directions by falling variance."""

    def rotate(self, features: Float32) -> Float32:
        """Coefficients [channels, cells] of features [channels, cells]."""
        coefficients: Float32 = np.matmul(self.rotation, features - self.mean[:, None], dtype=np.float32)
        return coefficients

    def restore(self, coefficients: Float32) -> Float32:
        """Features [channels, cells] of coefficients [channels, cells]."""
        features: Float32 = np.matmul(self.rotation.T, coefficients, dtype=np.float32)
        return features + self.mean[:, None]


@dataclass(frozen=True, eq=False)
class StoredFeature:
    """The features of one image as stored.

    The coefficient of channel c in cell n (row-major in the height x width grid) is
    `integers[c, n] * scale[c] + offset[c]`, except at the outliers, whose coefficients are given
    exactly. Without a basis coefficients are the features; with one they are the features' principal
    components, see `Basis`. `scale` is empty for a codec that stores values as they are, and one
    number for a codec with one step per image.
    """

    values: npt.NDArray[Any]
    """[channels, height * width]: float16, int8, or uint16 for zigzag integers."""
    height: int
    """Rows of the grid, in cells."""
    width: int
    """Columns of the grid, in cells."""
    scale: Float32 = field(default_factory=_no_floats)
    """[channels], [1], or empty."""
    offset: Float32 = field(default_factory=_no_floats)
    """[channels], or empty."""
    outlier_channel: Int32 = field(default_factory=_no_ints)
    outlier_cell: Int32 = field(default_factory=_no_ints)
    outlier_value: Float32 = field(default_factory=_no_floats)
    basis: Basis | None = None
    relative_mse: float = 0.0
    """Mean squared error of coding over the variance within the image, channel means removed."""

    def with_values(self, values: npt.NDArray[Any]) -> StoredFeature:
        """The same scales and outliers for other values; `dataclasses.replace` takes many times as long."""
        return StoredFeature(
            values,
            self.height,
            self.width,
            self.scale,
            self.offset,
            self.outlier_channel,
            self.outlier_cell,
            self.outlier_value,
            self.basis,
            self.relative_mse,
        )

    def coefficients(self) -> Float32:
        """Coefficients, float32 [channels, height, width]: the features, or their principal components."""
        values = unzigzag(self.values) if self.values.dtype == np.uint16 else self.values
        coefficients = values.astype(np.float32)
        if self.scale.size:
            coefficients *= self.scale[:, None]
        if self.offset.size:
            coefficients += self.offset[:, None]
        coefficients[self.outlier_channel, self.outlier_cell] = self.outlier_value
        return coefficients.reshape(coefficients.shape[0], self.height, self.width)

    def dequantise(self) -> Float32:
        """The features, float32 [channels, height, width]."""
        coefficients = self.coefficients()
        if self.basis is None:
            return coefficients
        channels = coefficients.shape[0]
        return self.basis.restore(coefficients.reshape(channels, -1)).reshape(coefficients.shape)


@runtime_checkable
class Codec(Protocol):
    """What a stored encoding has to offer. All methods are safe to call from several threads."""

    @property
    def encoding(self) -> str:
        """As stores and keys say it: the codec's name, and the hash of its calibration if it has one."""
        ...

    @property
    def calibration(self) -> bytes | None:
        """What has to lie beside the features to read them; None: nothing."""
        ...

    @property
    def bits_per_value(self) -> float:
        """Stored bits per value that plans and forecasts reckon with."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored values, little-endian."""
        ...

    @property
    def sentinel(self) -> float | int:
        """The value that marks what was never written; no stored value equals it."""
        ...

    def num_scales(self, num_channels: int) -> int:
        """Scales that each stored row carries."""
        ...

    def num_offsets(self, num_channels: int) -> int:
        """Offsets that each stored row carries."""
        ...

    def encode(self, features: Float32) -> StoredFeature:
        """Stores float32 [channels, height, width]; raises DataError for values it can't hold."""
        ...

    @property
    def basis(self) -> Basis | None:
        """In what the coefficients are given; None: in the teacher's channels."""
        ...

    def pack(self, values: npt.NDArray[Any]) -> bytes | memoryview:
        """Bytes of a chunk, before its checksum, from contiguous values [channels, cells]."""
        ...

    @property
    def stands_alone(self) -> bool:
        """Whether values need nothing beside them, such as scales."""
        ...

    @property
    def is_plain(self) -> bool:
        """Whether a chunk is the values themselves, so that `unpack` gives a view of it."""
        ...

    def unpack(
        self, body: memoryview, num_channels: int, cells: int, allocate: Allocate | None = None
    ) -> npt.NDArray[Any]:
        """Values [channels, cells] of a chunk without its checksum; raises DataError."""
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


def zigzag(integers: npt.NDArray[np.int32]) -> npt.NDArray[np.uint16]:
    """Integers of -32767 to 32767 as unsigned ones, small ones small: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    return ((integers << 1) ^ (integers >> 31)).astype(np.uint16)


def unzigzag(codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.int16]:
    """The inverse of `zigzag`.

    >>> unzigzag(zigzag(np.array([0, -1, 1, 32767, -32767], np.int32))).tolist()
    [0, -1, 1, 32767, -32767]
    """
    signs = (codes & 1).view(np.int16)
    return (codes >> 1).view(np.int16) ^ -signs


def check_range(features: Float32, limit: float, advice: str) -> None:
    """Raises DataError for values that are not finite, or of magnitude `limit` or more."""
    num_bad = int(features.size - np.count_nonzero(np.isfinite(features)))
    if num_bad:
        raise DataError(f"features: {num_bad} of {features.size} values are not finite")
    largest = float(np.abs(features).max(initial=0.0))
    if largest >= limit:
        raise DataError(f"features: a value of magnitude {largest:g} {advice}")


def relative_error(squared_error: float, flat: Float32) -> float:
    """Mean squared error over the variance of features [channels, cells], channel means removed."""
    variance = float(flat.var(axis=1, dtype=np.float64).mean())
    return float(np.float32(squared_error / variance)) if variance > 0 else 0.0
