"""The `klt` encoding: a rotation fitted once per teacher, and one quantiser step per image.

Teacher features are correlated across channels. In their principal components (the Karhunen-Loeve
transform) most channels hold little, so that one uniform quantiser with the same step everywhere, the
best choice for mean squared error at high rates (Gersho and Gray, "Vector Quantization and Signal
Compression", 1992, chapter 8), spends few bits on them. The integers are stored as zigzag uint16 by
Zarr's `blosc` codec, bit-shuffled and compressed by zstd.

Mean squared error and bilinear resizing commute with the rotation: a loss may rotate the student's
outputs instead of the stored coefficients back.

An eigenbasis isn't bit-stable across machines, so it is stored as a `Calibration` and known by the
hash of its bytes; it is never computed again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numcodecs.blosc
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from storage.errors import CorruptObject
from storage.keys import Json, bytes_key, canonical_json
from storage.stored_features import Allocate, Basis, Float32, Int32, StoredFeature, check_range, relative_error, zigzag

__all__ = ["CALIBRATION_NAME", "Calibration", "KltCodec", "deviation", "quantise"]

CALIBRATION_NAME = "calibration.safetensors"
"""Key of a calibration below a part, and below what the calibration step writes."""

blosc: Any = numcodecs.blosc  # an extension module without types

_METADATA = "sailloft"
_LARGEST = 32767  # zigzag 65534; 65535 is the sentinel
_CLIP_SIGMAS = 4.5  # a Laplacian has 3 % of its variance beyond, which calibration makes up for
_CLIP_ROUNDS = 16
_CELLS_LOOKED_AT = 4096
_CLIP_CHANGE = 0.99
_LEAST_SHARE = 1 / 16
# Measured on 256 channels of spectrum k^-1.5 at 30 dB: levels 3 and 5 save under 0.4 % and take 2 and 4
# times as long; blocks of 64 KiB cost 3 % more, one block per image 0.1 %.
_COMPRESSION: dict[str, Any] = {
    "cname": "zstd",
    "clevel": 1,
    "shuffle": "bitshuffle",
    "typesize": 2,
    "blocksize": 2**20,
}
_HEADER_BYTES = 16  # of a blosc buffer; bytes 4 to 8 say how large the content is


@dataclass(frozen=True, eq=False)
class Calibration:
    """All that `klt` knows of a teacher, fitted on a sample of its features."""

    basis: Basis
    sigma: float
    """Deviation within an image, pooled over the sample: the unit in which the smallest step is given."""
    step: float
    """Step of the quantiser, in deviations of the image at hand."""
    deadzone: float
    """How much sooner than at one half magnitudes are rounded down, in steps."""
    facts: dict[str, Json]
    """What was measured on the sample: `snr_db`, `relative_mse`, `bits_per_value`, and how it was drawn."""

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        tensors = {"mean": self.basis.mean, "rotation": self.basis.rotation}
        numbers: dict[str, Json] = {"sigma": self.sigma, "step": self.step, "deadzone": self.deadzone}
        return save(tensors, {_METADATA: canonical_json({**numbers, "facts": self.facts}).decode()})

    @classmethod
    def from_bytes(cls, data: bytes, sha256: str | None = None) -> Calibration:
        """The inverse of `to_bytes`.

        Args:
            data: the file.
            sha256: hash that it must have; None: any.

        Raises:
            CorruptObject: another hash, or not a calibration.
        """
        if sha256 is not None and bytes_key(data) != sha256:
            raise CorruptObject(f"calibration: expected SHA-256 {sha256}, found {bytes_key(data)}; restore it")
        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], "little")
            about = cast("dict[str, Any]", json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_METADATA]))
            mean, rotation = tensors["mean"], tensors["rotation"]
            sigma, step, deadzone = (float(about[name]) for name in ("sigma", "step", "deadzone"))
            facts = dict(about["facts"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CorruptObject(f"calibration: not one of this version: {type(error).__name__} {error}") from error
        shapes = (mean.shape, rotation.shape)
        if mean.ndim != 1 or rotation.shape != (len(mean), len(mean)) or mean.dtype != np.float32:
            raise CorruptObject(f"calibration: expected float32 [C] and [C, C], found {shapes}")
        return cls(Basis(mean, rotation), sigma, step, deadzone, facts)


class KltCodec:
    """Principal components, one step per image; coefficients beyond 32,767 steps are kept exactly beside."""

    name: ClassVar[str] = "klt"
    dtype: np.dtype[Any] = np.dtype("<u2")
    sentinel = 65535
    is_plain = False
    stands_alone = False

    def __init__(self, calibration: Calibration) -> None:
        self._about = calibration
        self._data = calibration.to_bytes()
        self._encoding = f"{self.name}:{bytes_key(self._data)}"

    def __reduce__(self) -> tuple[type[KltCodec], tuple[Calibration]]:
        return KltCodec, (self._about,)

    @property
    def encoding(self) -> str:
        return self._encoding

    @property
    def calibration(self) -> bytes:
        return self._data

    @property
    def basis(self) -> Basis:
        return self._about.basis

    @property
    def facts(self) -> dict[str, Json]:
        """What was measured on the calibration's sample."""
        return self._about.facts

    @property
    def bits_per_value(self) -> float:
        return float(cast(float, self._about.facts["bits_per_value"]))

    def num_scales(self, num_channels: int) -> int:
        return 1

    def num_offsets(self, num_channels: int) -> int:
        return 0

    def encode(self, features: Float32) -> StoredFeature:
        """Rotates and quantises.

        Raises:
            DataError: a value is not finite, or above 1e30.
            ValueError: other channels than the calibration's.
        """
        about, (channels, height, width) = self._about, features.shape
        if channels != len(about.basis.mean):
            raise ValueError(f"klt: calibrated for {len(about.basis.mean)} channels, got {channels}")
        check_range(features, 1e30, "is no feature; the teacher diverges")
        flat = np.ascontiguousarray(features.reshape(channels, -1), dtype=np.float32)
        # An image of hardly any contrast gets the step of one with a sixteenth of the usual contrast.
        sigma = max(deviation(flat), _LEAST_SHARE * about.sigma)
        step = np.float32(max(about.step * sigma, 1e-30))
        coefficients = about.basis.rotate(flat)
        integers = quantise(coefficients, float(step), about.deadzone)
        channel, cell = np.nonzero(np.abs(integers) > _LARGEST)
        integers[channel, cell] = 0
        error = coefficients - integers * step
        error[channel, cell] = 0
        return StoredFeature(
            zigzag(integers),
            height,
            width,
            step.reshape(1),
            outlier_channel=channel.astype(np.int32),
            outlier_cell=cell.astype(np.int32),
            outlier_value=coefficients[channel, cell],
            basis=about.basis,
            relative_mse=relative_error(float(np.square(error, out=error).mean(dtype=np.float64)), flat),
        )

    def pack(self, values: npt.NDArray[Any]) -> bytes:
        settings = {**_COMPRESSION, "shuffle": blosc.BITSHUFFLE}
        return blosc.compress(np.ascontiguousarray(values), settings.pop("cname").encode(), **settings)

    def unpack(
        self, body: memoryview, num_channels: int, cells: int, allocate: Allocate | None = None
    ) -> npt.NDArray[Any]:
        expected = num_channels * cells * self.dtype.itemsize
        # Before anything is allocated, and before blosc trusts it.
        size = int.from_bytes(body[4:8], "little") if len(body) >= _HEADER_BYTES else -1
        if size != expected:
            raise CorruptObject(f"expected a chunk that holds {expected} bytes, found {size}")
        buffer = np.empty(expected, np.uint8) if allocate is None else np.frombuffer(allocate(expected), np.uint8)
        values = buffer.view(self.dtype).reshape(num_channels, cells)
        try:
            blosc.decompress(body, values)
        except (RuntimeError, ValueError) as error:
            raise CorruptObject(f"chunk can't be decompressed: {error}") from error
        return values

    def zarr_data_type(self) -> str:
        return "uint16"

    def zarr_fill_value(self) -> Json:
        return self.sentinel

    def zarr_codecs(self) -> Sequence[Json]:
        return [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": _COMPRESSION},
            {"name": "crc32c"},
        ]


def deviation(flat: Float32) -> float:
    """Root mean square over features [channels, cells], channel means removed.

    Values beyond 4.5 deviations of their channel count as 4.5, so that a few far ones don't coarsen the
    step for all others. Of large grids some 4,096 cells are looked at.
    """
    looked_at = flat[:, :: max(1, flat.shape[1] // _CELLS_LOOKED_AT)]
    mean, variance = looked_at.mean(axis=1, dtype=np.float64), looked_at.var(axis=1, dtype=np.float64)
    active = np.flatnonzero(variance > 0)
    for _ in range(_CLIP_ROUNDS):
        if not active.size:
            break
        reach = _CLIP_SIGMAS * np.sqrt(variance[active])
        low, high = (bound.astype(np.float32)[:, None] for bound in (mean[active] - reach, mean[active] + reach))
        clipped = np.clip(looked_at[active], low, high)
        mean[active] = clipped.mean(axis=1, dtype=np.float64)
        narrower = clipped.var(axis=1, dtype=np.float64)
        still = narrower < _CLIP_CHANGE * variance[active]
        variance[active] = narrower
        active = active[still]
    return float(np.sqrt(variance.mean()))


def quantise(coefficients: Float32, step: float, deadzone: float) -> Int32:
    """Integers nearest to `coefficients / step`, rounded down from `0.5 + deadzone` on instead of from one half.

    Magnitudes fall off steeply, so within a cell the mean lies nearer to zero than the middle: a
    dead zone of 0.05 to 0.1 costs less error, for the bits that it saves, than a larger step.
    """
    scaled = coefficients * np.float32(1 / step)
    np.clip(scaled, -2.0e9, 2.0e9, out=scaled)
    scaled += np.copysign(np.float32(0.5 - deadzone), scaled)
    return scaled.astype(np.int32)
