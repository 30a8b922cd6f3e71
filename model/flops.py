"""What a batch costs the student, counted: floating-point operations.

A product of (m, k) and (k, n) counts 2 * m * k * n; norms, softmax and activations are left out. Training
counts three times the forward pass. Nothing that is computed again (checkpoints) counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.attention import Structure
from model.config import StudentConfig
from model.objective import TrainingBatch
from model.student import StudentInputs

__all__ = [
    "ForwardFlops",
    "attended_pairs",
    "batch_flops",
    "layer_flops_per_token",
    "mask_feature_flops_per_patch",
    "student_flops",
]


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Operations of one forward pass, by part."""

    layers: int
    """Matrices of the decoder layers."""
    attention: int
    """Scores, and the values weighted by them."""
    embedding: int
    """Patches and visual prompts."""
    logits: int
    """Output embedding."""
    mask_head: int
    """Upsampling, queries and their products."""
    distillation: int
    """Linear heads."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, item.name) for item in fields(self))


def layer_flops_per_token(config: StudentConfig) -> int:
    """Of one decoder layer, without the scores."""
    query_size = config.num_attention_heads * config.head_dim
    key_size = config.num_key_value_heads * config.head_dim
    weights = 2 * config.hidden_size * (query_size + key_size) + 3 * config.hidden_size * config.intermediate_size
    return 2 * weights


def attended_pairs(structure: Structure, *, padding: bool = False) -> int:
    """Pairs of a token and one that it looks at, as `model.attention.prefix_mask` has them, counted from lengths.

    Args:
        structure: of a batch; conversations and images are stretches of neighbouring tokens.
        padding: whether padding, which looks at itself alone, counts.
    """
    # On the host: each of the counts below would have a device waited for.
    document, branch = structure.document.flatten().cpu(), structure.branch.flatten().cpu()
    real = document >= 0
    # Each token sees the tokens of branch 0 up to itself, ...
    shared = (branch == 0) & real
    seen = shared.cumsum(0)
    lengths = torch.unique_consecutive(document, return_counts=True)[1]
    starts = lengths.cumsum(0) - lengths
    before = (seen - shared.long())[starts].repeat_interleave(lengths)
    pairs = int((seen - before)[real].sum())
    # ... those of its own branch up to itself, ...
    own = branch > 0
    pairs += _triangles(document[own] * (int(branch.max()) + 1) + branch[own], diagonal=True)
    # ... and, within an image, those behind it.
    prefix = structure.prefix.flatten().cpu()
    pairs += _triangles(prefix[prefix >= 0], diagonal=False)
    return pairs + int((~real).sum()) * padding


def _triangles(groups: Tensor, *, diagonal: bool) -> int:
    """Pairs within each group of equal numbers, each counted once."""
    counts = torch.unique(groups, return_counts=True)[1]
    return int((counts * (counts + (1 if diagonal else -1))).sum()) // 2


def batch_flops(config: StudentConfig, batch: TrainingBatch) -> int:
    """Operations of one forward pass of a training batch; padding isn't counted in its scores."""
    pairs = attended_pairs(batch.inputs.structure)
    return student_flops(config, batch.inputs, len(batch.label_ids), batch, pairs=pairs).total


def student_flops(
    config: StudentConfig, inputs: StudentInputs, num_logits: int, batch: TrainingBatch | None = None, *, pairs: int
) -> ForwardFlops:
    """Operations of one forward pass of the student.

    Args:
        config: its sizes.
        inputs: the rows; tokens that are padding count too, except those left out of `pairs`.
        num_logits: tokens at which logits are computed.
        batch: the targets, whose masks and features are counted; None: the mask head isn't run.
        pairs: see `attended_pairs`.
    """
    dim, num_patches = config.hidden_size, len(inputs.patches)
    vp_embed = dim if config.visual_prompt == "injected" else 0
    masks = {} if batch is None else {grid: len(targets.owner) for grid, targets in batch.targets.items()}
    cells = config.cells_per_patch**2
    head = distillation = 0
    if batch is not None:
        head = num_patches * mask_feature_flops_per_patch(config)
        head += sum(masks.values()) * 2 * dim * (dim + config.mask_dim)
        head += sum(2 * config.mask_dim * count * grid[0] * grid[1] * cells for grid, count in masks.items())
        for teacher in config.distillation:
            maps = batch.features.get(teacher.teacher, {})
            known = sum(len(images) * grid[0] * grid[1] for grid, groups in maps.items() for images, _ in groups)
            channels = cells * config.mask_dim if teacher.source == "mask_features" else dim
            distillation += 2 * known * channels * teacher.num_channels
    return ForwardFlops(
        layers=config.num_layers * layer_flops_per_token(config) * inputs.input_ids.numel(),
        attention=config.num_layers * 4 * config.num_attention_heads * config.head_dim * pairs,
        embedding=2 * num_patches * dim * (3 * config.patch_size_px**2 + vp_embed),
        logits=2 * dim * config.vocab_size * num_logits,
        mask_head=head,
        distillation=distillation,
    )


def mask_feature_flops_per_patch(config: StudentConfig) -> int:
    """Of the mask features of one patch."""
    channels, cells, flops = config.mask_channels, 1, 0
    if config.hidden_size > config.max_mask_channels:
        flops += 2 * config.hidden_size * (config.hidden_size + channels)
    for _ in range(config.num_upsample_blocks):
        flops += 2 * cells * channels * 4 * channels
        cells *= 4
        flops += 2 * cells * channels * (9 + channels)
    return flops + 2 * cells * channels * (channels + config.mask_dim)
