"""RADIO's vision transformer in plain torch, with the weights' released names.

Facts are those of NVlabs/RADIO at c0f3701 (`radio/vit_patch_generator.py`, `radio/radio_model.py`,
`radio/feature_normalizer.py`) and of the vision transformer of timm that it builds on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from storage.recipe import RecipeModel

__all__ = ["RadioArchitecture", "RadioNetwork"]

_NORM_EPS = 1e-6


class RadioArchitecture(RecipeModel):
    """All that decides the network."""

    embed_dim: int = Field(ge=1)
    """Channels of tokens and features."""
    num_blocks: int = Field(ge=1)
    """Transformer blocks."""
    num_heads: int = Field(ge=1)
    """Attention heads."""
    patch_size_px: int = Field(default=16, ge=1)
    """Side of a patch in px."""
    num_tokens: int = Field(default=8, ge=1)
    """Class tokens (one for each model it was distilled from) and registers, before the patches."""
    position_grid: int = Field(default=128, ge=1)
    """Rows, and columns, of the learned position embedding: the largest image's, in patches."""
    mlp_channels: int | None = Field(default=None, ge=1)
    """Hidden channels of a block's MLP; null: four times the channels."""
    layer_scale: bool = False
    """Blocks scale what they add by a learned vector."""
    final_norm: bool = False
    """A layer norm follows the last block."""
    feature_normalizer: bool = False
    """Features are centred and rotated by fixed matrices at the end."""


class RadioNetwork(nn.Module):
    """Normalised images to patch features."""

    def __init__(self, architecture: RadioArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = _VisionTransformer(architecture)
        self.feature_normalizer = (
            _FeatureNormalizer(architecture.embed_dim) if architecture.feature_normalizer else nn.Identity()
        )

    def forward(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Features of the patches; class tokens and registers are left out."""
        patch = self.architecture.patch_size_px
        rows, columns = batch.shape[-2] // patch, batch.shape[-1] // patch
        tokens = self.model(batch, rows, columns)
        features = self.feature_normalizer(tokens[:, self.architecture.num_tokens :])
        return features.transpose(1, 2).unflatten(2, (rows, columns))


class _FeatureNormalizer(nn.Module):
    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("tx", torch.eye(embed_dim))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.get_buffer("mean")) @ self.get_buffer("tx").T


class _VisionTransformer(nn.Module):
    def __init__(self, architecture: RadioArchitecture) -> None:
        super().__init__()
        self.patch_generator = _PatchGenerator(architecture)
        self.blocks = nn.ModuleList(_Block(architecture) for _ in range(architecture.num_blocks))
        self.norm = nn.LayerNorm(architecture.embed_dim, eps=_NORM_EPS) if architecture.final_norm else nn.Identity()

    def forward(self, batch: Tensor, rows: int, columns: int) -> Float[Tensor, "batch tokens channels"]:
        tokens = self.patch_generator(batch, rows, columns)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class _PatchGenerator(nn.Module):
    """Patches with cropped position embeddings, behind class tokens and registers."""

    def __init__(self, architecture: RadioArchitecture) -> None:
        super().__init__()
        width, grid = architecture.embed_dim, architecture.position_grid
        self.patch_size_px, self.position_grid = architecture.patch_size_px, grid
        self.embedder = nn.Linear(3 * architecture.patch_size_px**2, width, bias=False)
        self.pos_embed = nn.Parameter(torch.randn(1, grid * grid, width) * width**-0.5)
        self.cls_token = _Tokens(architecture.num_tokens, width)

    def forward(self, batch: Tensor, rows: int, columns: int) -> Float[Tensor, "batch tokens channels"]:
        # unfold gives (channel, row, column) within a patch, and patches row by row: the order of the weights.
        patches = functional.unfold(batch, self.patch_size_px, stride=self.patch_size_px).transpose(1, 2)
        patches = self.embedder(patches) + self.positions(rows, columns)
        return torch.cat([self.cls_token.token.expand(len(batch), -1, -1), patches], dim=1)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 patches channels"]:
        """Embeddings of a grid: the learned square, resized to the longer side and cropped to the shorter."""
        if rows == columns == self.position_grid:
            return self.pos_embed
        learned = self.pos_embed.transpose(1, 2).unflatten(2, (self.position_grid, self.position_grid))
        longer = max(rows, columns)
        resized = functional.interpolate(learned.float(), (longer, longer), mode="bilinear", align_corners=False)
        return resized[..., :rows, :columns].flatten(2).transpose(1, 2).to(self.pos_embed.dtype)


class _Tokens(nn.Module):
    def __init__(self, num_tokens: int, embed_dim: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(num_tokens, embed_dim) * embed_dim**-0.5)


class _Block(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a short cut."""

    def __init__(self, architecture: RadioArchitecture) -> None:
        super().__init__()
        width = architecture.embed_dim
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attn = _Attention(width, architecture.num_heads)
        self.ls1 = _LayerScale(width) if architecture.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = _Mlp(width, architecture.mlp_channels or 4 * width)
        self.ls2 = _LayerScale(width) if architecture.layer_scale else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        return self.proj(attended.transpose(1, 2).flatten(2))


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Released under this name, since the hub's tools rename `gamma`.
        self.grandma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.grandma


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))
