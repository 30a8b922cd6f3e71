from __future__ import annotations

import numpy as np
import pytest

from pipelines.feature_pictures import components_picture, fit_components, norm_picture, pca_picture


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


def test_shared_components_give_the_same_feature_the_same_colour() -> None:
    rng = np.random.default_rng(2)
    kinds = rng.normal(size=(4, 8)).astype(np.float32)  # features of four things, [things, channels]
    first = kinds[rng.integers(0, 4, (6, 5))].transpose(2, 0, 1)
    second = kinds[rng.integers(0, 2, (3, 7))].transpose(2, 0, 1)
    shared = fit_components([first, second])
    shown = {}
    for features in (first, second):
        picture = components_picture(features, shared)
        assert picture.shape == (*features.shape[1:], 3)
        for place in np.ndindex(features.shape[1:]):
            thing = int(np.abs(kinds - features[:, *place]).sum(axis=1).argmin())
            assert (shown.setdefault(thing, picture[place]) == picture[place]).all()
    assert len({tuple(colour) for colour in shown.values()}) == 4
    own = components_picture(second, fit_components([second]))
    assert (own != components_picture(second, shared)).any()


def test_components_of_a_sample_are_nearly_those_of_all_cells() -> None:
    rng = np.random.default_rng(3)
    features = (rng.normal(size=(5, 40, 40)) * np.array([9, 5, 3, 0.1, 0.1])[:, None, None]).astype(np.float32)
    some, whole = fit_components([features], cells_per_image=400), fit_components([features])
    assert np.abs(np.abs(some.axes) - np.abs(whole.axes)).max() < 0.15
    assert fit_components([features], cells_per_image=5000).axes == pytest.approx(whole.axes)


def test_the_norm_goes_from_dark_to_bright() -> None:
    features = np.linspace(0, 3, 100, dtype=np.float32).reshape(1, 10, 10).repeat(3, axis=0)
    picture = norm_picture(features).astype(int)
    brightness = picture.sum(axis=-1).ravel()
    assert picture.shape == (10, 10, 3)
    assert (np.diff(brightness) >= 0).all()
    assert brightness[0] < 100 < 500 < brightness[-1]
    assert len(np.unique(norm_picture(np.full((4, 2, 2), 7.3, np.float32)).reshape(-1, 3), axis=0)) == 1
