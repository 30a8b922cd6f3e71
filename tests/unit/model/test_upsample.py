"""Upsampling by matrix products against the layers that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import StudentConfig
from model.upsample import MaskFeatures, UpsampleBlock


def by_layers(block: UpsampleBlock, cells: Tensor) -> Tensor:
    """The block of the paper, channels first."""
    doubled = functional.gelu(block.transposed(cells.permute(0, 3, 1, 2)))
    mixed = functional.conv2d(block.depthwise(doubled), block.pointwise.weight[..., None, None], block.pointwise.bias)
    mean, variance = mixed.mean(1, keepdim=True), mixed.var(1, keepdim=True, unbiased=False)
    normed = (mixed - mean) / (variance + 1e-6).sqrt()
    return (normed * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]).permute(0, 2, 3, 1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5)])
def test_a_block_is_its_layers(height: int, width: int) -> None:
    torch.manual_seed(0)
    block = UpsampleBlock(6)
    nn.init.normal_(block.norm.weight)
    cells = torch.randn(2, height, width, 6)
    with torch.no_grad():
        found = block(cells)
        assert found.shape == (2, 2 * height, 2 * width, 6)
        torch.testing.assert_close(found, by_layers(block, cells), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_layers() -> None:
    torch.manual_seed(1)
    block = UpsampleBlock(4)
    cells = torch.randn(1, 2, 3, 4)
    weights = torch.randn(1, 4, 6, 4)
    ours = torch.autograd.grad((block(cells) * weights).sum(), list(block.parameters()))
    theirs = torch.autograd.grad((by_layers(block, cells) * weights).sum(), list(block.parameters()))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_wide_hidden_states_are_projected_first() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "patch_size_px": 16, "mask_stride_px": 4, "mask_dim": 10}
    narrow, wide = (MaskFeatures(StudentConfig(**sizes, max_mask_channels=most)) for most in (32, 8))
    patches = torch.randn(2, 2, 3, 32, generator=torch.Generator().manual_seed(0))
    assert narrow(patches).shape == wide(patches).shape == (2, 8, 12, 10)
    assert isinstance(narrow.reduce, nn.Identity)
    assert [tuple(p.shape) for p in wide.reduce.parameters()] == [(32, 32), (32,), (8, 32), (8,)]
    assert wide.blocks[0].transposed.weight.shape == (8, 8, 2, 2)


@pytest.mark.parametrize("fields", [{"mask_stride_px": 16}, {"mask_stride_px": 4, "upsampling": "none"}])
def test_without_blocks_cells_are_projected_alone(fields: dict[str, Any]) -> None:
    config = StudentConfig(hidden_size=32, num_attention_heads=2, patch_size_px=16, mask_dim=5, **fields)
    features = MaskFeatures(config)
    patches = torch.randn(1, 2, 2, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(features(patches), features.project(patches))
