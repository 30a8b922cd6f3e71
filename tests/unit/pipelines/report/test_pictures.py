from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from pipelines.report.pictures import data_uri


def test_photographs_become_jpeg_and_drawings_stay_exact() -> None:
    drawing = np.zeros((200, 200, 3), np.uint8)
    photo = np.random.default_rng(0).integers(0, 255, (288, 288, 3), np.uint8)
    head, _, data = data_uri(drawing).partition(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == drawing).all()
    assert data_uri(photo).startswith("data:image/jpeg;base64,")
