"""Sizes of Mask2Former's backbone and pixel decoder: the published ones and small random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from storage.recipe import RecipeModel

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig

__all__ = ["MASK2FORMER_SIZES", "Mask2FormerArchitecture", "Mask2FormerSize", "Mask2FormerSizes"]

Mask2FormerSize: TypeAlias = Literal["swin-tiny", "swin-small", "swin-base", "swin-large"]
"""Published sizes, named after the backbone."""

_Stages: TypeAlias = tuple[int, int, int, int]


class Mask2FormerArchitecture(RecipeModel):
    """All that decides the feature network: Swin backbone and pixel decoder. The weights' shapes tell all of it."""

    embed_dim: int = Field(ge=1)
    """Channels of the first Swin stage; doubled from stage to stage."""
    depths: _Stages
    """Blocks of the four Swin stages."""
    num_heads: _Stages
    """Attention heads of the four Swin stages."""
    window_size: int = Field(ge=1)
    """Side of an attention window in tokens of the stage."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden channels of a Swin block's MLP per channel of the block."""
    qkv_bias: bool = True
    """Queries, keys and values of the Swin blocks have biases."""
    num_channels: int = Field(default=256, ge=32, multiple_of=32)
    """Channels of the pixel decoder; a multiple of its 32 norm groups."""
    num_mask_channels: int = Field(default=256, ge=1)
    """Channels of the mask features, which are the teacher's features."""
    num_encoder_layers: int = Field(default=6, ge=1)
    """Deformable-attention layers of the pixel decoder."""
    num_encoder_heads: int = Field(default=8, ge=1)
    """Attention heads of these layers."""
    encoder_feedforward_channels: int = Field(default=1024, ge=1)
    """Hidden channels of their feed-forward parts."""

    def network_config(self) -> Mask2FormerConfig:
        """Transformers' configuration; of the transformer decoder as little as the class allows."""
        # transformers takes seconds to import; recipes that only name a teacher don't pay for it.
        from transformers import Mask2FormerConfig, SwinConfig

        backbone = SwinConfig(
            embed_dim=self.embed_dim,
            depths=list(self.depths),
            num_heads=list(self.num_heads),
            window_size=self.window_size,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=self.qkv_bias,
            drop_path_rate=0.0,
            out_features=["stage1", "stage2", "stage3", "stage4"],  # pyright: ignore[reportCallIssue] (through kwargs)
        )
        return Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=self.num_channels,
            mask_feature_size=self.num_mask_channels,
            # Not the width of the queries alone: the pixel decoder's position embeddings follow it.
            hidden_dim=self.num_channels,
            encoder_feedforward_dim=self.encoder_feedforward_channels,
            encoder_layers=self.num_encoder_layers,
            num_attention_heads=self.num_encoder_heads,
            decoder_layers=2,
            dim_feedforward=32,
            num_queries=1,
        )


class Mask2FormerSizes(RecipeModel):
    """Sizes of a small Mask2Former with a Swin backbone and random weights."""

    embed_dim: int = Field(default=24, ge=8, multiple_of=8)
    """Channels of the first Swin stage; doubled from stage to stage."""
    depths: _Stages = (1, 1, 1, 1)
    """Blocks of the four Swin stages."""
    window_size: int = Field(default=4, ge=1)
    """Side of an attention window in tokens of the stage."""
    num_channels: int = Field(default=32, ge=32, multiple_of=32)
    """Channels of the pixel decoder and of the features; a multiple of its 32 norm groups."""
    num_encoder_layers: int = Field(default=1, ge=1)
    """Deformable-attention layers of the pixel decoder."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random weights."""

    def architecture(self) -> Mask2FormerArchitecture:
        """The whole architecture."""
        return Mask2FormerArchitecture(
            embed_dim=self.embed_dim,
            depths=self.depths,
            num_heads=(1, 2, 4, 8),
            window_size=self.window_size,
            num_channels=self.num_channels,
            num_mask_channels=self.num_channels,
            num_encoder_layers=self.num_encoder_layers,
            num_encoder_heads=4,
            encoder_feedforward_channels=2 * self.num_channels,
        )


# The configurations of facebookresearch/Mask2Former, `configs/coco/panoptic-segmentation/swin/`.
MASK2FORMER_SIZES: dict[str, Mask2FormerArchitecture] = {
    "swin-tiny": Mask2FormerArchitecture(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7),
    "swin-small": Mask2FormerArchitecture(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), window_size=7),
    "swin-base": Mask2FormerArchitecture(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12),
    "swin-large": Mask2FormerArchitecture(
        embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window_size=12
    ),
}
"""Published architectures by the names of `Mask2FormerSize`."""
