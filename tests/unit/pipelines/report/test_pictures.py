from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipelines.report.pictures import data_uri, pca_picture


def test_pca_separates_regions_and_ignores_rotation() -> None:
    rng = np.random.default_rng(0)
    features = np.zeros((6, 8, 10), np.float32)
    features[:, :, :5] = rng.normal(size=(6, 1, 1))
    features[:, :4, 5:] = rng.normal(size=(6, 1, 1))
    picture = pca_picture(features)
    assert picture.shape == (8, 10, 3)
    assert (picture[:, :5] == picture[0, 0]).all()
    assert (picture[0, 0] != picture[0, 9]).any()
    assert (picture[0, 9] != picture[7, 9]).any()


def test_pca_keeps_distances_of_three_channel_features() -> None:
    features = np.random.default_rng(1).normal(size=(3, 6, 6)).astype(np.float32) * np.array([9, 3, 1])[:, None, None]
    picture = pca_picture(features.astype(np.float32)).reshape(-1, 3).astype(float)
    for channel in range(3):
        correlation = np.corrcoef(picture[:, channel], features[channel].ravel())[0, 1]
        assert abs(correlation) > 0.9


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pca_of_constant_features_is_grey(channels: int) -> None:
    assert (pca_picture(np.full((channels, 3, 4), 7.3, np.float32)) == 128).all()


def test_photographs_become_jpeg_and_drawings_stay_exact() -> None:
    drawing = np.zeros((200, 200, 3), np.uint8)
    photo = np.random.default_rng(0).integers(0, 255, (288, 288, 3), np.uint8)
    head, _, data = data_uri(drawing).partition(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == drawing).all()
    assert data_uri(photo).startswith("data:image/jpeg;base64,")
