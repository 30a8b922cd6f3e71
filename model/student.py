"""The student: one decoder-only transformer that reads patches and text and answers with text and masks.

Source: Pixel-SAIL (arXiv 2504.10465), section 3, and the released code's model. Shapes: batch B,
tokens L, patches P of all images of the batch together, hidden size D, mask dimension Q.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from model.attention import Attention, AttentionPlan, KeyValueCache, Structure, plan_attention, rotate
from model.config import StudentConfig
from model.initial_heads import draw_initial_heads
from model.patch_embedding import ConvolutionalPatchEmbedding
from model.positions import rotary_embedding
from model.upsample import MaskFeatures

__all__ = ["DecoderLayer", "PixelSail", "StudentInputs"]


@dataclass(frozen=True, slots=True)
class StudentInputs:
    """One batch of token rows with their images.

    `patch_slots` are indices into the flattened (B * L) rows, so patches of any number of images
    can stand anywhere; `grids` lists rows and columns of each image, in the order of the patches.
    """

    input_ids: Int[Tensor, "batch tokens"]
    positions: Int[Tensor, "3 batch tokens"]
    document: Int[Tensor, "batch tokens"]
    prefix: Int[Tensor, "batch tokens"]
    branch: Int[Tensor, "batch tokens"]
    patches: Float[Tensor, "patches pixels"]
    patch_slots: Int[Tensor, " patches"]
    patch_prompt_ids: Int[Tensor, " patches"]
    """Token id of the visual prompt injected on a patch, -1 for none."""
    pooled_slots: Int[Tensor, " pairs"]
    """With `pooled_patches`: pairs of a token (index into the flattened rows) that stands for a region
    and one of the region's patches. Empty where prompts are injected."""
    pooled_patches: Int[Tensor, " pairs"]
    grids: tuple[tuple[int, int], ...]

    @property
    def structure(self) -> Structure:
        """What decides who may look at whom."""
        return Structure(self.document, self.prefix, self.branch)

    def images_by_grid(self) -> dict[tuple[int, int], list[int]]:
        """Numbers of the images of each grid."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for image, grid in enumerate(self.grids):
            groups[grid].append(image)
        return dict(groups)

    def to(self, device: torch.device | str) -> StudentInputs:
        """The same batch on another device."""
        tensors = {
            item.name: getattr(self, item.name).to(device, non_blocking=True)
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, **tensors)


@dataclass(frozen=True, slots=True)
class _Modalities:
    """Text and patches of the flattened rows, for weights that differ between them."""

    text_slots: Tensor
    patch_slots: Tensor

    @classmethod
    def of(cls, inputs: StudentInputs) -> _Modalities:
        is_patch = torch.zeros(inputs.input_ids.numel(), dtype=torch.int8, device=inputs.input_ids.device)
        is_patch = is_patch.index_fill(0, inputs.patch_slots, 1)
        # A stable sort instead of nonzero, whose size would have to be asked of the device.
        text_slots = is_patch.argsort(stable=True)[: len(is_patch) - len(inputs.patch_slots)]
        return cls(text_slots, inputs.patch_slots)


class Block(nn.Module):
    """Weights of one layer: pre-norm attention and SwiGLU."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        dim, inner = config.hidden_size, config.intermediate_size
        self.input_layernorm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens (..., D)."""
        return self.self_attn.project(self.input_layernorm(hidden))

    def attention_output(self, attended: Tensor) -> tuple[Tensor]:
        """What attention adds to the residual stream."""
        return (self.self_attn.o_proj(attended),)

    def feed_forward(self, hidden: Tensor) -> tuple[Tensor]:
        """What the SwiGLU adds to the residual stream."""
        normed = self.post_attention_layernorm(hidden)
        return (self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed)),)


class DecoderLayer(Block):
    """One layer; where modalities have weights of their own, `vision` holds those of the patches."""

    def __init__(self, config: StudentConfig, layer: int) -> None:
        super().__init__(config)
        self.layer = layer
        self.vision = Block(config) if config.modality_weights == "separate" else None

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: KeyValueCache | None,
        modalities: _Modalities | None,
    ) -> Tensor:
        """Returns the residual stream (B, L, D) behind this layer."""
        queries, keys, values = (
            heads.unflatten(-1, (-1, self.self_attn.head_dim)).transpose(1, 2)
            for heads in self._per_modality(Block.project, hidden, modalities)
        )
        queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer)
        attended = plan.attend(queries, keys, values).transpose(1, 2).flatten(2)
        hidden = hidden + self._per_modality(Block.attention_output, attended, modalities)[0]
        return hidden + self._per_modality(Block.feed_forward, hidden, modalities)[0]

    def _per_modality(
        self, function: Callable[[Block, Tensor], tuple[Tensor, ...]], tokens: Tensor, modalities: _Modalities | None
    ) -> tuple[Tensor, ...]:
        """Runs text through this layer's weights and patches through `vision`, if there is such."""
        if self.vision is None or modalities is None:
            return function(self, tokens)
        flat = tokens.flatten(0, 1)
        order = torch.cat([modalities.text_slots, modalities.patch_slots])
        parts = zip(
            function(self, flat[modalities.text_slots]),
            function(self.vision, flat[modalities.patch_slots]),
            strict=True,
        )
        joined = [torch.cat(part) for part in parts]
        return tuple(
            torch.empty_like(part).index_copy(0, order, part).unflatten(0, tokens.shape[:2]) for part in joined
        )


class PixelSail(nn.Module):
    """The single-transformer student with its mask head and distillation heads.

    Args:
        config: sizes; `vocab_size` is the true number of token embeddings here.
    """

    gradient_checkpointing: bool = False
    """Whether training keeps only the residual stream between layers and computes the rest again."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        self.vis_embed = (
            nn.Linear(3 * config.patch_size_px**2, dim, bias=False)
            if config.patch_embedding == "linear"
            else ConvolutionalPatchEmbedding(config)
        )
        self.vp_embed = nn.Linear(dim, dim, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(dim, config.vocab_size, bias=False)
        self.mask_features = MaskFeatures(config)
        self.seg_query = nn.Sequential(
            nn.Linear(dim, config.mask_channels), nn.ReLU(), nn.Linear(config.mask_channels, config.mask_dim)
        )
        self.distillation_heads = nn.ModuleDict(
            {
                head.teacher: nn.Linear(config.mask_dim if head.source == "mask_features" else dim, head.num_channels)
                for head in config.distillation
            }
        )

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> PixelSail:
        """Draws the decoder from N(0, initializer_range), what is new beside it by fan-in; biases are zero.

        See `model.initial_heads` for heads that begin with a task.
        """
        for name, module in self.named_modules():
            self.draw_module(name, module, generator)
        self.draw_prompt_embedding(generator)
        for block in (module for module in self.modules() if isinstance(module, Attention)):
            draw_initial_heads(block, self.config, self.vp_embed.weight, generator)
        return self

    @torch.no_grad()
    def draw_module(self, name: str, module: nn.Module, generator: torch.Generator | None = None) -> None:
        """Draws the weights that one module holds by itself; norms and containers have none to draw.

        Args:
            name: of the module within the student; it decides the scale.
            module: the module.
            generator: source of the numbers; None: torch's own.
        """
        if not isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d | nn.ConvTranspose2d):
            return
        std = self.config.initializer_range
        if name.startswith(("mask_features", "seg_query", "vis_embed", "distillation_heads")):
            transposed = isinstance(module, nn.ConvTranspose2d)
            std = (len(module.weight) if transposed else module.weight[0].numel()) ** -0.5
        module.weight.normal_(0.0, std, generator=generator)
        if not isinstance(module, nn.Embedding) and module.bias is not None:
            module.bias.zero_()

    def draw_prompt_embedding(self, generator: torch.Generator | None = None) -> None:
        """Draws what turns token embeddings into visual prompts; beside pixels, of scale 1, they would be lost."""
        nn.init.orthogonal_(self.vp_embed.weight, 1 / self.config.initializer_range, generator)

    def embed(self, inputs: StudentInputs) -> Float[Tensor, "batch tokens dim"]:
        """Token embedding (also of `<vpatch>`) + patch embedding + visual-prompt embedding."""
        embedded = self.embed_tokens(inputs.input_ids)
        if not len(inputs.patches):
            return embedded
        visual = self.vis_embed(inputs.patches.to(embedded.dtype))
        added = visual
        if self.config.visual_prompt == "injected":
            prompted = inputs.patch_prompt_ids >= 0
            injected = self.vp_embed(self.embed_tokens(inputs.patch_prompt_ids.clamp_min(0)))
            added = visual + injected * prompted[:, None]
        # Under autocast the products are of half precision, the embeddings aren't.
        flat = embedded.flatten(0, 1).index_add(0, inputs.patch_slots, added.to(embedded.dtype))
        if len(inputs.pooled_slots):
            flat = flat + _means(visual[inputs.pooled_patches].to(embedded.dtype), inputs.pooled_slots, len(flat))
        return flat.view_as(embedded)

    def forward(
        self, inputs: StudentInputs, cache: KeyValueCache | None = None, plan: AttentionPlan | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Last-layer hidden states behind the final norm.

        Args:
            inputs: the batch.
            cache: is filled, if given.
            plan: `plan_attention(inputs.structure)` where it was made before.
        """
        modalities = _Modalities.of(inputs) if self.config.modality_weights == "separate" else None
        plan = plan or plan_attention(inputs.structure)
        return self.decode(self.embed(inputs), inputs.positions, plan, cache, modalities)

    def decode(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        positions: Int[Tensor, "3 batch tokens"],
        plan: AttentionPlan,
        cache: KeyValueCache | None = None,
        modalities: _Modalities | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Runs embedded tokens through the decoder; without `modalities` all of them are text."""
        rotary = rotary_embedding(positions, self.config.head_dim, self.config.rope_theta)
        again = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.layers:
            if again:
                hidden = cast("Tensor", checkpoint(layer, hidden, rotary, plan, None, modalities, use_reentrant=False))
            else:
                hidden = layer(hidden, rotary, plan, cache, modalities)
        return self.norm(hidden)

    @property
    def output_embedding(self) -> Float[Tensor, "vocab dim"]:
        """Weight that turns hidden states into logits."""
        return (self.embed_tokens if self.lm_head is None else self.lm_head).weight

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab"]:
        """Next-token logits."""
        return functional.linear(hidden, self.output_embedding)

    def patch_maps(
        self, hidden: Float[Tensor, "batch tokens dim"], inputs: StudentInputs
    ) -> dict[tuple[int, int], tuple[list[int], Float[Tensor, "images h w dim"]]]:
        """Patch hidden states as maps, images of one grid stacked: grid -> (image numbers, maps)."""
        states = hidden.flatten(0, 1)[inputs.patch_slots]
        per_image = states.split([rows * columns for rows, columns in inputs.grids])
        return {
            grid: (images, torch.stack([per_image[image] for image in images]).unflatten(1, grid))
            for grid, images in inputs.images_by_grid().items()
        }


def _means(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Mean of the rows of each group (num_groups, D); zero for a group without rows."""
    sums = values.new_zeros(num_groups, values.shape[1]).index_add(0, groups, values)
    counts = values.new_zeros(num_groups).index_add(0, groups, torch.ones_like(values[:, 0]))
    return sums / counts.clamp_min(1)[:, None]
