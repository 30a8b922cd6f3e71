"""Dense teacher features as pictures: principal components as colours, and how large they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Components", "components_picture", "fit_components", "norm_picture", "pca_picture"]

Pixels = NDArray[np.uint8]

_NUM_COLOURS = 3
_SHOWN_PERCENTILES = (2.0, 98.0)
_NOISE = 1e-5
"""Of the largest value: rounding noise of constant features is no component."""
_NORM_COLOURS = np.array([[13, 20, 48], [11, 122, 117], [255, 226, 120]], np.float64)
"""Of small, middling and large norms; readable without telling red from green."""


@dataclass(frozen=True, eq=False)
class Components:
    """What colours features: directions in the space of channels, and the range that each colour spans."""

    mean: NDArray[np.float64]
    """[channels]"""
    axes: NDArray[np.float64]
    """[channels, 3], or fewer columns if there are fewer channels; by falling variance."""
    low: NDArray[np.float64]
    """[3]; what is no brighter than black."""
    high: NDArray[np.float64]
    """[3]; what is white."""
    level: float
    """Ranges below it are noise."""


def fit_components(features: Iterable[NDArray[np.float32]], cells_per_image: int | None = None) -> Components:
    """The first three principal components of the cells of some images, taken together.

    Each component is stretched between its 2nd and 98th percentile. Signs are fixed by the largest
    loading, so that the same features give the same colours.

    Args:
        features: of at least one image, [channels, height, width]; the channels are the same for all.
        cells_per_image: evenly spaced ones are looked at if an image has more; None: all are.
    """
    cells = np.concatenate([_cells(image, cells_per_image) for image in features], axis=1)
    flat = cells.astype(np.float64)
    mean = flat.mean(axis=1)
    flat = flat - mean[:, None]
    _, vectors = np.linalg.eigh(flat @ flat.T)
    axes = vectors[:, ::-1][:, :_NUM_COLOURS]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    low, high = np.percentile(_projected(axes, flat), _SHOWN_PERCENTILES, axis=1)
    return Components(mean, axes, low, high, max(float(np.abs(cells).max()), 1.0) * _NOISE)


def components_picture(features: NDArray[np.float32], components: Components) -> Pixels:
    """Features as a picture: their components as red, green and blue.

    Args:
        features: [channels, height, width].
        components: of these or of other features of the same teacher.

    Returns:
        uint8 RGB (height, width, 3); grey where the components don't vary.
    """
    channels, height, width = features.shape
    flat = features.reshape(channels, -1).astype(np.float64) - components.mean[:, None]
    low, spread = components.low[:, None], (components.high - components.low)[:, None]
    varies = spread > components.level
    scaled = np.where(varies, (_projected(components.axes, flat) - low) / np.where(varies, spread, 1.0), 0.5)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8).T.reshape(height, width, 3)


def pca_picture(features: NDArray[np.float32]) -> Pixels:
    """Features as a picture by the principal components of this one image; see `components_picture`."""
    return components_picture(features, fit_components([features]))


def norm_picture(features: NDArray[np.float32]) -> Pixels:
    """How large the features of each cell are: from dark blue (the 2nd percentile) to yellow (the 98th).

    Args:
        features: [channels, height, width].

    Returns:
        uint8 RGB (height, width, 3).
    """
    norms = np.linalg.norm(features.astype(np.float64), axis=0)
    low, high = np.percentile(norms, _SHOWN_PERCENTILES)
    varies = high - low > max(high, 1.0) * _NOISE
    shares = (norms - low) / (high - low) if varies else np.full_like(norms, 0.5)
    stops = np.linspace(0.0, 1.0, len(_NORM_COLOURS))
    colours = [np.interp(shares, stops, channel) for channel in _NORM_COLOURS.T]
    return np.stack(colours, axis=-1).round().astype(np.uint8)


def _cells(image: NDArray[np.float32], num: int | None) -> NDArray[np.float32]:
    """[channels, cells] of an image."""
    flat = image.reshape(len(image), -1)
    if num is None or flat.shape[1] <= num:
        return flat
    return flat[:, np.linspace(0, flat.shape[1] - 1, num).round().astype(np.int64)]


def _projected(axes: NDArray[np.float64], flat: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, cells]; what there are no channels for is zero."""
    found = np.zeros((_NUM_COLOURS, flat.shape[1]))
    found[: axes.shape[1]] = axes.T @ flat
    return found
