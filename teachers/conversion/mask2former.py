"""Official Mask2Former checkpoints with a Swin backbone: configuration from shapes, names of transformers.

Names of the official program: facebookresearch/Mask2Former `mask2former/modeling/backbone/swin.py` and
`mask2former/modeling/pixel_decoder/msdeformattn.py` at 9b0651c. The names written are those of the checkpoints on
the Hugging Face hub, which every version of transformers reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from storage.errors import DataError
from teachers.conversion.weights import OfficialWeights
from teachers.mask2former_sizes import MASK2FORMER_SIZES, Mask2FormerArchitecture

__all__ = ["MASK2FORMER_MARKER", "MASK2FORMER_NOT_CARRIED", "mask2former_architecture", "mask2former_weights"]

MASK2FORMER_MARKER = "sem_seg_head.pixel_decoder.mask_features.weight"
"""A tensor that tells such a checkpoint."""
MASK2FORMER_NOT_CARRIED = "transformer decoder with its queries, class and mask heads"
"""What stays behind: parts that the mask features don't need."""

_DECODER = "sem_seg_head.pixel_decoder"
_TO_NETWORK = "model.pixel_level_module"
_NUM_STAGES = 4
_NUM_LEVELS = 3
_NUM_POINTS = 4  # sampled per head and level: fixed in the official program and in transformers


def mask2former_architecture(weights: OfficialWeights) -> tuple[Mask2FormerArchitecture, str | None]:
    """The architecture of backbone and pixel decoder, and the name of the published size if it is one.

    Raises:
        DataError: weights are missing, or of shapes that no such network has.
    """
    _refuse_unsupported(weights)
    embed_dim = weights.sides("backbone.patch_embed.proj.weight", 4)[0]
    stages = range(_NUM_STAGES)
    tables = [weights.sides(_block(stage, 0, "attn.relative_position_bias_table"), 2) for stage in stages]
    windows = {(math.isqrt(entries) + 1) // 2 for entries, _ in tables}
    if any((2 * window - 1) ** 2 != tables[0][0] for window in windows):
        raise DataError(
            f"{weights.where}: expected position biases of one square window in every stage, got tables of "
            f"{[entries for entries, _ in tables]} entries; this network isn't supported"
        )
    first = f"{_DECODER}.transformer.encoder.layers.0"
    num_weights = weights.sides(f"{first}.self_attn.attention_weights.weight", 2)[0]
    num_mask_channels, num_channels = weights.sides(MASK2FORMER_MARKER, 4)[:2]
    if num_weights % (_NUM_LEVELS * _NUM_POINTS) or num_channels % 32:
        raise DataError(
            f"{weights.where}: expected attention over {_NUM_LEVELS} levels of {_NUM_POINTS} points and channels in "
            f"multiples of 32, got {num_weights} attention weights and {num_channels} channels; "
            "this network isn't supported"
        )
    architecture = Mask2FormerArchitecture(
        embed_dim=embed_dim,
        depths=_four([weights.count(_block(stage, "{}", "attn.qkv.weight")) for stage in stages]),
        num_heads=_four([heads for _, heads in tables]),
        window_size=windows.pop(),
        mlp_ratio=weights.sides(_block(0, 0, "mlp.fc1.weight"), 2)[0] / embed_dim,
        qkv_bias=_block(0, 0, "attn.qkv.bias") in weights,
        num_channels=num_channels,
        num_mask_channels=num_mask_channels,
        num_encoder_layers=weights.count(f"{_DECODER}.transformer.encoder.layers.{{}}.linear1.weight"),
        num_encoder_heads=num_weights // (_NUM_LEVELS * _NUM_POINTS),
        encoder_feedforward_channels=weights.sides(f"{first}.linear1.weight", 2)[0],
    )
    size = next((name for name, known in MASK2FORMER_SIZES.items() if known == architecture), None)
    return architecture, size


def _refuse_unsupported(weights: OfficialWeights) -> None:
    unsupported = {
        "backbone.absolute_pos_embed": "a Swin without absolute position embeddings",
        "backbone.stem.conv1.weight": "a Swin backbone, no ResNet",
        f"{_DECODER}.input_proj.{_NUM_LEVELS}.0.weight": f"a pixel decoder that attends to {_NUM_LEVELS} levels",
        f"{_DECODER}.adapter_2.weight": "a pixel decoder with one level above the attended ones",
    }
    for name, expected in unsupported.items():
        if name in weights:
            raise DataError(f"{weights.where}: expected {expected}, found {name}; this network isn't supported")
    patch = weights.sides("backbone.patch_embed.proj.weight", 4)[2:]
    if patch != (4, 4):
        raise DataError(f"{weights.where}: expected patches of 4 x 4 px, got {patch}; this network isn't supported")


def mask2former_weights(
    weights: OfficialWeights, architecture: Mask2FormerArchitecture
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights of the feature network by transformers' names, and the official names that stay unused.

    Raises:
        DataError: weights are missing.
    """
    names = dict(_names(architecture))
    tensors = weights.require(names)
    converted: dict[str, Tensor] = {}
    for new, tensor in zip(names.values(), tensors, strict=True):
        if ".qkv." not in new:
            converted[f"{_TO_NETWORK}.{new}"] = tensor
            continue
        for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            converted[f"{_TO_NETWORK}.{new.replace('.qkv.', f'.{part}.')}"] = chunk
    # Which entry of the bias table belongs to which pair of tokens: follows from the window's side alone.
    derived = [
        _block(stage, block, "attn.relative_position_index")
        for stage, depth in enumerate(architecture.depths)
        for block in range(depth)
    ]
    return converted, weights.unused([*names, *derived])


def _names(architecture: Mask2FormerArchitecture) -> Iterator[tuple[str, str]]:
    """(official name, name of the feature network in transformers); fused projections keep `qkv`."""
    layers = {
        "backbone.patch_embed.proj": "encoder.embeddings.patch_embeddings.projection",
        "backbone.patch_embed.norm": "encoder.embeddings.norm",
        f"{_DECODER}.mask_features": "decoder.mask_projection",
    }
    unbiased = {f"{_DECODER}.adapter_1": "decoder.adapter_1.0", f"{_DECODER}.layer_1": "decoder.layer_1.0"}
    for stage, depth in enumerate(architecture.depths):
        old_stage, new_stage = f"backbone.layers.{stage}", f"encoder.encoder.layers.{stage}"
        layers[f"backbone.norm{stage}"] = f"encoder.hidden_states_norms.stage{stage + 1}"
        for block in range(depth):
            new_block = f"{new_stage}.blocks.{block}"
            table = "relative_position_bias_table"
            yield _block(stage, block, f"attn.{table}"), f"{new_block}.attention.self.{table}"
            qkv = {_block(stage, block, "attn.qkv"): f"{new_block}.attention.self.qkv"}
            (layers if architecture.qkv_bias else unbiased).update(qkv)
            layers |= {_block(stage, block, old): f"{new_block}.{new}" for old, new in _SWIN_BLOCK.items()}
        if stage < _NUM_STAGES - 1:
            unbiased[f"{old_stage}.downsample.reduction"] = f"{new_stage}.downsample.reduction"
            layers[f"{old_stage}.downsample.norm"] = f"{new_stage}.downsample.norm"
    for level in range(_NUM_LEVELS):
        for part in range(2):
            layers[f"{_DECODER}.input_proj.{level}.{part}"] = f"decoder.input_projections.{level}.{part}"
    for name in ("adapter_1", "layer_1"):
        layers[f"{_DECODER}.{name}.norm"] = f"decoder.{name}.1"
    yield f"{_DECODER}.transformer.level_embed", "decoder.level_embed"
    for layer in range(architecture.num_encoder_layers):
        old_layer, new_layer = f"{_DECODER}.transformer.encoder.layers.{layer}", f"decoder.encoder.layers.{layer}"
        layers |= {f"{old_layer}.{old}": f"{new_layer}.{new}" for old, new in _ENCODER_LAYER.items()}
    for old, new in (layers | unbiased).items():
        yield f"{old}.weight", f"{new}.weight"
        if old not in unbiased:
            yield f"{old}.bias", f"{new}.bias"


_SWIN_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_ENCODER_LAYER = {
    "self_attn.sampling_offsets": "self_attn.sampling_offsets",
    "self_attn.attention_weights": "self_attn.attention_weights",
    "self_attn.value_proj": "self_attn.value_proj",
    "self_attn.output_proj": "self_attn.output_proj",
    "norm1": "self_attn_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm2": "final_layer_norm",
}


def _block(stage: int, block: int | str, name: str) -> str:
    return f"backbone.layers.{stage}.blocks.{block}.{name}"


def _four(values: list[int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = values
    return first, second, third, fourth
