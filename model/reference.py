"""Upstream weight names, and the released state dicts that bear them.

Source: the released Pixel-SAIL model (the `ST` project of the public Sa2VA repository). Its decoder
lies under `single_transformer`, by the names of Qwen2 in transformers (patches' own weights by those of
EVEv2); its mask head lies beside it, its distillation heads are one linear each.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from math import isqrt

from pydantic import ValidationError
from torch import Tensor

from model.config import DistillationHead, StudentConfig
from storage.errors import DataError, UsageError

__all__ = [
    "complete_config",
    "decoder_name",
    "from_decoder_name",
    "from_released",
    "is_released",
    "patch_size_of",
    "released_config",
    "to_released",
]

_PLACEHOLDERS = {
    "n": r"\d+",
    "part": "weight|bias",
    "table": "embed_tokens|vis_embed|vp_embed|norm",
    "projection": "[qkvo]_proj",
    "mlp": "(?:gate|up|down)_proj",
    "norm": "(?:input|post_attention)_layernorm",
    "convolution": "depthwise|pointwise",
    "teacher": "[a-z0-9_]+",
}
_DECODER: tuple[tuple[str, str], ...] = (
    ("{table}.weight", "model.{table}.weight"),
    ("lm_head.weight", "lm_head.weight"),
    ("layers.{n}.self_attn.{projection}.{part}", "model.layers.{n}.self_attn.{projection}.{part}"),
    ("layers.{n}.{mlp}.weight", "model.layers.{n}.mlp.{mlp}.weight"),
    ("layers.{n}.{norm}.weight", "model.layers.{n}.{norm}.weight"),
    ("layers.{n}.vision.self_attn.{projection}.{part}", "model.layers.{n}.self_attn.moe_{projection}.{part}"),
    ("layers.{n}.vision.{mlp}.weight", "model.layers.{n}.moe_mlp.{mlp}.weight"),
    ("layers.{n}.vision.{norm}.weight", "model.layers.{n}.moe_{norm}.weight"),
    ("vis_embed.quarters.{part}", "model.vision_tower.patch_embedding.0.{part}"),
    ("vis_embed.join.{part}", "model.vision_tower.patch_embedding.2.{part}"),
)
"""Our names and those of decoder-only checkpoints."""
_RELEASED_PREFIX = "single_transformer."
_RELEASED: tuple[tuple[str, str], ...] = (
    *((ours, _RELEASED_PREFIX + theirs) for ours, theirs in _DECODER),
    ("seg_query.{n}.{part}", "seg_token_projector.{n}.{part}"),
    ("mask_features.reduce.{n}.{part}", "image_feature_pre_projector.{n}.{part}"),
    ("mask_features.blocks.{n}.transposed.{part}", "upsample_blocks.{n}.0.{part}"),
    ("mask_features.blocks.{n}.{convolution}.{part}", "upsample_blocks.{n}.2.{convolution}.{part}"),
    ("mask_features.blocks.{n}.norm.{part}", "upsample_blocks.{n}.3.ln.{part}"),
    ("mask_features.project.{n}.{part}", "image_feature_projector.{n}.{part}"),
    ("distillation_heads.{teacher}.{part}", "{teacher}_distill_linear.{part}"),
)
_OUTPUT = f"{_RELEASED_PREFIX}lm_head.weight"
_UNKNOWN_TO_SHAPES = ("num_attention_heads", "rope_theta", "rms_norm_eps")


def from_decoder_name(name: str) -> str | None:
    """Our name of a weight of a decoder-only checkpoint; None for one without a place here."""
    return _translated(name, tuple((theirs, ours) for ours, theirs in _DECODER))


def decoder_name(name: str) -> str:
    """The name that a weight of ours has in decoder-only checkpoints; ours, where they have no such weight."""
    return _translated(name, _DECODER) or name


def is_released(names: Iterable[str]) -> bool:
    """Whether weights bear the released names."""
    return any(name.startswith(_RELEASED_PREFIX) for name in names)


def from_released(state_dict: Mapping[str, Tensor], config: StudentConfig) -> dict[str, Tensor]:
    """Renames a released state dict to the names of `PixelSail`.

    Raises:
        DataError: a name that this model has no place for, an output embedding that is not tied though it
            should be, or another number of tokens.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        ours = _our_name(name)
        renamed[ours] = tensor.flatten(1) if ours.endswith("pointwise.weight") else tensor
    output = renamed.pop("lm_head.weight", None)
    if output is not None and not config.tie_word_embeddings:
        renamed["lm_head.weight"] = output
    elif output is not None and not output.equal(renamed["embed_tokens.weight"]):
        raise DataError(
            f"{_OUTPUT}: expected the input embedding (tied weights), got another matrix; "
            "configure tie_word_embeddings=false"
        )
    vocab_size = len(renamed["embed_tokens.weight"])
    if vocab_size != config.vocab_size:
        raise DataError(f"embed_tokens: expected {config.vocab_size} rows as configured, got {vocab_size}")
    return renamed


def to_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the state dict of `PixelSail` to the released names; the inverse of `from_released`.

    As in the released files a tied output embedding is there too, as a copy: safetensors hold no tensor twice.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        theirs = _translated(name, _RELEASED)
        if theirs is None:
            raise DataError(f"weight {name!r}: expected a name of the student, which has a released name; got another")
        renamed[theirs] = tensor[..., None, None] if name.endswith("pointwise.weight") else tensor
    if _OUTPUT not in renamed:
        renamed[_OUTPUT] = state_dict["embed_tokens.weight"].clone()
    return renamed


def released_config(state_dict: Mapping[str, Tensor], settings: Mapping[str, object]) -> StudentConfig:
    """The configuration of released weights: all sizes that shapes tell, the rest as given.

    Args:
        state_dict: weights by the released names.
        settings: fields of `StudentConfig`; the number of attention heads, the base of the rotary frequencies
            and the epsilon of the norms have to be among them.

    Raises:
        UsageError: a field that shapes can't tell is missing, or one is given that shapes contradict.
        DataError: a weight that every student has is missing, or of a shape that no student has.
    """
    missing = [name for name in _UNKNOWN_TO_SHAPES if settings.get(name) is None]
    if missing:
        raise UsageError(
            f"released weights: expected {', '.join(f'{name}=...' for name in missing)}, which shapes can't tell; take "
            "them from the config.json of the language model that they come from "
            "(Qwen2.5: num_attention_heads=14 for 0.5B, 16 for 3B; rope_theta=1000000.0 rms_norm_eps=1.0e-6)"
        )
    shapes = {_our_name(name): tuple(tensor.shape) for name, tensor in state_dict.items()}
    output = state_dict.get(_OUTPUT)
    table = state_dict.get(f"{_RELEASED_PREFIX}model.embed_tokens.weight")
    tied = output is None or (table is not None and output.equal(table))
    decided = {**_told_by_shapes(shapes, settings), "tie_word_embeddings": tied}
    return complete_config(decided, settings, "the file of released weights")


def _told_by_shapes(shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, object]) -> dict[str, object]:
    num_heads = settings["num_attention_heads"]
    if not isinstance(num_heads, int) or num_heads < 1:
        raise UsageError(f"num_attention_heads: expected a whole number above 0, got {num_heads!r}")
    vocab_size, hidden = _shape(shapes, "embed_tokens.weight")
    head_dim = _divided(shapes, "layers.0.self_attn.q_proj.weight", num_heads, "num_attention_heads")
    channels = _shape(shapes, "mask_features.project.0.weight")[1]
    mask_dim = _shape(shapes, "mask_features.project.2.weight")[0]
    patch_size = patch_size_of(shapes)
    if patch_size is None:
        raise DataError("vis_embed: expected a patch embedding, got none; give the weights of a whole student")
    num_blocks = len({name.split(".")[2] for name in shapes if name.startswith("mask_features.blocks.")})
    told: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": _shape(shapes, "layers.0.gate_proj.weight")[0],
        "num_layers": len({name.split(".")[1] for name in shapes if name.startswith("layers.")}),
        "num_key_value_heads": _divided(shapes, "layers.0.self_attn.k_proj.weight", head_dim, "channels of a head"),
        "attention_head_dim": None if head_dim * num_heads == hidden else head_dim,
        "attention_bias": "layers.0.self_attn.q_proj.bias" in shapes,
        "modality_weights": "separate" if "layers.0.vision.input_layernorm.weight" in shapes else "shared",
        "patch_size_px": patch_size,
        "patch_embedding": "linear" if "vis_embed.weight" in shapes else "convolutions",
        "mask_stride_px": patch_size >> num_blocks,
        "mask_dim": mask_dim,
        "distillation": tuple(_heads(shapes, hidden, mask_dim)),
    }
    if channels < hidden or hidden > StudentConfig().max_mask_channels:
        told["max_mask_channels"] = channels
    return told


def _heads(shapes: Mapping[str, tuple[int, ...]], hidden: int, mask_dim: int) -> Iterable[DistillationHead]:
    """The distillation heads; their width tells what they look at, their name where both are equally wide."""
    for name, shape in shapes.items():
        if not name.startswith("distillation_heads.") or not name.endswith(".weight"):
            continue
        teacher = name.split(".")[1]
        on_masks = shape[1] == mask_dim and (mask_dim != hidden or teacher == "mask2former")
        yield DistillationHead(
            teacher=teacher, num_channels=shape[0], source="mask_features" if on_masks else "patches"
        )


def patch_size_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Side of a patch in px by the patch embedding among weights of our names; None where there is none.

    Raises:
        DataError: a patch embedding that square patches of three colours don't fit.
    """
    if "vis_embed.quarters.weight" in shapes:
        return 2 * shapes["vis_embed.quarters.weight"][-1]
    if "vis_embed.weight" not in shapes:
        return None
    width = shapes["vis_embed.weight"][-1]
    side = isqrt(width // 3)
    if 3 * side * side != width:
        raise DataError(
            f"{decoder_name('vis_embed.weight')}: expected a width of 3 * p * p for patches of p px, got {width}"
        )
    return side


def complete_config(decided: Mapping[str, object], settings: Mapping[str, object], by: str) -> StudentConfig:
    """A configuration of what weights decide and of what is left to choose.

    Args:
        decided: fields that are as they are.
        settings: fields that somebody chose.
        by: who decides, for the error.

    Raises:
        UsageError: a choice that contradicts, an unknown field, or values that don't go together.
    """
    try:
        config = StudentConfig.model_validate({**decided, **settings})
        fixed = StudentConfig.model_validate({**settings, **decided})
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(step) for step in item['loc']) or 'student'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise UsageError(f"settings of the student: {'; '.join(problems)}") from error
    for name in decided:
        if getattr(config, name) != getattr(fixed, name):
            raise UsageError(
                f"{name}: expected {getattr(fixed, name)} as {by} has it, got {getattr(config, name)}; leave it out"
            )
    return config


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise DataError(
            f"released weights: expected {_translated(name, _RELEASED)}, which every student has, got none; "
            "give the weights of a whole student"
        )
    return shapes[name]


def _divided(shapes: Mapping[str, tuple[int, ...]], name: str, divisor: int, what: str) -> int:
    rows = _shape(shapes, name)[0]
    if rows % divisor:
        raise UsageError(
            f"{_translated(name, _RELEASED)}: expected rows in multiples of {divisor} ({what}), got {rows}; "
            "correct num_attention_heads"
        )
    return rows // divisor


def _our_name(released: str) -> str:
    ours = _translated(released, tuple((theirs, ours) for ours, theirs in _RELEASED))
    if ours is None:
        raise DataError(
            f"released weight {released!r}: expected a name of the released model, got one without a place here; "
            "take it out, if the student can do without"
        )
    return ours


def _translated(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, result in _compiled(table):
        if match := pattern.fullmatch(name):
            return result.format(**match.groupdict())
    return None


@functools.cache
def _compiled(table: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(_regex(template)), result) for template, result in table]


def _regex(template: str) -> str:
    """The expression of a template such as `layers.{n}.{norm}.weight`."""
    return "".join(
        f"(?P<{part}>{_PLACEHOLDERS[part]})" if is_name else re.escape(part)
        for is_name, part in ((index % 2, part) for index, part in enumerate(re.split(r"\{(\w+)\}", template)))
    )
