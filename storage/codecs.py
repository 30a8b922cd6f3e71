"""How feature values are stored: `raw16`, `int8` and `klt`.

A codec turns the float32 features of one image, [channels, height, width], into a `StoredFeature`:
an array of a small dtype plus what is needed to get the values back. A student's loss can take the
stored integers to the device and dequantise there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import DataError, UnknownKind, UsageError
from storage.keys import Json
from storage.klt import Calibration, KltCodec
from storage.stored_features import Allocate, Basis, Codec, Float32, StoredFeature, check_range, relative_error

__all__ = ["Basis", "Codec", "Int8Codec", "Raw16Codec", "StoredFeature", "check_encoding", "codec_of"]

_ROBUST_SIGMAS = 6.0
_IQR_OF_NORMAL = 1.349  # interquartile range of a normal distribution, in sigmas
_MAX_OUTLIER_SHARE = 1 / 256  # per side and channel; at 12 bytes each under 10 % of the int8 bytes
_MAX_FAR_SHARE = 1 / 32  # of a channel that reaches further than four times its robust range
_FAR = 4.0
_CRC: Json = {"name": "crc32c"}


class Raw16Codec:
    """Half precision, 2 bytes per value; the sentinel is NaN."""

    encoding = "raw16"
    calibration = None
    basis = None
    is_plain = True
    stands_alone = True
    bits_per_value = 16.0
    dtype: np.dtype[Any] = np.dtype("<f2")
    sentinel = float("nan")

    def num_scales(self, num_channels: int) -> int:
        return 0

    def num_offsets(self, num_channels: int) -> int:
        return 0

    def encode(self, features: Float32) -> StoredFeature:
        """Rounds to float16.

        Raises:
            DataError: a value is not finite or beyond what float16 holds (65504).
        """
        # 65520 is the first value that rounds to infinity.
        check_range(features, 65520.0, "is beyond float16 (65504); use another encoding")
        channels, height, width = features.shape
        return StoredFeature(features.reshape(channels, -1).astype(self.dtype), height, width)

    def pack(self, values: npt.NDArray[Any]) -> memoryview:
        return _bytes_of(values)

    def unpack(
        self, body: memoryview, num_channels: int, cells: int, allocate: Allocate | None = None
    ) -> npt.NDArray[Any]:
        return _values_of(body, self.dtype, num_channels, cells)

    def zarr_data_type(self) -> str:
        return "float16"

    def zarr_fill_value(self) -> Json:
        return "NaN"

    def zarr_codecs(self) -> Sequence[Json]:
        return [{"name": "bytes", "configuration": {"endian": "little"}}, _CRC]


class Int8Codec:
    """One byte per value, affine per image and channel; the sentinel is -128.

    The range of a channel reaches to 6 robust sigmas (from the interquartile range) around its
    median, or as far as needed to leave out at most 1/256 of the values on either side (1/32 where
    that would be more than four times as far). What lies further out is stored exactly beside it: a
    single value at 200 sigmas within the range would cost every other value 7 dB.
    """

    encoding = "int8"
    calibration = None
    basis = None
    is_plain = True
    stands_alone = False
    bits_per_value = 8.0
    dtype: np.dtype[Any] = np.dtype("i1")
    sentinel = -128

    def num_scales(self, num_channels: int) -> int:
        return num_channels

    def num_offsets(self, num_channels: int) -> int:
        return num_channels

    def encode(self, features: Float32) -> StoredFeature:
        """Quantises.

        Raises:
            DataError: a value is not finite, or above 1e30.
        """
        check_range(features, 1e30, "is no feature; the teacher diverges")
        channels, height, width = features.shape
        flat = np.ascontiguousarray(features.reshape(channels, -1), dtype=np.float32)
        low, high = _robust_range(flat)
        scale = ((high - low) / 254.0).astype(np.float32)
        offset = (low + (high - low) / 2).astype(np.float32)
        # A range too narrow for float32 counts as constant; what differs becomes an outlier.
        step = np.where(scale > 0, scale, 1).astype(np.float32)
        centred = flat - offset[:, None]
        codes = np.clip(np.rint(centred / step[:, None]), -127, 127)
        error = np.abs(flat - (codes.astype(np.float32) * scale[:, None] + offset[:, None]))
        # Half a step is what rounding costs; the rest of the margin is float32's own rounding.
        margin = 0.505 * scale + 1e-6 * np.abs(offset)
        channel, cell = np.nonzero(error > margin[:, None])
        error[channel, cell] = 0
        return StoredFeature(
            codes.astype(np.int8),
            height,
            width,
            scale,
            offset,
            channel.astype(np.int32),
            cell.astype(np.int32),
            flat[channel, cell],
            relative_mse=relative_error(float(np.square(error, dtype=np.float64).mean()), flat),
        )

    def pack(self, values: npt.NDArray[Any]) -> memoryview:
        return _bytes_of(values)

    def unpack(
        self, body: memoryview, num_channels: int, cells: int, allocate: Allocate | None = None
    ) -> npt.NDArray[Any]:
        return _values_of(body, self.dtype, num_channels, cells)

    def zarr_data_type(self) -> str:
        return "int8"

    def zarr_fill_value(self) -> Json:
        return self.sentinel

    def zarr_codecs(self) -> Sequence[Json]:
        return [{"name": "bytes"}, _CRC]


def _robust_range(flat: Float32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest and highest value per channel that the codes shall cover."""
    ordered = np.sort(flat, axis=1)
    num_cells = flat.shape[1]
    last = num_cells - 1
    lower_quartile, median, upper_quartile = (
        ordered[:, round(last * share)].astype(np.float64) for share in (0.25, 0.5, 0.75)
    )
    reach = _ROBUST_SIGMAS * (upper_quartile - lower_quartile) / _IQR_OF_NORMAL
    low, high = _reaching(ordered, median, reach, _MAX_OUTLIER_SHARE)
    is_far = (high - low > _FAR * 2 * reach) & (reach > 0)
    nearer_low, nearer_high = _reaching(ordered, median, reach, _MAX_FAR_SHARE)
    low, high = np.where(is_far, nearer_low, low), np.where(is_far, nearer_high, high)
    # Down to the values that are there, so that no code is spent on the gap before an outlier.
    first_in = np.count_nonzero(ordered < low[:, None], axis=1)
    last_in = np.count_nonzero(ordered <= high[:, None], axis=1) - 1
    channels = np.arange(len(ordered))
    return ordered[channels, first_in].astype(np.float64), ordered[channels, last_in].astype(np.float64)


def _reaching(
    ordered: Float32, median: npt.NDArray[np.float64], reach: npt.NDArray[np.float64], outlier_share: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The range around the median, widened until at most that share of the values lies out of it on either side."""
    last = ordered.shape[1] - 1
    num_out = int(ordered.shape[1] * outlier_share)
    return np.minimum(median - reach, ordered[:, num_out]), np.maximum(median + reach, ordered[:, last - num_out])


def _bytes_of(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B")


def _values_of(body: memoryview, dtype: np.dtype[Any], num_channels: int, cells: int) -> npt.NDArray[Any]:
    expected = num_channels * cells * dtype.itemsize
    if len(body) != expected:
        raise DataError(f"expected a chunk of {expected} bytes, found {len(body)}")
    return np.frombuffer(body, dtype).reshape(num_channels, cells)


_PLAIN: dict[str, Codec] = {codec.encoding: codec for codec in (Raw16Codec(), Int8Codec())}


def codec_of(encoding: str, calibration: bytes | None = None) -> Codec:
    """The codec of an encoding.

    Args:
        encoding: `raw16`, `int8`, or `klt:` and the SHA-256 of its calibration.
        calibration: the calibration's bytes, where the encoding names one.

    Raises:
        UnknownKind: no such encoding.
        UsageError: it needs a calibration and got none.
        CorruptObject: the calibration is damaged, or another than the encoding names.
    """
    check_encoding(encoding)
    if encoding in _PLAIN:
        return _PLAIN[encoding]
    if calibration is None:
        raise UsageError(f"feature encoding {encoding!r}: expected its calibration beside it; run teach again")
    return KltCodec(Calibration.from_bytes(calibration, encoding.partition(":")[2]))


def check_encoding(encoding: str) -> None:
    """Raises UnknownKind for an encoding of which no codec is known."""
    name, _, calibration = encoding.partition(":")
    if encoding not in _PLAIN and not (name == KltCodec.name and calibration):
        raise UnknownKind("feature encoding", encoding, [*_PLAIN, f"{KltCodec.name}:<calibration>"])
