"""Names of files that are made of what a corpus holds."""

from __future__ import annotations

import mimetypes
import re

from storage.schema import ImageRecord

__all__ = ["file_word", "picture_name"]

_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/tiff": ".tif"}


def file_word(text: str) -> str:
    """A word without what is special in a file name or a URL; different words stay different.

    >>> file_word("refcoco+"), file_word("testA"), file_word("../a")
    ('refcoco-2b', 'testA', '-2e.-2fa')
    """
    return re.sub(r"[^A-Za-z0-9._]|^\.", lambda found: f"-{ord(found[0]):x}", text) or "-"


def picture_name(image: ImageRecord) -> str:
    """A file name for a picture: its id, and the suffix of its format."""
    suffix = _SUFFIXES.get(image.media_type) or mimetypes.guess_extension(image.media_type) or ""
    return f"{image.image_id}{suffix}"
