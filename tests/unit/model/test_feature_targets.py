"""Features dequantised by torch are those that numpy gives, and the rotated error is the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.feature_targets import FeatureTargets, stack_targets
from storage.calibration import TIERS, CalibrationSample
from storage.codecs import Codec, StoredFeature, codec_of
from storage.errors import UsageError
from storage.klt import KltCodec

NUM_CHANNELS = 12


def _features(seed: int, height: int = 6, width: int = 9) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((NUM_CHANNELS, NUM_CHANNELS)) / np.arange(1, NUM_CHANNELS + 1)
    features = np.einsum("ck,khw->chw", mixing, generator.laplace(size=(NUM_CHANNELS, height, width)))
    features[seed % NUM_CHANNELS, 1, 2] += 300
    return (features + generator.normal(size=(NUM_CHANNELS, 1, 1))).astype(np.float32)


@pytest.fixture(scope="module", params=["raw16", "int8", "klt", "klt-20db"])
def codec(request: pytest.FixtureRequest) -> Codec:
    if request.param not in TIERS:
        return codec_of(request.param)
    sample = CalibrationSample()
    for seed in range(4):
        sample.add(_features(seed))
    return KltCodec(sample.fit(TIERS[request.param]))


@pytest.fixture
def stored(codec: Codec) -> list[StoredFeature]:
    return [codec.encode(_features(seed)) for seed in range(3)]


def test_torch_dequantises_like_numpy(stored: list[StoredFeature]) -> None:
    targets = stack_targets(stored)
    assert len(targets) == 3
    expected = np.stack([feature.dequantise() for feature in stored])
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(targets.features().numpy(), expected, rtol=0, atol=2e-6 * scale)
    coefficients = np.stack([feature.coefficients() for feature in stored])
    np.testing.assert_allclose(targets.coefficients().numpy(), coefficients, rtol=1e-6, atol=2e-7 * scale)


@pytest.mark.parametrize("grid", [(6, 9), (4, 4), (12, 18)])
def test_the_error_needs_no_inverse(stored: list[StoredFeature], grid: tuple[int, int]) -> None:
    """Rotated or not, resized before or after: one value, and one gradient for the student."""
    targets = stack_targets(stored)
    student = torch.randn(3, NUM_CHANNELS, *grid, generator=torch.Generator().manual_seed(0)).requires_grad_()
    restored = functional.interpolate(targets.features(), size=grid, mode="bilinear", align_corners=False)
    expected = (student - restored).square().flatten(1).mean(1)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), student)
    found = targets.mean_squared_error(student)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5 * float(expected_gradient.abs().max()))


def test_a_head_is_rotated_instead_of_what_it_gives(stored: list[StoredFeature]) -> None:
    targets = stack_targets(stored)
    generator = torch.Generator().manual_seed(1)
    head, inputs = torch.nn.Linear(5, NUM_CHANNELS), torch.randn(3, 4, 4, 5, generator=generator).requires_grad_()
    with torch.no_grad():
        head.weight.normal_(generator=generator)
        head.bias.normal_(generator=generator)
    parameters = (inputs, head.weight, head.bias)
    expected = targets.mean_squared_error(head(inputs).permute(0, 3, 1, 2))
    found = targets.error_of(head, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(expected.sum(), parameters), torch.autograd.grad(found.sum(), parameters)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_integers_travel(stored: list[StoredFeature], codec: Codec) -> None:
    targets = stack_targets(stored)
    assert targets.values.element_size() == codec.dtype.itemsize
    moved = targets.to("meta")
    assert isinstance(moved, FeatureTargets)
    assert moved.values.device.type == moved.outlier_value.device.type == "meta"
    assert moved.values.shape == (3, NUM_CHANNELS, 6, 9)


def test_values_cover_the_whole_range_of_codes() -> None:
    codes = np.array([[0, 1, 2, 65533, 65534]], np.uint16)
    targets = stack_targets([StoredFeature(codes, 1, 5, np.array([0.5], np.float32))])
    assert targets.coefficients().flatten().tolist() == [0, -0.5, 0.5, -16383.5, 16383.5]


def test_what_does_not_stack_is_refused(codec: Codec) -> None:
    with pytest.raises(UsageError, match="at least one image, got none"):
        stack_targets([])
    with pytest.raises(UsageError, match="expected one grid and one encoding"):
        stack_targets([codec.encode(_features(0)), codec.encode(_features(0, 9, 6))])
