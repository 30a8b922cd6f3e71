from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipelines.report.pictures import ANSWER, data_uri, fit, outlined, pca_picture, spotlit


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


def test_spotlight_keeps_the_inside_and_darkens_the_rest() -> None:
    pixels = np.full((40, 40, 3), 200, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    shown = spotlit(pixels, mask, ANSWER)
    assert (shown[20, 20] == 200).all()
    assert (shown[0, 0] < 110).all()
    assert (shown[10, 20] == ANSWER).all()
    assert (spotlit(pixels, None, ANSWER) < 110).all()


def test_outline_leaves_everything_else() -> None:
    pixels = np.full((40, 40, 3), 90, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    shown = outlined(pixels, mask, ANSWER)
    assert (shown[20, 20] == 90).all()
    assert (shown[0, 0] == 90).all()
    assert (shown[10, 20] == ANSWER).all()
    assert (pixels == 90).all()


@pytest.mark.parametrize(("size", "shown"), [((96, 96), (288, 288)), ((640, 480), (288, 216)), ((3, 900), (1, 288))])
def test_pictures_are_shown_at_one_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert fit(Image.new("RGB", size)).shape == (shown[1], shown[0], 3)


def test_photographs_become_jpeg_and_drawings_stay_exact() -> None:
    drawing = np.zeros((200, 200, 3), np.uint8)
    photo = np.random.default_rng(0).integers(0, 255, (288, 288, 3), np.uint8)
    head, _, data = data_uri(drawing).partition(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == drawing).all()
    assert data_uri(photo).startswith("data:image/jpeg;base64,")
