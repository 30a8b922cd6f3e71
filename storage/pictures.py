"""Opens picture files that anybody may have made: as the formats of photographs alone, and of a bounded size.

PIL tells a file's format by its content, whatever its name says, and knows dozens of formats, one of which (EPS) hands
the file to Ghostscript.
"""

from __future__ import annotations

import io
import os

from PIL import Image

__all__ = ["PICTURE_FORMATS", "open_picture"]

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""PIL's names of the formats that are opened."""


def open_picture(file: bytes | str | os.PathLike[str]) -> Image.Image:
    """A picture whose header is read; its pixels are decoded when they are first asked for.

    Args:
        file: path, or the file's bytes.

    Raises:
        OSError: no such file, none of `PICTURE_FORMATS`, or more pixels than PIL opens without a warning. Damage
            comes to light when the pixels are decoded.
    """
    try:
        picture = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=PICTURE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OSError(str(error)) from None
    width, height = picture.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        picture.close()
        raise OSError(f"{width} x {height} px, expected at most {Image.MAX_IMAGE_PIXELS} px in all")
    return picture
