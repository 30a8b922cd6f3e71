"""Pictures of a report: features as colours, and all of them as data URIs; masks are drawn by `model.drawing`."""

from __future__ import annotations

import base64
import io
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["SIDE_PX", "data_uri", "pca_picture"]

Pixels = NDArray[np.uint8]

SIDE_PX = 288
"""Longer side of an embedded picture: three fit beside each other on a sharp screen."""
_PNG_LIMIT_BYTES = 48_000
"""Above this size of its PNG (a photograph) a picture is embedded as JPEG."""
_JPEG_QUALITY = 86


def pca_picture(features: NDArray[np.float32]) -> Pixels:
    """Dense features as a picture: the first three principal components of one image as red, green and blue.

    Each component is stretched between its 2nd and 98th percentile. Signs are fixed by the largest
    loading, so that the same features give the same colours.

    Args:
        features: [channels, height, width].

    Returns:
        uint8 RGB (height, width, 3); grey where the features don't vary.
    """
    channels, height, width = features.shape
    flat = features.reshape(channels, -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(flat @ flat.T)
    axes = vectors[:, ::-1][:, :3]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    components = np.zeros((3, flat.shape[1]))
    components[: axes.shape[1]] = axes.T @ flat
    low, high = np.percentile(components, [2, 98], axis=1, keepdims=True)
    spread = high - low
    # Rounding noise of constant features is no component.
    level = max(float(np.abs(features).max()), 1.0) * 1e-5
    scaled = np.where(spread > level, (components - low) / np.where(spread > level, spread, 1.0), 0.5)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8).T.reshape(height, width, 3)


def data_uri(pixels: Pixels) -> str:
    """A picture as a `data:` URI: PNG, or JPEG where a PNG would be large."""
    image = Image.fromarray(pixels)
    png = _encoded(image, "PNG", optimize=True)
    if len(png) <= _PNG_LIMIT_BYTES:
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"
    jpeg = _encoded(image, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **cast("dict[str, bool]", options))
    return sink.getvalue()
