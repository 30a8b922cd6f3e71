"""Official SAM 2 and SAM 2.1 checkpoints: configuration from shapes, names of transformers.

Names of the official program: facebookresearch/sam2 `sam2/modeling/backbones/hieradet.py`,
`image_encoder.py` and `sam2_base.py` (package sam2 1.1.0).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from storage.errors import DataError, UsageError
from teachers.conversion.weights import OfficialWeights
from teachers.sam2_sizes import SAM2_SIZES, Sam2Architecture, Sam2Details

__all__ = ["SAM2_MARKER", "SAM2_NOT_CARRIED", "sam2_architecture", "sam2_weights"]

SAM2_MARKER = "image_encoder.trunk.patch_embed.proj.weight"
"""A tensor that tells such a checkpoint."""
SAM2_NOT_CARRIED = "prompt encoder, mask decoder, memory attention and memory encoder"
"""What stays behind: parts that the image embedding doesn't need."""

_TRUNK = "image_encoder.trunk"
_NECK = "image_encoder.neck"
_BACKBONE = "vision_encoder.backbone"
_NUM_STAGES = 4


def sam2_architecture(weights: OfficialWeights, details: Sam2Details) -> tuple[Sam2Architecture, str | None]:
    """The image encoder's architecture.

    Args:
        weights: of the checkpoint.
        details: what shapes don't tell, for sizes that were never published.

    Returns:
        The architecture, and the name of the published size if it is one.

    Raises:
        DataError: weights are missing, or of shapes that no such network has.
        UsageError: neither the published sizes nor `details` say what the shapes don't.
    """
    embed_dim = weights.sides(f"{_TRUNK}.patch_embed.proj.weight", 4)[0]
    blocks = _blocks(weights, embed_dim)
    rows, columns = weights.sides(f"{_TRUNK}.pos_embed", 4)[2:]
    window = weights.sides(f"{_TRUNK}.pos_embed_window", 4)[2]
    told: dict[str, object] = {
        "embed_dim": embed_dim,
        "blocks": blocks,
        "background_size": (rows, columns),
        "num_channels": weights.sides(f"{_NECK}.convs.0.conv.weight", 4)[0],
    }
    size = next((name for name, known in SAM2_SIZES.items() if known.told_by_shapes() == told), None)
    untold: dict[str, object] = {"top_down_levels": Sam2Architecture.model_fields["top_down_levels"].default}
    untold |= ({} if size is None else SAM2_SIZES[size].untold_by_shapes()) | details.given()
    if absent := [name for name in Sam2Details.model_fields if name not in untold]:
        raise UsageError(
            f"{weights.where}: a SAM 2 of {embed_dim} channels and {list(blocks)} blocks is none of the published "
            f"sizes ({', '.join(SAM2_SIZES)}), and its weights don't tell {', '.join(absent)}; "
            "give them, such as num_heads=1 window_sizes=[8,4,14,7] global_attention_blocks=[5,7,9]"
        )
    architecture = Sam2Architecture.model_validate(told | untold)
    if architecture.window_sizes[0] != window:
        raise UsageError(
            f"{weights.where}: expected window_sizes to begin with {window}, the side of its window's position "
            f"embedding, got {list(architecture.window_sizes)}; correct window_sizes"
        )
    firsts = [sum(blocks[:stage]) for stage in range(1, _NUM_STAGES)]
    if wrong := [block for block in architecture.global_attention_blocks if block in firsts or block >= sum(blocks)]:
        raise UsageError(
            f"{weights.where}: expected global_attention_blocks from 0 to {sum(blocks) - 1} without {firsts}, which "
            f"begin a stage and pool their windows, got {wrong}; correct them"
        )
    return architecture, size if architecture == SAM2_SIZES.get(size or "") else None


def _blocks(weights: OfficialWeights, embed_dim: int) -> tuple[int, ...]:
    """Blocks of each stage, told by where the channels double."""
    num_blocks = weights.count(_TRUNK + ".blocks.{}.attn.proj.weight")
    channels = [weights.sides(f"{_TRUNK}.blocks.{block}.attn.proj.weight", 2)[0] for block in range(num_blocks)]
    stages = [channels.count(embed_dim * 2**stage) for stage in range(_NUM_STAGES)]
    if channels != [embed_dim * 2**stage for stage in range(_NUM_STAGES) for _ in range(stages[stage])] or 0 in stages:
        raise DataError(
            f"{weights.where}: expected blocks of {_NUM_STAGES} stages, each of twice the channels of the one before, "
            f"from {embed_dim}, got blocks of {channels} channels; this network isn't supported"
        )
    return tuple(stages)


def sam2_weights(weights: OfficialWeights, architecture: Sam2Architecture) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The image encoder's weights by transformers' names, and the official names that stay unused.

    Raises:
        DataError: weights are missing.
    """
    names = dict(_names(architecture))
    tensors = weights.require(names)
    return dict(zip(names.values(), tensors, strict=True)), weights.unused(names)


def _names(architecture: Sam2Architecture) -> Iterator[tuple[str, str]]:
    """(official name, transformers' name)."""
    yield "no_mem_embed", "no_memory_embedding"
    for name in ("pos_embed", "pos_embed_window"):
        yield f"{_TRUNK}.{name}", f"{_BACKBONE}.{name}"
    layers = {f"{_TRUNK}.patch_embed.proj": f"{_BACKBONE}.patch_embed.projection"}
    firsts = {sum(architecture.blocks[:stage]) for stage in range(1, _NUM_STAGES)}
    for block in range(sum(architecture.blocks)):
        own = _BLOCK | ({"proj": "proj"} if block in firsts else {})
        layers |= {f"{_TRUNK}.blocks.{block}.{old}": f"{_BACKBONE}.blocks.{block}.{new}" for old, new in own.items()}
    for level in range(_NUM_STAGES):
        layers[f"{_NECK}.convs.{level}.conv"] = f"vision_encoder.neck.convs.{level}"
    for old, new in layers.items():
        for part in ("weight", "bias"):
            yield f"{old}.{part}", f"{new}.{part}"


_BLOCK = {
    "norm1": "layer_norm1",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "layer_norm2",
    "mlp.layers.0": "mlp.proj_in",
    "mlp.layers.1": "mlp.proj_out",
}
