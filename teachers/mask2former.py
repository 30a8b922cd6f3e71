"""Mask2Former: per-pixel mask features at stride 4, the output of its pixel decoder.

Backbone and pixel decoder come from transformers; the transformer decoder behind them is neither
needed nor kept. Cheng et al., "Masked-attention Mask Transformer for Universal Image
Segmentation" (arXiv 2112.01527), section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from storage.recipe import RecipeModel
from teachers.base import DType, ModuleTeacher, build_seeded, require_loaded
from teachers.packaged import resolve_checkpoint
from teachers.resize import lookup_normalised, require_rgb, round_up, short_side_size

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig

__all__ = ["Mask2FormerSizes", "Mask2FormerTeacher", "Mask2FormerTeacherConfig", "network_config"]

_STRIDE = 4
_LAYER = "pixel_decoder.mask_features"


class Mask2FormerSizes(RecipeModel):
    """Sizes of a small Mask2Former with a Swin backbone and random weights."""

    embed_dim: int = Field(default=24, ge=8, multiple_of=8)
    """Channels of the first Swin stage; doubled from stage to stage."""
    depths: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Blocks of the four Swin stages."""
    window_size: int = Field(default=4, ge=1)
    """Side of an attention window in tokens of the stage."""
    num_channels: int = Field(default=32, ge=32, multiple_of=32)
    """Channels of the pixel decoder and of the features; a multiple of its 32 norm groups."""
    num_encoder_layers: int = Field(default=1, ge=1)
    """Deformable-attention layers of the pixel decoder."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random weights."""


class Mask2FormerTeacherConfig(RecipeModel):
    """A Mask2Former teacher, from a checkpoint or small and random."""

    student_source: ClassVar[Literal["mask_features", "patches"]] = "mask_features"
    """Compared with the student's mask features, which are at a like stride."""
    kind: Literal["mask2former"] = "mask2former"
    """Names this teacher among the others."""
    checkpoint: str | None = None
    """Folder, hub or packaged name in transformers' format, such as `facebook/mask2former-swin-large-coco-panoptic`.

    None: a random network of the sizes in `tiny`.
    """
    tiny: Mask2FormerSizes = Mask2FormerSizes()
    """Sizes of the random network that is used without a checkpoint."""
    short_side_px: int = Field(default=800, gt=32)
    """Short side of the resized image in px, before stretching to multiples of `multiple_px`.

    A single image of 32 x 32 px would be one cell at stride 32, which torch's group norm refuses.
    """
    long_side_px: int = Field(default=1333, gt=32)
    """Upper limit of the long side in px, before stretching."""
    multiple_px: int = Field(default=32, ge=32, multiple_of=32)
    """Both sides are stretched up to a multiple of this many px."""
    dtype: DType = "float32"
    """Arithmetic of the forward pass."""

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Aspect-preserving size, each side then rounded up to a multiple."""
        height, width = short_side_size(height_px, width_px, self.short_side_px, self.long_side_px)
        return round_up(height, self.multiple_px), round_up(width, self.multiple_px)

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """A quarter of the input size."""
        height, width = self.input_size(height_px, width_px)
        return height // _STRIDE, width // _STRIDE

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """Stretches with PIL's bilinear filter, then normalises; equals transformers' PIL processor bit for bit."""
        require_rgb(image)
        height, width = self.input_size(image.height, image.width)
        return lookup_normalised(image.resize((width, height), Image.Resampling.BILINEAR))

    def build(self, device: str = "cpu") -> Mask2FormerTeacher:
        """Loads or draws the weights and puts the teacher on the device.

        Raises:
            DataError: the checkpoint lacks weights of the feature network.
            OSError: no checkpoint under that path or name.
        """
        network, num_channels = _random_network(self.tiny) if self.checkpoint is None else _load(self.checkpoint)
        return Mask2FormerTeacher(network, num_channels, self, device)


class Mask2FormerTeacher(ModuleTeacher):
    """See `Mask2FormerTeacherConfig`; features lie on the stretched image at stride 4."""

    def __init__(self, network: nn.Module, num_channels: int, config: Mask2FormerTeacherConfig, device: str) -> None:
        identity = {
            "kind": config.kind,
            "layer": _LAYER,
            "preprocessing": {
                "rule": "short side, stretch to multiple, PIL bilinear, ImageNet",
                "short_side_px": config.short_side_px,
                "long_side_px": config.long_side_px,
                "multiple_px": config.multiple_px,
            },
        }
        super().__init__(
            network,
            num_channels=num_channels,
            geometry=config,
            identity=identity,
            dtype=config.dtype,
            device=device,
        )

    def _features(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        return self._module(batch).decoder_last_hidden_state


def network_config(sizes: Mask2FormerSizes) -> Mask2FormerConfig:
    """Transformers' configuration of a small Mask2Former; of the transformer decoder as little as the class allows."""
    # transformers takes seconds to import; recipes that only name a teacher don't pay for it.
    from transformers import Mask2FormerConfig, SwinConfig

    backbone = SwinConfig(
        embed_dim=sizes.embed_dim,
        depths=list(sizes.depths),
        num_heads=[1, 2, 4, 8],
        window_size=sizes.window_size,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],  # pyright: ignore[reportCallIssue] (taken through kwargs)
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=sizes.num_channels,
        mask_feature_size=sizes.num_channels,
        hidden_dim=sizes.num_channels,
        encoder_feedforward_dim=2 * sizes.num_channels,
        encoder_layers=sizes.num_encoder_layers,
        num_attention_heads=4,
        decoder_layers=2,
        dim_feedforward=32,
        num_queries=1,
    )


def _random_network(sizes: Mask2FormerSizes) -> tuple[nn.Module, int]:
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerModel

    config = network_config(sizes)
    network = build_seeded(lambda: Mask2FormerModel(config).pixel_level_module, sizes.seed)
    return network, sizes.num_channels


def _load(checkpoint: str) -> tuple[nn.Module, int]:
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

    loaded = Mask2FormerForUniversalSegmentation.from_pretrained(
        resolve_checkpoint(checkpoint), dtype=torch.float32, output_loading_info=True
    )
    model, info = cast("tuple[Mask2FormerForUniversalSegmentation, dict[str, set[str]]]", loaded)
    require_loaded(checkpoint, set(info["missing_keys"]), ("model.pixel_level_module.",))
    return model.model.pixel_level_module, model.config.mask_feature_size
