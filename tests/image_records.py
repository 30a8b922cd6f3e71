"""Image records of pictures that tests make."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from storage.keys import bytes_key
from storage.schema import ImageRecord

__all__ = ["file_record", "picture_record"]


def file_record(
    data: bytes, height_px: int, width_px: int, source: str = "picture.png", media_type: str = "image/png"
) -> ImageRecord:
    """A record that carries a file's bytes, whatever they are, and says that they are a picture of this size."""
    return ImageRecord(
        image_id=bytes_key(data),
        data=data,
        uri=None,
        media_type=media_type,
        height=height_px,
        width=width_px,
        coco_id=None,
        sources=(source,),
        difference_hash=0,
    )


def picture_record(
    picture: np.ndarray | Image.Image,
    source: str = "picture.png",
    file_format: str = "PNG",
    num_bytes: int | None = None,
) -> ImageRecord:
    """A record of a picture's file.

    Args:
        picture: the picture, or its pixels, (height, width, 3) uint8.
        source: the file's name.
        file_format: a format of PIL's that has a media type of its name.
        num_bytes: how much of the file is kept; None: all.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    sink = io.BytesIO()
    image.save(sink, file_format)
    data = sink.getvalue()[:num_bytes]
    return file_record(data, image.height, image.width, source, f"image/{file_format.lower()}")
