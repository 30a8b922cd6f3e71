"""Language models and encoder-free models as public checkpoints, read for a student to start from.

Their folders are read as transformers writes them, never over the network. Sources: Qwen2 and Mistral in
transformers; SOLO (arXiv 2407.06438) and SAIL (arXiv 2504.10462), Mistral with a linear patch embedding; EVEv2
(arXiv 2502.06788), Qwen2 with weights of their own for patches.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from model.reference import from_decoder_name, patch_size_of
from model.weight_files import read_json, read_weights, to_one_dtype
from storage.errors import SourceError, UnknownKind
from storage.objects import Objects

__all__ = ["Base", "read_base"]

logger = logging.getLogger(__name__)

Kind = Literal["qwen2", "mistral", "evev2"]

_KINDS: dict[str, Kind] = {"qwen2": "qwen2", "qwen": "qwen2", "mistral": "mistral", "eve-qwen2": "evev2"}
"""By `model_type`; `qwen` is what the bases of the released Pixel-SAIL code call themselves."""
_ALIASES = {"model.embed_vision_patch.weight": "vis_embed.weight"}
_DROPPABLE = re.compile(
    r"(.+\.)?rotary_emb\.inv_freq"  # computed anew
    r"|(.+\.)?moe_(\w+_gate|gate_T)"  # of an earlier stage of EVEv2's training
    r"|model\.vision_tower\.(class|split|start|end)_embedding"  # `<vision>` and `</vision>` stand there instead
)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""By which EVEv2 normalises pictures (its `openai/eve-anyratio-res*-patch16/preprocessor_config.json`)."""
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By which the student does, and SOLO and the released model too."""


@dataclass(frozen=True, slots=True)
class Base:
    """A checkpoint to start from.

    Tensors of local files are mapped into memory: they cost memory when they are used.
    """

    source: str
    """Where it was read, for messages."""
    kind: Kind
    """Its architecture."""
    config_fields: Mapping[str, object]
    """Fields of `StudentConfig` that it decides; `vocab_size` is the number of rows of its table."""
    weights: Mapping[str, Tensor]
    """By our names, all of one type."""
    tokenizer_json: str | None
    """Content of its `tokenizer.json`, if it has one."""
    dropped: tuple[str, ...]
    """Its weights without a place in the student, by their own names."""


def read_base(folder: Path | Objects) -> Base:
    """Reads a base checkpoint: Qwen2 or Qwen2.5, Mistral, SOLO or SAIL, EVEv2.

    Args:
        folder: with `config.json`, weights (`model.safetensors`, sharded with an index, or
            `pytorch_model*.bin`) and `tokenizer.json`.

    Raises:
        UnknownKind: another architecture.
        SourceError: a file is missing or torn, the architecture has a feature that the student lacks, or
            a weight has no place in it.
    """
    objects = folder if isinstance(folder, Objects) else Objects.open(folder)
    if not objects.exists("config.json"):
        raise SourceError(f"{objects.url}: expected config.json, found none; give the folder of a whole checkpoint")
    config = read_json(objects, "config.json")
    where = f"{objects.url}/config.json"
    model_type = str(config.get("model_type"))
    if model_type not in _KINDS:
        raise UnknownKind(f"model_type in {where}", model_type, _KINDS)
    kind = _KINDS[model_type]
    fields = _config_fields(config, kind, where)
    weights, dropped = _renamed(read_weights(objects), objects.url)
    weights = to_one_dtype(weights)
    fields["tie_word_embeddings"] = _drop_tied_output(weights, config, where)
    if patch_size := patch_size_of({name: tuple(tensor.shape) for name, tensor in weights.items()}):
        fields["patch_size_px"] = patch_size
        fields["patch_embedding"] = "linear" if "vis_embed.weight" in weights else "convolutions"
    if kind == "evev2":
        fields["modality_weights"] = "separate"
        _normalise_as_imagenet(weights)
    tokenizer = objects.read("tokenizer.json").decode() if objects.exists("tokenizer.json") else None
    return Base(objects.url, kind, fields, weights, tokenizer, tuple(sorted(dropped)))


def _config_fields(config: Mapping[str, object], kind: Kind, where: str) -> dict[str, object]:
    """What `config.json` says, in the student's words."""
    _refuse_unsupported(config, kind, where)
    hidden, heads = _number(config, "hidden_size", where), _number(config, "num_attention_heads", where)
    head_dim = _number({"head_dim": hidden / heads, **_given(config)}, "head_dim", where)
    return {
        "vocab_size": _number(config, "vocab_size", where),
        "hidden_size": hidden,
        "intermediate_size": _number(config, "intermediate_size", where),
        "num_layers": _number(config, "num_hidden_layers", where),
        "num_attention_heads": heads,
        "num_key_value_heads": _number({"num_key_value_heads": heads, **_given(config)}, "num_key_value_heads", where),
        "attention_head_dim": None if head_dim * heads == hidden else head_dim,
        "attention_bias": kind != "mistral",
        "rope_theta": _rope_theta(config, where),
        "rms_norm_eps": _number(config, "rms_norm_eps", where),
    }


def _given(config: Mapping[str, object]) -> dict[str, object]:
    """What isn't null."""
    return {name: value for name, value in config.items() if value is not None}


def _number(config: Mapping[str, object], name: str, where: str) -> int | float:
    value = config.get(name)
    if not isinstance(value, int | float) or value <= 0:
        raise SourceError(
            f"{where}: {name}: expected a number above 0, got {value!r}; add it, as the model's authors state it"
        )
    return value


def _refuse_unsupported(config: Mapping[str, object], kind: Kind, where: str) -> None:
    """Raises for what the student would compute otherwise, and says what it can't tell by itself."""
    layer_types = cast("list[object]", config.get("layer_types") or [])
    wrong = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "partial_rotary_factor": config.get("partial_rotary_factor", 1.0) != 1.0,
        "quantization_config": config.get("quantization_config") is not None,
        "use_sliding_window": kind != "mistral" and bool(config.get("use_sliding_window")),
        "layer_types": any(layer_type != "full_attention" for layer_type in layer_types) and kind != "mistral",
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise SourceError(
                f"{where}: {name}: expected a decoder of full attention, whole rotary embedding, SiLU and unquantised "
                f"weights, got {config[name]!r}; take another base"
            )
    for name in ("rope_parameters", "rope_scaling"):
        rope = _rope(config, name, where)
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default":
            raise SourceError(
                f"{where}: {name}: expected no scaling of the rotary embedding, got {rope_type!r}; "
                "take the base before its context was lengthened"
            )
    window = config.get("sliding_window")
    if kind == "mistral" and window is not None:
        logger.warning(
            "%s: sliding_window %s: the student attends to everything; equal up to that many tokens", where, window
        )


def _rope(config: Mapping[str, object], name: str, where: str) -> Mapping[str, object]:
    rope = config.get(name) or {}
    if not isinstance(rope, dict):
        raise SourceError(f"{where}: {name}: expected a JSON object, got {rope!r}; download it again")
    return cast("Mapping[str, object]", rope)


def _rope_theta(config: Mapping[str, object], where: str) -> int | float:
    for tree in (config, _rope(config, "rope_parameters", where), _rope(config, "rope_scaling", where)):
        if tree.get("rope_theta") is not None:
            return _number(tree, "rope_theta", where)
    return _number(config, "rope_theta", where)


def _renamed(weights: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """The weights by our names, and the names of those that are dropped."""
    renamed: dict[str, Tensor] = {}
    dropped: list[str] = []
    for name, tensor in weights.items():
        if _DROPPABLE.fullmatch(name):
            dropped.append(name)
            continue
        ours = _ALIASES.get(name) or from_decoder_name(name)
        if ours is None or ours in renamed:
            problem = "no place in the student" if ours is None else f"the place of another weight ({ours})"
            raise SourceError(
                f"{where}: {name} {tuple(tensor.shape)}: expected weights of a Qwen2, Mistral, SOLO or EVEv2 decoder, "
                f"got one that has {problem}; take another base"
            )
        renamed[ours] = tensor
    if "embed_tokens.weight" not in renamed:
        raise SourceError(f"{where}: expected model.embed_tokens.weight, found none; download the checkpoint again")
    return renamed, dropped


def _drop_tied_output(weights: dict[str, Tensor], config: Mapping[str, object], where: str) -> bool:
    """Whether the output embedding is the input embedding; then a second copy of it is taken out."""
    output = weights.get("lm_head.weight")
    tied = bool(config.get("tie_word_embeddings", output is None))
    if not tied or output is None:
        return tied
    if not output.equal(weights["embed_tokens.weight"]):
        raise SourceError(
            f"{where}: tie_word_embeddings: expected lm_head.weight to equal model.embed_tokens.weight, got another "
            "matrix; write false there if it was trained, otherwise take lm_head.weight out"
        )
    del weights["lm_head.weight"]
    return True


def _normalise_as_imagenet(weights: dict[str, Tensor]) -> None:
    """Lets a convolution see pictures normalised as by ImageNet as it saw them normalised as by CLIP.

    Exact up to rounding: normalising is affine per channel, and no patch is padded.
    """
    name, bias_name = "vis_embed.quarters.weight", "vis_embed.quarters.bias"
    if name not in weights or bias_name not in weights:
        return
    mean, std, clip_mean, clip_std = (
        torch.tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD, _CLIP_MEAN, _CLIP_STD)
    )
    kernel, bias = weights[name].float(), weights[bias_name].float()
    weights[name] = (kernel * (std / clip_std)).to(weights[name].dtype)
    shift = (kernel * ((mean - clip_mean) / clip_std)).sum((1, 2, 3))
    weights[bias_name] = (bias + shift).to(weights[bias_name].dtype)
