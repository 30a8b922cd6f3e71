"""Sizes of SAM 2's image encoder: the published ones, small random ones, and what weights don't tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from storage.recipe import RecipeModel

if TYPE_CHECKING:
    from transformers import Sam2VisionConfig

__all__ = ["SAM2_SIZES", "Sam2Architecture", "Sam2Details", "Sam2Size", "Sam2Sizes"]

Sam2Size: TypeAlias = Literal["hiera-tiny", "hiera-small", "hiera-base-plus", "hiera-large"]
"""Published sizes; SAM 2 and SAM 2.1 share them."""

_Stages: TypeAlias = tuple[int, int, int, int]


class Sam2Architecture(RecipeModel):
    """All that decides the network of an image encoder; Ryali et al., "Hiera" (arXiv 2306.00989), is its backbone."""

    embed_dim: int = Field(ge=1)
    """Channels of the first stage; doubled from stage to stage."""
    blocks: _Stages
    """Blocks of the four stages."""
    num_heads: int = Field(ge=1)
    """Attention heads of the first stage; doubled from stage to stage."""
    window_sizes: _Stages
    """Side of an attention window in each stage, in tokens of that stage."""
    global_attention_blocks: tuple[int, ...]
    """Blocks, counted through all stages from 0, that attend to the whole image."""
    background_size: tuple[int, int] = (7, 7)
    """(rows, columns) of the position embedding that is resized to the image."""
    num_channels: int = Field(default=256, ge=4)
    """Channels of the feature pyramid and of the features."""
    top_down_levels: tuple[int, ...] = (2, 3)
    """Levels of the pyramid, from fine to coarse, that get the coarser one added."""

    def told_by_shapes(self) -> dict[str, object]:
        """What the weights' shapes tell."""
        return {name: getattr(self, name) for name in ("embed_dim", "blocks", "background_size", "num_channels")}

    def untold_by_shapes(self) -> dict[str, object]:
        """What they don't."""
        return {name: getattr(self, name) for name in Sam2Details.model_fields}

    def unusual(self) -> dict[str, object]:
        """What neither the weights' shapes nor the size that they are usual for tell; empty for every usual network.

        The fingerprint of a teacher hashes its weights; only of unusual networks must it hash more.
        """
        for known in SAM2_SIZES.values():
            if (known.embed_dim, known.blocks) == (self.embed_dim, self.blocks):
                usual = known
                break
        else:
            usual = Sam2Sizes(embed_dim=8, blocks=self.blocks).architecture()
        others = usual.untold_by_shapes()
        return {name: value for name, value in self.untold_by_shapes().items() if value != others[name]}

    def vision_config(self) -> Sam2VisionConfig:
        """Transformers' configuration."""
        # transformers takes seconds to import; recipes that only name a teacher don't pay for it.
        from transformers import Sam2HieraDetConfig, Sam2VisionConfig

        factors = (1, 2, 4, 8)
        channels = [self.embed_dim * factor for factor in factors]
        backbone = Sam2HieraDetConfig(
            hidden_size=self.embed_dim,
            num_attention_heads=self.num_heads,
            blocks_per_stage=list(self.blocks),
            embed_dim_per_stage=channels,
            num_attention_heads_per_stage=[self.num_heads * factor for factor in factors],
            window_size_per_stage=list(self.window_sizes),
            global_attention_blocks=list(self.global_attention_blocks),
            window_positional_embedding_background_size=list(self.background_size),
        )
        return Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=channels[::-1],
            fpn_hidden_size=self.num_channels,
            fpn_top_down_levels=list(self.top_down_levels),
        )

    @classmethod
    def of(cls, config: Any) -> Sam2Architecture:
        """What a `Sam2VisionConfig` of transformers says; its annotations allow more than it ever holds."""
        backbone = config.backbone_config
        return cls.model_validate(
            {
                "embed_dim": backbone.embed_dim_per_stage[0],
                "blocks": tuple(backbone.blocks_per_stage),
                "num_heads": backbone.num_attention_heads_per_stage[0],
                "window_sizes": tuple(backbone.window_size_per_stage),
                "global_attention_blocks": tuple(backbone.global_attention_blocks),
                "background_size": tuple(backbone.window_positional_embedding_background_size),
                "num_channels": config.fpn_hidden_size,
                "top_down_levels": tuple(config.fpn_top_down_levels),
            }
        )


class Sam2Details(RecipeModel):
    """What the weights of an official file don't tell; null: as in the published size of the same shapes."""

    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads of the first stage; doubled from stage to stage."""
    window_sizes: _Stages | None = None
    """Side of an attention window in each stage, in tokens of that stage."""
    global_attention_blocks: tuple[int, ...] | None = None
    """Blocks, counted through all stages from 0, that attend to the whole image."""
    top_down_levels: tuple[int, ...] | None = None
    """Levels of the pyramid, from fine to coarse, that get the coarser one added; 2 and 3 in every published size."""

    def given(self) -> dict[str, object]:
        """The fields that aren't null."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Sam2Sizes(RecipeModel):
    """Sizes of a small SAM 2 image encoder with random weights."""

    embed_dim: int = Field(default=16, ge=8, multiple_of=8)
    """Channels of the first Hiera stage; doubled from stage to stage."""
    blocks: _Stages = (1, 1, 2, 1)
    """Blocks of the four Hiera stages; the last of the third stage attends globally, so that has two or more."""
    num_channels: int = Field(default=32, ge=8, multiple_of=4)
    """Channels of the feature pyramid and of the features."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random weights."""

    def architecture(self) -> Sam2Architecture:
        """The whole architecture."""
        return Sam2Architecture(
            embed_dim=self.embed_dim,
            blocks=self.blocks,
            num_heads=1,
            window_sizes=(8, 4, 8, 4),
            global_attention_blocks=(sum(self.blocks[:3]) - 1,),
            num_channels=self.num_channels,
        )


# The configurations of facebookresearch/sam2, `sam2/configs/sam2.1/`.
SAM2_SIZES: dict[str, Sam2Architecture] = {
    "hiera-tiny": Sam2Architecture(
        embed_dim=96,
        blocks=(1, 2, 7, 2),
        num_heads=1,
        window_sizes=(8, 4, 14, 7),
        global_attention_blocks=(5, 7, 9),
    ),
    "hiera-small": Sam2Architecture(
        embed_dim=96,
        blocks=(1, 2, 11, 2),
        num_heads=1,
        window_sizes=(8, 4, 14, 7),
        global_attention_blocks=(7, 10, 13),
    ),
    "hiera-base-plus": Sam2Architecture(
        embed_dim=112,
        blocks=(2, 3, 16, 3),
        num_heads=2,
        window_sizes=(8, 4, 14, 7),
        global_attention_blocks=(12, 16, 20),
        background_size=(14, 14),
    ),
    "hiera-large": Sam2Architecture(
        embed_dim=144,
        blocks=(2, 6, 36, 4),
        num_heads=2,
        window_sizes=(8, 4, 16, 8),
        global_attention_blocks=(23, 33, 43),
    ),
}
"""Published architectures by the names of `Sam2Size`."""
