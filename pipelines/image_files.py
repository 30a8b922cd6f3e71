"""Pictures as large as a frame, and as the bytes of a file."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image

__all__ = ["fitted", "fitted_size", "image_file"]


def fitted_size(width: int, height: int, width_px: int, height_px: int) -> tuple[int, int]:
    """(width, height) in px of what is as large as a frame has room for and keeps its proportions.

    >>> fitted_size(400, 200, 100, 100), fitted_size(3, 4, 100, 100)
    ((100, 50), (75, 100))
    """
    share = min(width_px / width, height_px / height)
    return max(round(width * share), 1), max(round(height * share), 1)


def fitted(image: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """The image in RGB, as large as the frame has room for."""
    size = fitted_size(image.width, image.height, width_px, height_px)
    if size[0] < image.width:
        image.draft("RGB", (2 * size[0], 2 * size[1]))  # decodes a JPEG no larger than it takes
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def image_file(image: Image.Image, form: Literal["PNG", "JPEG"] = "PNG", **options: bool | int) -> bytes:
    """The bytes of a PNG or JPEG file of an image; the same pixels and options give the same bytes.

    Args:
        image: the picture.
        form: of the file.
        options: of PIL's writer for that form, such as `quality=86`.
    """
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()
