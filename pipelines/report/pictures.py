"""Pictures of a report as data URIs; masks are drawn by `model.drawing`, features by `pipelines.feature_pictures`."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.image_files import image_file

__all__ = ["SIDE_PX", "data_uri"]

Pixels = NDArray[np.uint8]

SIDE_PX = 288
"""Longer side of an embedded picture: three fit beside each other on a sharp screen."""
_PNG_LIMIT_BYTES = 48_000
"""Above this size of its PNG (a photograph) a picture is embedded as JPEG."""
_JPEG_QUALITY = 86


def data_uri(pixels: Pixels) -> str:
    """A picture as a `data:` URI: PNG, or JPEG where a PNG would be large."""
    image = Image.fromarray(pixels)
    png = image_file(image, "PNG", optimize=True)
    if len(png) <= _PNG_LIMIT_BYTES:
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"
    jpeg = image_file(image, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
