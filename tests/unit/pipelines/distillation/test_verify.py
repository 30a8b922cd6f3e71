from __future__ import annotations

import numpy as np
import pytest

from pipelines.distillation.verify import Comparison, VerifyReport, compare, sample_images
from storage.codecs import codec_of
from storage.errors import DataError


def _features(seed: int, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).laplace(size=(8, 12, 16)) + offset).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("encoding", ["raw16", "int8"])
def test_what_encoding_and_rounding_explain_agrees(encoding: str, offset: float) -> None:
    features = _features(0, offset)
    stored = codec_of(encoding).encode(features)
    again = features * np.float32(1 + 1e-6)
    comparison = compare("a", stored, again, "float32")
    assert comparison.agrees
    assert comparison.relative_mse <= comparison.allowed_mse


@pytest.mark.parametrize("encoding", ["raw16", "int8"])
@pytest.mark.parametrize("wrong", ["another image", "shifted by a cell", "a tenth off"])
def test_anything_else_differs(encoding: str, wrong: str) -> None:
    features = _features(0)
    found = {
        "another image": _features(1),
        "shifted by a cell": np.roll(features, 1, axis=2),
        "a tenth off": features + np.float32(0.15),
    }[wrong]
    comparison = compare("a", codec_of(encoding).encode(features), found, "float32")
    assert not comparison.agrees
    with pytest.raises(DataError, match=r"store: 1 of 1 images differ .*worst a: relative error .*check weights"):
        VerifyReport((comparison,)).require_agreement("store")


def test_coarser_arithmetic_may_differ_by_more() -> None:
    features = _features(0)
    stored = codec_of("raw16").encode(features)
    noisy = features + np.random.default_rng(1).normal(0, 0.05, features.shape).astype(np.float32)
    assert compare("a", stored, noisy, "bfloat16").agrees
    assert not compare("a", stored, noisy, "float32").agrees


def test_another_shape_is_an_error() -> None:
    stored = codec_of("raw16").encode(_features(0))
    with pytest.raises(DataError, match=r"image a: stored as \(8, 12, 16\), recomputed as \(8, 12, 15\)"):
        compare("a", stored, _features(0)[:, :, 1:], "float32")


def test_constant_features_agree_with_themselves() -> None:
    features = np.full((2, 3, 3), 0.1, np.float32)
    assert compare("a", codec_of("raw16").encode(features), features, "float32").agrees
    assert not compare("a", codec_of("raw16").encode(features), features * 2, "float32").agrees


def test_the_report_names_the_worst() -> None:
    report = VerifyReport(
        (Comparison("a", 0.01, 0.0, 0.1), Comparison("b", 0.02, 0.01, 0.02), Comparison("c", 0, 0, 1))
    )
    report.require_agreement("store")
    assert report.worst.image_id == "b"
    assert report.to_json()["num_different"] == 0
    assert report.mean_mse == pytest.approx(0.01)


def test_the_sample_depends_on_the_seed_alone() -> None:
    ids = [f"{number:03}" for number in range(100)]
    assert sample_images(ids, 5, 1) == sample_images(reversed(ids), 5, 1)
    assert sample_images(ids, 5, 1) != sample_images(ids, 5, 2)
    assert sample_images(ids[:3], 5, 1) == ids[:3]
