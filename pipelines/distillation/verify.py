"""Recomputes stored features and compares: what the store says of an image is what the teacher gives today."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.distillation.steps import compute_features, prepare_batch, resize_features
from storage.corpus import Corpus
from storage.errors import DataError
from storage.features import FeatureStore
from storage.keys import Json, bytes_key
from storage.stored_features import Float32, StoredFeature
from teachers.base import Geometry, Teacher

__all__ = ["Comparison", "VerifyReport", "compare", "recompute", "sample_images"]

_ROUNDING = {"float32": 0.01, "bfloat16": 0.1, "float16": 0.03}
"""Error that the forward pass may have by itself, over the deviation within the image, by its arithmetic.

A batch of one differs from the batch that was stored in the order of sums: by at most 2e-5 in float32
(`teachers.testing.BATCH_TOLERANCE`), which moves a value over the edge of a quantiser's step now and then;
another device or number of threads differs by more. Features of another image differ by 1.4.
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One image."""

    image_id: str
    relative_mse: float
    """Mean squared error against the recomputed features, over their variance, channel means removed."""
    coding_mse: float
    """What the encoding recorded of itself when it was written."""
    allowed_mse: float

    @property
    def agrees(self) -> bool:
        """Whether the error is what encoding and rounding explain."""
        return self.relative_mse <= self.allowed_mse


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All compared images of one store."""

    comparisons: tuple[Comparison, ...]

    @property
    def worst(self) -> Comparison:
        """The image with the largest error for what it may have."""
        return max(self.comparisons, key=lambda one: one.relative_mse / one.allowed_mse)

    @property
    def mean_mse(self) -> float:
        """Mean of the relative errors."""
        return float(np.mean([one.relative_mse for one in self.comparisons]))

    def require_agreement(self, url: str) -> None:
        """Raises DataError that names the images which differ."""
        bad = [one for one in self.comparisons if not one.agrees]
        if bad:
            worst = self.worst
            raise DataError(
                f"{url}: {len(bad)} of {len(self.comparisons)} images differ from what the teacher gives now, worst "
                f"{worst.image_id}: relative error {worst.relative_mse:.3g}, at most {worst.allowed_mse:.3g} can be; "
                "check weights, software and device of the teacher, or compute the features anew in another store"
            )

    def to_json(self) -> dict[str, Json]:
        """The report as plain data."""
        worst = self.worst
        return {
            "num_images": len(self.comparisons),
            "num_different": sum(not one.agrees for one in self.comparisons),
            "mean_relative_mse": self.mean_mse,
            "worst_relative_mse": worst.relative_mse,
            "worst_allowed_mse": worst.allowed_mse,
            "worst_image": worst.image_id,
        }


def sample_images(image_ids: Iterable[str], num_images: int, seed: int) -> list[str]:
    """Some of the images, the same for the same seed; all if there are fewer. Those that aren't drawn aren't kept."""
    return sorted(heapq.nsmallest(num_images, image_ids, key=lambda image_id: bytes_key(f"{seed} {image_id}".encode())))


def compare(image_id: str, stored: StoredFeature, recomputed: Float32, dtype: str) -> Comparison:
    """Compares one image.

    Args:
        image_id: which.
        stored: as it lies in the store.
        recomputed: float32 [channels, height, width].
        dtype: arithmetic of the forward pass, which says how much it may differ by itself.

    Raises:
        DataError: another shape.
    """
    found = stored.dequantise()
    if found.shape != recomputed.shape:
        raise DataError(f"image {image_id}: stored as {found.shape}, recomputed as {recomputed.shape}; teach anew")
    if stored.values.dtype == np.float16:
        recomputed = recomputed.astype(np.float16).astype(np.float32)
    flat = recomputed.reshape(len(recomputed), -1).astype(np.float64)
    variance = float((flat - flat.mean(axis=1, keepdims=True)).var())
    error = float(np.square(found.reshape(flat.shape) - flat).mean())
    # An image of one colour may give constant features: any error at all counts against their size.
    scale = variance or float(np.square(flat).mean()) or 1.0
    allowed = (np.sqrt(stored.relative_mse) + _ROUNDING.get(dtype, max(_ROUNDING.values()))) ** 2
    return Comparison(image_id, error / scale, stored.relative_mse, float(allowed))


def recompute(
    teacher: Teacher,
    geometry: Geometry,
    corpus: Corpus,
    store: FeatureStore,
    image_ids: Sequence[str],
    dtype: str,
    antialias: bool,
) -> Iterator[Comparison]:
    """Recomputes images one by one and compares each with the store.

    Args:
        teacher: with its weights.
        geometry: how it takes images.
        corpus: holds the images.
        store: holds their features.
        image_ids: which.
        dtype: arithmetic of the teacher.
        antialias: how the stored grid was reached.
    """
    for image_id in image_ids:
        record = corpus.image(image_id)
        batch, failures = prepare_batch(geometry, [record], geometry.input_size(record.height, record.width))
        features, failures = compute_features(teacher, batch, failures)
        if failures:
            raise DataError(f"image {image_id}: has features, but fails now: {failures[0]}; restore it or curate again")
        (stored,) = store.read_stored([image_id])
        resized = resize_features(features, (stored.height, stored.width), antialias)[0]
        yield compare(image_id, stored, resized.numpy().astype(np.float32), dtype)
