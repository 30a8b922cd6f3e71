"""Fitting what the `klt` encoding has to know of a teacher, on a sample of its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.errors import UsageError
from storage.keys import Json
from storage.klt import Calibration, KltCodec, deviation, quantise
from storage.stored_features import Basis, Float32, StoredFeature, check_range

__all__ = ["TIERS", "CalibrationSample", "Tier"]

_MAX_CELLS = 4096
_NUM_TUNED = 8
_NUM_HALVINGS = 16  # of an interval of a factor of 64: to 6e-5
_MARGIN_DB = 0.03  # other images than the sample's shall reach the tier too


@dataclass(frozen=True, slots=True)
class Tier:
    """How finely features are coded."""

    snr_db: float
    """Variance within an image over mean squared error, channel means removed."""
    deadzone: float
    """See `storage.klt.quantise`. Of 0, 0.05, 0.1, ... that which gives the fewest bits at `snr_db`, measured
    on 256 Laplacian channels of spectrum k^-1.5."""


TIERS: Mapping[str, Tier] = {"klt": Tier(30.0, 0.05), "klt-20db": Tier(20.0, 0.10)}
"""Tiers by the name that recipes give."""


class CalibrationSample:
    """Collects features and fits a calibration.

    Second moments are taken over all cells; of each image a run of at most 4,096 cells is kept, on
    which step, error and size are measured.
    """

    def __init__(self) -> None:
        self._blocks: list[Float32] = []
        self._sum: npt.NDArray[np.float64] | None = None
        self._products: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, features: Float32) -> None:
        """Takes the features of one image, float32 [channels, height, width]; every image counts the same.

        Raises:
            DataError: a value is not finite, or above 1e15.
        """
        check_range(features, 1e15, "is no feature; the teacher diverges")
        flat = np.ascontiguousarray(features.reshape(len(features), -1), dtype=np.float32)
        mean = flat.mean(axis=1, dtype=np.float64)
        products = (flat @ flat.T).astype(np.float64) / flat.shape[1]
        self._sum = mean if self._sum is None else self._sum + mean
        self._products = products if self._products is None else self._products + products
        start = max(0, (flat.shape[1] - _MAX_CELLS) // 2)
        self._blocks.append(flat[:, start : start + _MAX_CELLS].copy())

    def fit(self, tier: Tier, about: Mapping[str, Json] | None = None) -> Calibration:
        """The rotation, the step that reaches the tier on the sample, and what it costs.

        Args:
            tier: signal-to-noise ratio to reach.
            about: whose features they are and how they were drawn, for the record.

        Raises:
            UsageError: nothing was added.
        """
        if self._sum is None or self._products is None:
            raise UsageError("calibration: expected features of at least one image, got none")
        basis = _principal(self._sum / len(self), self._products / len(self))
        deviations = [deviation(block) for block in self._blocks]
        sigma = float(np.sqrt(np.mean(np.square(deviations))))
        step = _step_of(self._blocks[:: max(1, len(self) // _NUM_TUNED)], basis, tier)
        tuned = Calibration(basis, sigma, step, tier.deadzone, {"bits_per_value": 0.0})
        measured = _measure(KltCodec(tuned), self._blocks)
        facts: dict[str, Json] = {"tier_db": tier.snr_db, **measured, "num_images": len(self), **(about or {})}
        return Calibration(basis, sigma, step, tier.deadzone, facts)


def _principal(mean: npt.NDArray[np.float64], products: npt.NDArray[np.float64]) -> Basis:
    _, directions = np.linalg.eigh(products - np.outer(mean, mean))
    rotation = directions[:, ::-1].T
    return Basis(mean.astype(np.float32), np.ascontiguousarray(rotation, dtype=np.float32))


def _step_of(blocks: Sequence[Float32], basis: Basis, tier: Tier) -> float:
    """The largest step, in deviations of the image, whose mean relative error is that of the tier."""
    allowed = 10 ** (-(tier.snr_db + _MARGIN_DB) / 10)
    rotated = [(basis.rotate(block), deviation(block)) for block in blocks]
    varied = [(coefficients, sigma) for coefficients, sigma in rotated if sigma > 0]
    usual = float(np.sqrt(12 * allowed))  # the error of a uniform quantiser is a twelfth of the step's square
    if not varied:
        return usual

    def error(step: float) -> float:
        found: list[float] = []
        for coefficients, sigma in varied:
            integers = quantise(coefficients, step * sigma, tier.deadzone)
            noise = coefficients - integers * np.float32(step * sigma)
            found.append(float(np.square(noise, out=noise).mean(dtype=np.float64)) / sigma**2)
        return float(np.mean(found))

    low, high = usual / 8, usual * 8
    for _ in range(_NUM_HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if error(middle) < allowed else (low, middle)
    return float(np.float32(low))


def _measure(codec: KltCodec, blocks: Sequence[Float32]) -> dict[str, Json]:
    errors: list[float] = []
    num_bytes = num_values = 0
    for block in blocks:
        stored: StoredFeature = codec.encode(block[:, None, :])
        errors.append(stored.relative_mse)
        num_bytes += len(codec.pack(stored.values)) + 12 * stored.outlier_cell.size
        num_values += block.size
    error = max(float(np.mean(errors)), 1e-12)
    return {
        "relative_mse": round(error, 9),
        "snr_db": round(-10 * float(np.log10(error)), 3),
        "bits_per_value": round(8 * num_bytes / num_values, 4),
    }
