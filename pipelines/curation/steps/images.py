"""Looks at pictures: decodes them whole, and tells size, media type, identity and perceptual hash."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.curation.records import RecordError
from storage.keys import bytes_key
from storage.pictures import PICTURE_FORMATS
from storage.schema import RejectReason

__all__ = [
    "MAX_IMAGE_PX",
    "PICTURE_SUFFIXES",
    "ProbedImage",
    "coco_id_of",
    "decode_image",
    "decoding_quietly",
    "difference_hash",
    "is_picture",
    "look_at",
    "probe",
]

MAX_IMAGE_PX = 89_478_485
"""Height x width beyond which Pillow itself refuses an image."""

PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
"""Ends of names of the formats that are decoded."""

# What Pillow's decoders raise on damaged files, by reading and by fuzzing; OSError includes UnidentifiedImageError.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
            AttributeError, NotImplementedError, struct.error, zlib.error)  # fmt: skip
_THUMBNAIL_PX = 16
_LOOKED_AT_PX = 6 * _THUMBNAIL_PX
"""Side, px, that hash and thumbnail are made of where a file can be decoded smaller. Of 154 photographs, copies at 0.35
to 1.5 of their size, recompressed, differ from them by 3.8 grey levels at most (8 cells: 3.0; 4: 6.3), of which
`max_look_difference` admits 6."""
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?([0-9]{12})\.[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class ProbedImage:
    """What a picture tells about itself; sizes in px as stored, EXIF orientation not applied."""

    image_id: str
    media_type: str
    height: int
    width: int
    difference_hash: int
    thumbnail: bytes
    """16 x 16 grey values, row by row: what two pictures of nearly one hash are compared by."""


@contextmanager
def decoding_quietly() -> Generator[None]:
    """Pillow warns of odd metadata (and of bombs, which a limit decides here); neither is ours to pass on.

    What is to be warned of is the whole process's: where threads decode, one enters this around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_image(data: bytes, max_image_px: int, name: str) -> Image.Image:
    """Decodes a picture whole (the first frame).

    Args:
        data: the bytes of the file.
        max_image_px: largest height x width that is decoded.
        name: how messages name it.

    Raises:
        RecordError: IMAGE_TOO_LARGE from the header alone, before any pixel is decoded;
            IMAGE_UNREADABLE when it is truncated, damaged or of no known format.
    """
    with decoding_quietly():
        return _decode(data, max_image_px, name, None)[0]


def _decode(data: bytes, max_image_px: int, name: str, at_least_px: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, and its height and width as stored.

    Where sides of `at_least_px` and grey will do, a JPEG file is still read to its end, but made smaller by a power of
    two, in a third of the time.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
        width, height = image.size
        if width * height > min(max_image_px, MAX_IMAGE_PX):
            raise RecordError(
                RejectReason.IMAGE_TOO_LARGE,
                f"{name}: expected at most {min(max_image_px, MAX_IMAGE_PX)} px, got {width} x {height}",
            )
        if at_least_px is not None:
            image.draft("L", (at_least_px, at_least_px))
        image.load()
    except RecordError:
        raise
    except Image.DecompressionBombError:
        raise RecordError(RejectReason.IMAGE_TOO_LARGE, f"{name}: more than {2 * MAX_IMAGE_PX} px") from None
    except UnidentifiedImageError:
        raise RecordError(
            RejectReason.IMAGE_UNREADABLE, f"{name}: {len(data)} bytes that are none of {', '.join(PICTURE_FORMATS)}"
        ) from None
    except _DAMAGED as error:
        raise RecordError(
            RejectReason.IMAGE_UNREADABLE, f"{name}: can't be decoded whole ({type(error).__name__}: {error})"
        ) from None
    return image, (height, width)


def difference_hash(image: Image.Image) -> int:
    """64-bit dHash: whether each cell of the 9 x 8 grey thumbnail is brighter than the one to its left.

    Returns:
        The bits row by row, the first one the highest, as a signed integer.
    """
    grey = image.convert("L") if image.mode != "L" else image
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def probe(data: bytes, max_image_px: int, name: str, image_id: str | None = None) -> ProbedImage:
    """`look_at`, without Pillow's warnings."""
    with decoding_quietly():
        return look_at(data, max_image_px, name, image_id)


def look_at(data: bytes, max_image_px: int, name: str, image_id: str | None = None) -> ProbedImage:
    """Decodes a picture and tells what it is; see `decode_image` for what is raised, `decoding_quietly` for warnings.

    Args:
        data: the bytes of the file.
        max_image_px: largest height x width that is decoded.
        name: how messages name it.
        image_id: SHA-256 of the bytes, where it is known.
    """
    image, (height, width) = _decode(data, max_image_px, name, _LOOKED_AT_PX)
    grey = image if image.mode == "L" else image.convert("L")
    return ProbedImage(
        image_id=image_id or bytes_key(data),
        media_type=Image.MIME.get(image.format or "", "application/octet-stream"),
        height=height,
        width=width,
        difference_hash=difference_hash(grey),
        thumbnail=grey.resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX).tobytes(),
    )


def is_picture(name: str) -> bool:
    """Whether a file of that name is taken for a picture: by its suffix, and not hidden anywhere on its path.

    >>> is_picture("a/B.JPG"), is_picture("a/.b.jpg"), is_picture("__MACOSX/a/b.jpg"), is_picture("Thumbs.db")
    (True, False, False, False)
    """
    # Dots alone hide nothing: they lead elsewhere.
    segments = name.split("/")
    is_hidden = any(segment == "__MACOSX" or (segment.startswith(".") and segment.strip(".")) for segment in segments)
    return not is_hidden and name.rpartition(".")[2].lower() in PICTURE_SUFFIXES


def coco_id_of(file_name: str) -> int | None:
    """The COCO id in a COCO file name, of the 2014 or the 2017 release; None in any other name.

    >>> coco_id_of("train2014/COCO_train2014_000000000154.jpg"), coco_id_of("000000000154.jpg"), coco_id_of("a.jpg")
    (154, 154, None)
    """
    found = _COCO_NAME.fullmatch(file_name.rpartition("/")[2])
    return int(found[1]) if found else None
