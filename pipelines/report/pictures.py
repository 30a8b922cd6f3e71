"""Pictures of a report: masks over images, features as colours, all as data URIs."""

from __future__ import annotations

import base64
import io
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ANSWER", "PROMPT", "TRUTH", "Colour", "data_uri", "fit", "outlined", "pca_picture", "spotlit"]

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Bitmap = NDArray[np.bool_]

TRUTH: Colour = (22, 199, 132)
"""Outline of what is right."""
ANSWER: Colour = (255, 45, 149)
"""Outline of what the student says."""
PROMPT: Colour = (255, 196, 0)
"""Outline of what is pointed at."""

_SIDE_PX = 288
"""Longer side of an embedded picture: three fit beside each other on a sharp screen."""
_PNG_LIMIT_BYTES = 48_000
"""Above this size of its PNG (a photograph) a picture is embedded as JPEG."""
_JPEG_QUALITY = 86


def fit(image: Image.Image) -> Pixels:
    """An image at the size that is shown: small ones enlarged by a whole factor, large ones reduced.

    Returns:
        uint8 RGB (height, width, 3).
    """
    longer = max(image.size)
    if longer <= _SIDE_PX:
        factor = max(_SIDE_PX // longer, 1)
        shown = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        share = _SIDE_PX / longer
        size = (max(round(image.width * share), 1), max(round(image.height * share), 1))
        shown = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(shown.convert("RGB"))


def spotlit(pixels: Pixels, mask: Bitmap | None, colour: Colour) -> Pixels:
    """The picture with everything outside a mask darkened and drained of colour, and the mask's edge drawn.

    Args:
        pixels: uint8 RGB (height, width, 3) at any size.
        mask: bool mask of the whole picture, at any size; None or empty: all is darkened.
        colour: of the edge.
    """
    inside = np.zeros(pixels.shape[:2], bool) if mask is None else _resized(mask, pixels.shape[:2])
    grey = pixels.astype(np.float32).mean(-1, keepdims=True)
    dimmed = (grey * 0.32 + pixels * 0.08 + 18).astype(np.uint8)
    shown = np.where(inside[..., None], pixels, dimmed)
    shown[_edge(inside)] = colour
    return shown


def outlined(pixels: Pixels, mask: Bitmap, colour: Colour) -> Pixels:
    """The picture with a mask's edge drawn in colour between two dark lines, and nothing else changed."""
    inside = _resized(mask, pixels.shape[:2])
    edge = _edge(inside)
    shown = pixels.copy()
    shown[_grown(_grown(edge)) & ~edge] //= 3
    shown[edge] = colour
    return shown


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


def _resized(mask: Bitmap, size: tuple[int, int]) -> Bitmap:
    rows = (np.arange(size[0]) * mask.shape[0]) // size[0]
    columns = (np.arange(size[1]) * mask.shape[1]) // size[1]
    return mask[rows[:, None], columns[None, :]]


def _edge(inside: Bitmap) -> Bitmap:
    """A line of two pixels on the inner side of a mask's border."""
    core = ~_grown(_grown(~inside))
    return inside & ~core


def _grown(mask: Bitmap) -> Bitmap:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown
