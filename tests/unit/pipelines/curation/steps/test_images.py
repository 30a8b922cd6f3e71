"""Pictures tell size, type and hash; what is damaged or too large is named."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.curation.records import RecordError
from pipelines.curation.steps.images import decode_image, difference_hash, probe
from storage.keys import bytes_key


def _encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, image_format, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("image_format", "media_type"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("BMP", "image/bmp"), ("GIF", "image/gif")],
)
def test_probe(image_format: str, media_type: str) -> None:
    data = _encoded(Image.new("RGB", (7, 5), "red"), image_format)
    found = probe(data, 35, "a.jpg")
    assert (found.height, found.width, found.media_type) == (5, 7, media_type)
    assert found.image_id == bytes_key(data)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I;16"])
def test_every_mode_has_a_hash(mode: str) -> None:
    found = probe(_encoded(Image.new(mode, (20, 10)), "PNG"), 10_000, "a.png")
    assert found.difference_hash == 0


def test_size_is_as_stored_whatever_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    found = probe(_encoded(Image.new("RGB", (7, 5)), "JPEG", exif=exif), 100, "a.jpg")
    assert (found.height, found.width) == (5, 7)


def test_the_limit_is_checked_before_decoding() -> None:
    data = _encoded(Image.new("L", (100, 100)), "PNG")
    cut = data[:60]  # header only: decoding would fail
    with pytest.raises(RecordError, match=r"image_too_large: a.png: expected at most 9999 px, got 100 x 100"):
        decode_image(cut, 9_999, "a.png")
    with pytest.raises(RecordError, match=r"image_unreadable: a.png: can't be decoded whole"):
        decode_image(cut, 10_000, "a.png")


def test_difference_hash_by_hand() -> None:
    rising = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))
    assert difference_hash(Image.fromarray(rising)) == -1
    assert difference_hash(Image.fromarray(rising[:, ::-1].copy())) == 0
    one = np.zeros((8, 9), np.uint8)
    one[0, 1:] = 9  # the first of the 64 comparisons alone
    assert difference_hash(Image.fromarray(one)) == -(2**63)
    last = np.zeros((8, 9), np.uint8)
    last[7, 8] = 9
    assert difference_hash(Image.fromarray(last)) == 1


def test_difference_hash_survives_another_encoding() -> None:
    rows, columns = np.mgrid[0:120, 0:160]
    image = Image.fromarray((127 + 90 * np.sin(rows / 17) * np.cos(columns / 23)).astype(np.uint8))
    hashes = [
        probe(_encoded(image, "PNG"), 10**6, "a").difference_hash,
        probe(_encoded(image, "JPEG", quality=60), 10**6, "a").difference_hash,
        probe(_encoded(image.resize((80, 60)), "PNG"), 10**6, "a").difference_hash,
    ]
    distances = [bin((hashes[0] ^ other) & (2**64 - 1)).count("1") for other in hashes[1:]]
    assert max(distances) <= 6
