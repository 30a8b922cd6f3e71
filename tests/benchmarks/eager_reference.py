"""The student written plainly, to measure against: dense masks, eager attention, logits everywhere.

The same mathematics as `PixelSail` with `compute_losses`, in the form of the released code (the `ST`
project of the public Sa2VA repository, a transformers model with eager attention): a float mask of
L x L, keys and values repeated for every query head, the rotary tables of all three axes put together
in each layer, logits of the whole row in float32, convolutions on maps with channels first. Parameters
have the names of `PixelSail`, so that its state dict loads as it is.

Written for what the published students use: linear patches, shared weights, injected prompts, learned
upsampling, tied embeddings.

Shapes: batch B, tokens L, hidden size D, query heads H, key-value heads G, head dim d, vocabulary V.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attention import Structure, prefix_mask
from model.config import StudentConfig
from model.losses import (
    PointDraws,
    dice_loss,
    distillation_loss,
    mask_bce_loss,
    sample_points,
    uncertain_points,
)
from model.objective import LossWeights, TrainingBatch
from model.processor import IGNORED
from model.student import StudentInputs

__all__ = ["EagerReference", "eager_losses", "float_mask"]

_EPSILON = 1e-4


class Norm(nn.Module):
    """RMSNorm, step by step in float32."""

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Scales each token to a mean square of one."""
        dtype = hidden.dtype
        hidden = hidden.float()
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.epsilon)).to(dtype)


class EagerAttention(nn.Module):
    """Grouped-query attention that holds every score."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.num_groups = config.num_attention_heads // config.num_key_value_heads
        query_size, key_size = (
            heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Attends with an additive mask (B, 1, L, L)."""
        batch, tokens, _ = hidden.shape
        queries, keys, values = (
            projection(hidden).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = rotated(queries, keys, *rotary)
        keys, values = repeated(keys, self.num_groups), repeated(values, self.num_groups)
        scores = torch.matmul(queries, keys.transpose(2, 3)) / math.sqrt(self.head_dim)
        scores = scores + mask
        shares = functional.softmax(scores, dim=-1, dtype=torch.float32).to(queries.dtype)
        attended = torch.matmul(shares, values).transpose(1, 2).contiguous()
        return self.o_proj(attended.reshape(batch, tokens, -1))


def repeated(heads: Tensor, times: int) -> Tensor:
    """Each key-value head (B, G, L, d) once for every query head that reads it (B, H, L, d)."""
    batch, groups, tokens, dim = heads.shape
    return heads[:, :, None].expand(batch, groups, times, tokens, dim).reshape(batch, groups * times, tokens, dim)


def rotated(queries: Tensor, keys: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding from tables of all three axes (3, B, L, d), put together section by section."""
    quarter = queries.shape[-1] // 4
    sections = [0, quarter, quarter] * 2
    cosines, sines = (
        torch.cat([part[axis % 3] for axis, part in enumerate(table.split(sections, dim=-1))], dim=-1)[:, None]
        for table in (cosines, sines)
    )

    def half_turned(vectors: Tensor) -> Tensor:
        first, second = vectors.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    return queries * cosines + half_turned(queries) * sines, keys * cosines + half_turned(keys) * sines


class EagerLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        dim, inner = config.hidden_size, config.intermediate_size
        self.input_layernorm = Norm(dim, config.rms_norm_eps)
        self.self_attn = EagerAttention(config)
        self.post_attention_layernorm = Norm(dim, config.rms_norm_eps)
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Returns the residual stream (B, L, D) behind this layer."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, mask)
        normed = self.post_attention_layernorm(hidden)
        return hidden + self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed))


class EagerUpsampleBlock(nn.Module):
    """Doubles a map (images, channels, h, w)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.transposed = nn.ConvTranspose2d(num_channels, num_channels, kernel_size=2, stride=2)
        self.depthwise = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1, groups=num_channels)
        self.pointwise = nn.Linear(num_channels, num_channels)
        self.norm = nn.LayerNorm(num_channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the map with twice the rows and columns."""
        maps = self.depthwise(functional.gelu(self.transposed(maps)))
        maps = functional.conv2d(maps, self.pointwise.weight[:, :, None, None], self.pointwise.bias)
        return self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class EagerMaskFeatures(nn.Module):
    """Patch hidden states (h, w, D) of one image -> mask features (h', w', Q)."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        channels = config.mask_channels
        self.reduce = (
            nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, channels)
            )
            if config.hidden_size > config.max_mask_channels
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(EagerUpsampleBlock(channels) for _ in range(config.num_upsample_blocks))
        self.project = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, config.mask_dim))

    def forward(self, patches: Tensor) -> Tensor:
        """Upsamples the patches of one image."""
        maps = self.reduce(patches).permute(2, 0, 1)[None]
        for block in self.blocks:
            maps = block(maps)
        return self.project(maps[0].permute(1, 2, 0))


class EagerReference(nn.Module):
    """The student; loads the state dict of a `PixelSail` of the same configuration."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        released = (config.patch_embedding, config.modality_weights, config.visual_prompt, config.upsampling)
        assert released == ("linear", "shared", "injected", "learned")
        assert config.tie_word_embeddings
        self.config = config
        dim = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        self.vis_embed = nn.Linear(3 * config.patch_size_px**2, dim, bias=False)
        self.vp_embed = nn.Linear(dim, dim, bias=False)
        self.layers = nn.ModuleList(EagerLayer(config) for _ in range(config.num_layers))
        self.norm = Norm(dim, config.rms_norm_eps)
        self.mask_features = EagerMaskFeatures(config)
        self.seg_query = nn.Sequential(
            nn.Linear(dim, config.mask_channels), nn.ReLU(), nn.Linear(config.mask_channels, config.mask_dim)
        )
        self.distillation_heads = nn.ModuleDict(
            {
                head.teacher: nn.Linear(config.mask_dim if head.source == "mask_features" else dim, head.num_channels)
                for head in config.distillation
            }
        )

    def forward(self, inputs: StudentInputs) -> tuple[Tensor, Tensor]:
        """Hidden states (B, L, D) behind the final norm, and the logits (B, L, V) of every token in float32."""
        hidden = self.embedded(inputs)
        rotary = self.rotary_tables(inputs.positions)
        mask = float_mask(inputs.structure, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, rotary, mask)
        hidden = self.norm(hidden)
        return hidden, functional.linear(hidden, self.embed_tokens.weight).float()

    def embedded(self, inputs: StudentInputs) -> Tensor:
        """Embeddings of tokens, patches and visual prompts, added."""
        embedded = self.embed_tokens(inputs.input_ids)
        visual = self.vis_embed(inputs.patches)
        prompts = self.vp_embed(self.embed_tokens(inputs.patch_prompt_ids.clamp_min(0)))
        visual = visual + torch.where(inputs.patch_prompt_ids[:, None] >= 0, prompts, 0.0)
        flat = embedded.flatten(0, 1)
        return flat.index_add(0, inputs.patch_slots, visual).view_as(embedded)

    def rotary_tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (3, B, L, d) of each axis."""
        dim = self.config.head_dim
        inverse = 1.0 / (self.config.rope_theta ** (torch.arange(0, dim, 2, device=positions.device).float() / dim))
        angles = positions[..., None].float() * inverse
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def float_mask(structure: Structure, dtype: torch.dtype) -> Tensor:
    """What is added to the scores (B, 1, L, L): zero where a token may look, the least number elsewhere."""
    allowed = prefix_mask(structure)
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def eager_losses(
    model: EagerReference,
    batch: TrainingBatch,
    weights: LossWeights,
    points: Mapping[tuple[int, int], PointDraws] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward pass and losses, conversation by conversation; the total and the terms of `compute_losses`."""
    hidden, logits = model(batch.inputs)
    labels = functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten()
    per_token = functional.cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORED, reduction="none")
    flat, document = hidden.flatten(0, 1), batch.inputs.document.flatten()
    of_images = _image_losses(model, flat, batch, points)
    zero: Tensor = flat.new_zeros(())
    sums: dict[str, Tensor] = {}
    total = zero
    for number in range(batch.num_documents):
        labelled = (document == number) & (labels != IGNORED)
        text = per_token[labelled].sum() / labelled.sum().clamp_min(1)
        images = [found for image, found in of_images if int(batch.image_documents[image]) == number]
        bce, dice = (_of_masks([found[name] for found in images if name in found], zero) for name in ("bce", "dice"))
        has_masks = any("bce" in found for found in images)
        text_weight = weights.text_with_masks if has_masks else weights.text
        loss = text_weight * text + weights.mask_bce * bce + weights.mask_dice * dice
        terms = {"text": text, "mask_bce": bce, "mask_dice": dice}
        for head in model.config.distillation:
            name = f"distillation/{head.teacher}"
            known = [found[name] for found in images if name in found]
            if known:
                terms[name] = torch.stack(known).sum() / (1 + _EPSILON)
                loss = loss + weights.distillation.get(head.teacher, 0.0) * terms[name]
        total = total + loss
        for name, value in terms.items():
            sums[name] = sums.get(name, zero) + value.detach()
    return total / batch.num_documents, {name: value / batch.num_documents for name, value in sums.items()}


def _of_masks(losses: list[Tensor], zero: Tensor) -> Tensor:
    """Sum over the masks of a conversation, over their number + 1e-4."""
    joined = torch.cat([zero[None], *losses])
    return joined.sum() / (len(joined) - 1 + _EPSILON)


def _image_losses(
    model: EagerReference, flat: Tensor, batch: TrainingBatch, points: Mapping[tuple[int, int], PointDraws] | None
) -> list[tuple[int, dict[str, Tensor]]]:
    """Number of each image with its losses: of each of its masks, and one per teacher."""
    found: list[tuple[int, dict[str, Tensor]]] = []
    first = 0
    by_grid = batch.inputs.images_by_grid()
    for image, grid in enumerate(batch.inputs.grids):
        slots = batch.inputs.patch_slots[first : first + grid[0] * grid[1]]
        first += len(slots)
        patches = flat[slots].view(*grid, -1)
        cells = model.mask_features(patches)
        losses: dict[str, Tensor] = {}
        targets = batch.targets.get(grid)
        place = by_grid[grid].index(image)
        mine = [] if targets is None else (targets.owner == place).nonzero()[:, 0].tolist()
        if targets is not None and mine:
            logits = torch.einsum("mq,hwq->mhw", model.seg_query(flat[targets.seg_slots[mine]]), cells)
            masks = targets.masks[sorted(set(targets.owner.tolist())).index(place)].float()
            draws = None if points is None else points[grid]
            predicted, truth = (
                _every_pixel(logits, masks, model.config.patch_size_px // model.config.cells_per_patch)
                if draws is None
                else _at_points(
                    logits, masks, PointDraws(draws.candidates[mine], draws.uniform[mine], draws.num_uncertain)
                )
            )
            losses |= {"bce": mask_bce_loss(predicted, truth), "dice": dice_loss(predicted, truth)}
        for head in model.config.distillation:
            for images, targets_of in batch.features.get(head.teacher, {}).get(grid, []):
                if image not in images:
                    continue
                student = model.distillation_heads[head.teacher](cells if head.source == "mask_features" else patches)
                feature = targets_of.features()[images.index(image)]
                losses[f"distillation/{head.teacher}"] = distillation_loss(student[None], feature[None])[0]
        found.append((image, losses))
    return found


def _every_pixel(logits: Tensor, masks: Tensor, stride_px: int) -> tuple[Tensor, Tensor]:
    """Predicted and true masks at every pixel of the resized picture."""
    size = (logits.shape[1] * stride_px, logits.shape[2] * stride_px)
    predicted = functional.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)
    return predicted.flatten(1), functional.interpolate(masks[:, None], size).flatten(1)


def _at_points(logits: Tensor, masks: Tensor, draws: PointDraws) -> tuple[Tensor, Tensor]:
    """Predicted and true masks at sampled points."""
    where = uncertain_points(logits, draws)
    return sample_points(logits, where), sample_points(masks, where)
