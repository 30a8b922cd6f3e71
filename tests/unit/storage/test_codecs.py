from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from storage.codecs import StoredFeature, codec_of
from storage.errors import DataError, UnknownKind
from storage.testing import example_codec

RAW16, INT8 = codec_of("raw16"), codec_of("int8")


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _snr_db(features: np.ndarray, restored: np.ndarray) -> float:
    centred = features - features.mean(axis=(1, 2), keepdims=True)
    return float(10 * np.log10((centred**2).mean() / max(((features - restored) ** 2).mean(), 1e-30)))


def test_unknown_encoding_lists_the_known() -> None:
    with pytest.raises(UnknownKind, match="unknown feature encoding 'klt9'; known: int8, klt:<calibration>, raw16"):
        codec_of("klt9")


def test_raw16_rounds_to_half_precision() -> None:
    features = _normal(3, 4, 5) * 100
    stored = RAW16.encode(features)
    assert stored.values.dtype == np.float16
    assert stored.values.shape == (3, 20)
    assert stored.scale.size == stored.outlier_cell.size == 0
    np.testing.assert_array_equal(stored.dequantise(), features.astype(np.float16).astype(np.float32))


def test_raw16_refuses_what_float16_cannot_hold() -> None:
    features = np.zeros((1, 1, 2), np.float32)
    features[0, 0, 0] = 65519.9
    assert RAW16.encode(features).dequantise()[0, 0, 0] == 65504
    features[0, 0, 1] = -65520
    with pytest.raises(DataError, match="magnitude 65520 is beyond float16"):
        RAW16.encode(features)


@pytest.mark.parametrize("name", ["raw16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    features = _normal(2, 3, 3)
    features[1, 2, 0] = value
    with pytest.raises(DataError, match="1 of 18 values are not finite"):
        codec_of(name).encode(features)


def test_int8_refuses_divergence() -> None:
    with pytest.raises(DataError, match="the teacher diverges"):
        INT8.encode(np.full((1, 1, 1), 1e31, np.float32))


def test_int8_keeps_30_db() -> None:
    features = _normal(16, 64, 64) * np.geomspace(1e-3, 1e3, 16, dtype=np.float32)[:, None, None] + 5
    restored = INT8.encode(features).dequantise()
    for channel in range(16):
        assert _snr_db(features[channel : channel + 1], restored[channel : channel + 1]) > 30


def test_an_outlier_costs_the_others_nothing_and_is_exact() -> None:
    features = _normal(4, 64, 64)
    clean = INT8.encode(features)
    features[2, 3, 4] = 200
    stored = INT8.encode(features)
    assert (stored.outlier_channel.tolist(), stored.outlier_cell.tolist()) == ([2], [3 * 64 + 4])
    restored = stored.dequantise()
    assert restored[2, 3, 4] == np.float32(200)
    others = np.ones_like(features, bool)
    others[2, 3, 4] = False
    error, clean_error = (np.abs(x - features)[others].max() for x in (restored, clean.dequantise()))
    assert error <= 1.01 * clean_error


@pytest.mark.parametrize("share", [0.001, 0.005, 0.015])
def test_a_channel_with_values_200_sigma_out_keeps_its_snr(share: float) -> None:
    features = _normal(16, 64, 64)
    far = np.random.default_rng(0).random((64, 64)) < share
    spiked = features.copy()
    spiked[1][far] = 200
    for codec in (RAW16, INT8, example_codec("klt", 16), example_codec("klt-20db", 16)):
        clean, restored = codec.encode(features).dequantise(), codec.encode(spiked).dequantise()
        before, after = (
            10 * np.log10(features[1][~far].var() / ((values[1] - features[1])[~far] ** 2).mean())
            for values in (clean, restored)
        )
        assert after > before - 1.0, codec.encoding
        np.testing.assert_allclose(restored[1][far], 200, rtol=5e-3)


@pytest.mark.parametrize("kind", ["relu", "heavy tail", "two values", "ramp", "mostly one value"])
def test_int8_handles_channels_that_are_not_normal(kind: str) -> None:
    noise = np.random.default_rng(0)
    features = {
        "relu": np.maximum(_normal(2, 64, 64) - 1.5, 0),
        "heavy tail": noise.standard_t(2.5, (2, 64, 64)),
        "two values": noise.integers(0, 2, (2, 64, 64)) * 7.0,
        "ramp": np.linspace(-3, 9, 2 * 64 * 64).reshape(2, 64, 64),
        "mostly one value": (noise.random((2, 64, 64)) > 0.98) * noise.random((2, 64, 64)),
    }[kind].astype(np.float32)
    stored = INT8.encode(features)
    assert _snr_db(features, stored.dequantise()) > 30
    assert stored.outlier_cell.size <= features.size * 2 / 256


def test_constant_channels_are_exact() -> None:
    features = np.broadcast_to(np.array([0, 3.25, -1e-20], np.float32)[:, None, None], (3, 2, 2)).copy()
    stored = INT8.encode(features)
    assert not stored.values.any()
    np.testing.assert_array_equal(stored.dequantise(), features)


@given(arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(-1e6, 1e6, width=32)))
def test_int8_is_never_off_by_more_than_half_a_step(features: np.ndarray) -> None:
    stored = INT8.encode(features)
    assert stored.values.dtype == np.int8
    assert stored.values.min() >= -127  # -128 is the sentinel
    restored = stored.dequantise()
    allowed = 0.51 * stored.scale + 1e-6 * np.abs(stored.offset) + 1e-30
    assert (np.abs(restored - features) <= allowed[:, None, None]).all()
    np.testing.assert_array_equal(restored, INT8.encode(features).dequantise())


def test_a_view_is_encoded_as_its_values() -> None:
    features = np.asfortranarray(_normal(3, 5, 4))
    for codec in (RAW16, INT8):
        np.testing.assert_array_equal(
            codec.encode(features).dequantise(), codec.encode(np.ascontiguousarray(features)).dequantise()
        )


def test_stored_feature_applies_scale_offset_and_outliers() -> None:
    stored = StoredFeature(
        np.array([[1, 2], [3, 4]], np.int8),
        1,
        2,
        scale=np.array([0.5, 2], np.float32),
        offset=np.array([10, 0], np.float32),
        outlier_channel=np.array([1], np.int32),
        outlier_cell=np.array([0], np.int32),
        outlier_value=np.array([-7.5], np.float32),
    )
    np.testing.assert_array_equal(stored.dequantise(), np.array([[[10.5, 11]], [[-7.5, 8]]], np.float32))
