"""From patch hidden states to mask features: learned upsampling without a segmentation decoder."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.config import StudentConfig

__all__ = ["MaskFeatures", "UpsampleBlock"]


class UpsampleBlock(nn.Module):
    """Doubles a map: ConvTranspose 2x2 stride 2, GELU, depthwise 3x3, pointwise 1x1, channel LayerNorm.

    Maps are channels-last, which makes every channel mix one matrix product; a transposed
    convolution whose stride equals its kernel is a product followed by a shuffle of cells.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.transposed = nn.ConvTranspose2d(num_channels, num_channels, kernel_size=2, stride=2)
        self.depthwise = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1, groups=num_channels)
        self.pointwise = nn.Linear(num_channels, num_channels)
        self.norm = nn.LayerNorm(num_channels, eps=1e-6)

    def forward(self, cells: Float[Tensor, "batch h w channels"]) -> Float[Tensor, "batch h2 w2 channels"]:
        """Returns the map with twice the rows and columns."""
        batch, height, width, channels = cells.shape
        weight = self.transposed.weight.permute(0, 2, 3, 1).reshape(channels, 4 * channels)
        doubled = (cells.reshape(-1, channels) @ weight).reshape(batch, height, width, 2, 2, channels)
        doubled = doubled.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels)
        bias = self.transposed.bias
        doubled = functional.gelu(doubled if bias is None else doubled + bias)
        local = self.depthwise(doubled.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(self.pointwise(local))


class MaskFeatures(nn.Module):
    """Patch hidden states -> mask features at the mask stride."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        channels = config.mask_channels
        self.reduce = (
            nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, channels)
            )
            if config.hidden_size > config.max_mask_channels
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(UpsampleBlock(channels) for _ in range(config.num_upsample_blocks))
        self.project = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, config.mask_dim))

    def forward(self, patches: Float[Tensor, "batch h w dim"]) -> Float[Tensor, "batch mask_h mask_w mask_dim"]:
        """Upsamples patch hidden states of images of one grid; channels stay last."""
        cells: Tensor = self.reduce(patches)
        for block in self.blocks:
            cells = block(cells)
        return torch.as_tensor(self.project(cells))
