"""Mask2Former's backbone and pixel decoder run by their authors' own code on detectron2, on their checkpoint files.

Optional: detectron2 and Mask2Former come from source, into an environment of their own (docs/teachers.md). Features
equal those of the transformers backend to rounding; this one exists to be compared with.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from storage.errors import UsageError
from teachers.conversion.files import read_official_file
from teachers.conversion.mask2former import mask2former_architecture
from teachers.conversion.weights import OfficialWeights
from teachers.mask2former_sizes import Mask2FormerArchitecture

__all__ = ["OfficialMaskFeatures", "load_official_mask2former"]

_CUDA_OPERATOR = "MultiScaleDeformableAttention"


class PixelDecoderOutput(NamedTuple):
    """The part of the pixel decoder's output that teachers use, under transformers' name."""

    decoder_last_hidden_state: Tensor


class OfficialMaskFeatures(nn.Module):
    """Swin backbone and multi-scale deformable pixel decoder."""

    def __init__(self, backbone: nn.Module, pixel_decoder: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder

    def forward(self, batch: Float[Tensor, "batch 3 height width"]) -> PixelDecoderOutput:
        """Mask features of normalised images whose sides are multiples of 32 px."""
        mask_features, _, _ = self.pixel_decoder.forward_features(self.backbone(batch))
        return PixelDecoderOutput(mask_features)


def load_official_mask2former(path: Path) -> tuple[OfficialMaskFeatures, int]:
    """Builds the official networks and loads an official checkpoint into them.

    Args:
        path: official `.pkl` or `.pth` with a Swin backbone.

    Returns:
        The network, and the channels of its features.

    Raises:
        UsageError: detectron2 or Mask2Former isn't installed.
        DataError: weights are missing, or of another architecture.
    """
    modules = _official_modules()
    weights = OfficialWeights(str(path), read_official_file(path))
    architecture, _ = mask2former_architecture(weights)
    config = _config(modules, architecture)
    backbone = modules["D2SwinTransformer"](config, modules["ShapeSpec"](channels=3))
    pixel_decoder = modules["MSDeformAttnPixelDecoder"](config, backbone.output_shape())
    network = OfficialMaskFeatures(backbone, pixel_decoder)
    # Names differ by the head that the pixel decoder belongs to in the whole model.
    official = {name: name.replace("pixel_decoder.", "sem_seg_head.pixel_decoder.", 1) for name in network.state_dict()}
    tensors = zip(official, weights.require(official.values()), strict=True)
    network.load_state_dict(dict(tensors))
    return network, architecture.num_mask_channels


def _config(modules: dict[str, Any], architecture: Mask2FormerArchitecture) -> Any:
    config = modules["get_cfg"]()
    modules["add_deeplab_config"](config)
    modules["add_maskformer2_config"](config)
    swin, head, former = config.MODEL.SWIN, config.MODEL.SEM_SEG_HEAD, config.MODEL.MASK_FORMER
    swin.EMBED_DIM, swin.DEPTHS = architecture.embed_dim, list(architecture.depths)
    swin.NUM_HEADS, swin.WINDOW_SIZE = list(architecture.num_heads), architecture.window_size
    swin.MLP_RATIO, swin.QKV_BIAS = architecture.mlp_ratio, architecture.qkv_bias
    head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    head.PIXEL_DECODER_NAME, head.NORM, head.COMMON_STRIDE = "MSDeformAttnPixelDecoder", "GN", 4
    head.CONVS_DIM, head.MASK_DIM = architecture.num_channels, architecture.num_mask_channels
    head.TRANSFORMER_ENC_LAYERS = architecture.num_encoder_layers
    former.NHEADS, former.DROPOUT = architecture.num_encoder_heads, 0.0
    return config


def _official_modules() -> dict[str, Any]:
    # The authors' CUDA operator is compiled on the machine with the GPU; without it their code refuses to be imported,
    # although it then runs a version in plain torch.
    if _CUDA_OPERATOR not in sys.modules and importlib.util.find_spec(_CUDA_OPERATOR) is None:
        sys.modules[_CUDA_OPERATOR] = ModuleType(_CUDA_OPERATOR)
    names = {
        "detectron2.config": ("get_cfg",),
        "detectron2.layers": ("ShapeSpec",),
        "detectron2.projects.deeplab": ("add_deeplab_config",),
        "mask2former": ("add_maskformer2_config",),
        "mask2former.modeling.backbone.swin": ("D2SwinTransformer",),
        "mask2former.modeling.pixel_decoder.msdeformattn": ("MSDeformAttnPixelDecoder",),
    }
    try:
        return {name: getattr(importlib.import_module(module), name) for module, (name,) in names.items()}
    except ImportError as error:
        raise UsageError(
            "teacher mask2former: backend: official needs detectron2 and Mask2Former, which can't be imported "
            f"({error}); install them in an environment of their own (docs/teachers.md, Official backends), or set "
            "backend: transformers, which reads the same checkpoints"
        ) from error
