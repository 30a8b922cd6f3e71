"""Released state dicts: the upstream weight names, here alone.

Source: the released Pixel-SAIL model (the `ST` project of the public Sa2VA repository). Its decoder
lies under `single_transformer`, its mask head beside it, its distillation heads are two linears.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from model.config import StudentConfig

__all__ = ["from_released", "to_released"]

_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"single_transformer\.model\.(embed_tokens|vis_embed|vp_embed|norm)\.(.+)", r"\1.\2"),
    (r"single_transformer\.model\.layers\.(\d+)\.mlp\.(.+)", r"layers.\1.\2"),
    (r"single_transformer\.model\.layers\.(\d+)\.(.+)", r"layers.\1.\2"),
    (r"upsample_blocks\.(\d+)\.0\.(.+)", r"mask_features.blocks.\1.transposed.\2"),
    (r"upsample_blocks\.(\d+)\.2\.(depthwise|pointwise)\.(.+)", r"mask_features.blocks.\1.\2.\3"),
    (r"upsample_blocks\.(\d+)\.3\.ln\.(.+)", r"mask_features.blocks.\1.norm.\2"),
    (r"image_feature_projector\.(.+)", r"mask_features.project.\1"),
    (r"image_feature_down_projector\.(.+)", r"mask_features.reduce.\1"),
    (r"seg_token_projector\.(.+)", r"seg_query.\1"),
    (r"(mask2former|sam2)_distill_linear\.(.+)", r"distillation_heads.\1.\2"),
)
_TIED = "single_transformer.lm_head.weight"


def from_released(state_dict: Mapping[str, Tensor], config: StudentConfig) -> dict[str, Tensor]:
    """Renames a released state dict to the names of `PixelSail`.

    Raises:
        ValueError: a name that this model has no place for, or an output embedding that is not tied.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if name == _TIED:
            continue
        ours = _rename(name)
        if ours.endswith("pointwise.weight"):
            tensor = tensor.flatten(1)
        renamed[ours] = tensor
    tied = state_dict.get(_TIED)
    if tied is not None and not tied.equal(renamed["embed_tokens.weight"]):
        raise ValueError(f"{_TIED}: expected the input embedding (tied weights), got another matrix")
    vocab_size = len(renamed["embed_tokens.weight"])
    if vocab_size != config.vocab_size:
        raise ValueError(f"embed_tokens: expected {config.vocab_size} rows as configured, got {vocab_size}")
    return renamed


def to_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the state dict of `PixelSail` to the released names; the inverse of `from_released`."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        theirs = _released_name(name)
        renamed[theirs] = tensor[..., None, None] if theirs.endswith("pointwise.weight") else tensor
    renamed[_TIED] = state_dict["embed_tokens.weight"]
    return renamed


def _rename(name: str) -> str:
    for pattern, replacement in _PATTERNS:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    raise ValueError(f"released weight {name!r}: expected a name of the released model, got one without a place here")


def _released_name(name: str) -> str:
    head, _, rest = name.partition(".")
    if head in {"embed_tokens", "vis_embed", "vp_embed", "norm"}:
        return f"single_transformer.model.{name}"
    if head == "layers":
        inner = re.sub(r"(\d+)\.(gate_proj|up_proj|down_proj)", r"\1.mlp.\2", rest)
        return f"single_transformer.model.layers.{inner}"
    if head == "seg_query":
        return f"seg_token_projector.{rest}"
    if head == "distillation_heads":
        teacher, _, part = rest.partition(".")
        return f"{teacher}_distill_linear.{part}"
    rest = re.sub(r"^project\.", "image_feature_projector.", rest)
    rest = re.sub(r"^reduce\.", "image_feature_down_projector.", rest)
    rest = re.sub(r"^blocks\.(\d+)\.transposed\.", r"upsample_blocks.\1.0.", rest)
    rest = re.sub(r"^blocks\.(\d+)\.(depthwise|pointwise)\.", r"upsample_blocks.\1.2.\2.", rest)
    return re.sub(r"^blocks\.(\d+)\.norm\.", r"upsample_blocks.\1.3.ln.", rest)
