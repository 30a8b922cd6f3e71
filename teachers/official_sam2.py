"""SAM 2's image encoder run by its authors' own package `sam2`, on their checkpoint files.

Optional: the package needs torchvision beside a matching torch (docs/teachers.md). Features equal those of the
transformers backend to rounding; this one exists to be compared with, and for whoever trusts nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from storage.errors import UsageError
from teachers.conversion.files import read_official_file
from teachers.conversion.sam2 import sam2_architecture
from teachers.conversion.weights import OfficialWeights
from teachers.sam2_sizes import Sam2Architecture, Sam2Details

__all__ = ["OfficialImageEmbedding", "load_official_sam2"]

_ENCODER = "image_encoder."


class OfficialImageEmbedding(nn.Module):
    """What `SAM2ImagePredictor` caches as `image_embed`."""

    def __init__(self, encoder: nn.Module, no_memory_embedding: Tensor, architecture: Sam2Architecture) -> None:
        super().__init__()
        self.encoder = encoder
        self.no_memory_embedding = nn.Parameter(no_memory_embedding.detach().reshape(-1))
        self.architecture = architecture

    def forward(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Features of normalised images."""
        return self.encoder(batch)["vision_features"] + self.no_memory_embedding.view(1, -1, 1, 1)


def load_official_sam2(path: Path, details: Sam2Details | None = None) -> OfficialImageEmbedding:
    """Builds the official image encoder and loads an official checkpoint into it.

    Args:
        path: official `.pt`.
        details: what its weights don't tell; nothing for published sizes.

    Raises:
        UsageError: the package isn't installed, or details are missing.
        DataError: weights are missing.
    """
    modules = _official_modules()
    tensors = read_official_file(path)
    weights = OfficialWeights(str(path), tensors)
    architecture, _ = sam2_architecture(weights, details or Sam2Details())
    trunk = modules["Hiera"](
        embed_dim=architecture.embed_dim,
        num_heads=architecture.num_heads,
        stages=architecture.blocks,
        global_att_blocks=architecture.global_attention_blocks,
        window_pos_embed_bkg_spatial_size=architecture.background_size,
        window_spec=architecture.window_sizes,
    )
    width = architecture.num_channels
    neck = modules["FpnNeck"](
        position_encoding=modules["PositionEmbeddingSine"](num_pos_feats=width, normalize=True, scale=None),
        d_model=width,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=list(architecture.top_down_levels),
        fpn_interp_model="nearest",
    )
    encoder: nn.Module = modules["ImageEncoder"](trunk=trunk, neck=neck, scalp=1)
    names = [_ENCODER + name for name in encoder.state_dict()]
    wanted = zip(names, weights.require(names), strict=True)
    encoder.load_state_dict({name.removeprefix(_ENCODER): tensor.float() for name, tensor in wanted})
    return OfficialImageEmbedding(encoder, weights.require(["no_mem_embed"])[0].float(), architecture)


def _official_modules() -> dict[str, Any]:
    try:
        from sam2.modeling.backbones.hieradet import Hiera  # pyright: ignore[reportMissingImports]
        from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder  # pyright: ignore[reportMissingImports]
        from sam2.modeling.position_encoding import PositionEmbeddingSine  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"teacher sam2: backend: official needs the package sam2, which can't be imported ({error}); install it "
            "beside torchvision (docs/teachers.md, Official backends), or set backend: transformers, which reads the "
            "same checkpoints"
        ) from error
    return {
        "Hiera": Hiera,
        "FpnNeck": FpnNeck,
        "ImageEncoder": ImageEncoder,
        "PositionEmbeddingSine": PositionEmbeddingSine,
    }
