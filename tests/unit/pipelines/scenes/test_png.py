"""PNG files that any reader opens."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipelines.scenes.png import encode_png


def test_pillow_reads_back_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    data = encode_png(image)
    with Image.open(io.BytesIO(data)) as read:
        read.load()
        assert read.mode == "RGB"
        assert (np.asarray(read) == image).all()
    assert encode_png(image.copy()) == data
