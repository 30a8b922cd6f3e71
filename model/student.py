"""The student: one decoder-only transformer that reads patches and text and answers with text and masks.

Source: Pixel-SAIL (arXiv 2504.10465), section 3, and the released code's model. Shapes: batch B,
tokens L, patches P of all images of the batch together, hidden size D, mask dimension Q.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.attention import Attention, KeyValueCache, prefix_mask
from model.config import StudentConfig
from model.initial_heads import draw_initial_heads
from model.positions import rotary_embedding
from model.upsample import MaskFeatures

__all__ = ["PixelSail", "StudentInputs"]


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
    grids: tuple[tuple[int, int], ...]

    def to(self, device: torch.device | str) -> StudentInputs:
        """The same batch on another device."""
        tensors = {
            item.name: getattr(self, item.name).to(device, non_blocking=True)
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, **tensors)


class DecoderLayer(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, config: StudentConfig, layer: int) -> None:
        super().__init__()
        dim, inner = config.hidden_size, config.intermediate_size
        self.input_layernorm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, cache: KeyValueCache | None
    ) -> Tensor:
        """Returns the residual stream (B, L, D) behind this layer."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, mask, cache)
        normed = self.post_attention_layernorm(hidden)
        return hidden + self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed))


class PixelSail(nn.Module):
    """The single-transformer student with its mask head and distillation heads.

    Args:
        config: sizes; `vocab_size` is the true number of token embeddings here.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        self.vis_embed = nn.Linear(3 * config.patch_size_px**2, dim, bias=False)
        self.vp_embed = nn.Linear(dim, dim, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.mask_features = MaskFeatures(config)
        self.seg_query = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, config.mask_dim))
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
            if not isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d | nn.ConvTranspose2d):
                continue
            std = self.config.initializer_range
            if name.startswith(("mask_features", "seg_query", "vis_embed", "distillation_heads")):
                transposed = isinstance(module, nn.ConvTranspose2d)
                std = (len(module.weight) if transposed else module.weight[0].numel()) ** -0.5
            module.weight.normal_(0.0, std, generator=generator)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                module.bias.zero_()
        # Its inputs are token embeddings, of this scale; beside pixels, of scale 1, a prompt would be lost.
        nn.init.orthogonal_(self.vp_embed.weight, 1 / self.config.initializer_range, generator)
        for attention in (module for module in self.modules() if isinstance(module, Attention)):
            draw_initial_heads(attention, self.config, self.vp_embed.weight, generator)
        return self

    def embed(self, inputs: StudentInputs) -> Float[Tensor, "batch tokens dim"]:
        """Token embedding (also of `<vpatch>`) + patch embedding + visual-prompt embedding."""
        embedded = self.embed_tokens(inputs.input_ids)
        if not len(inputs.patches):
            return embedded
        visual = self.vis_embed(inputs.patches.to(embedded.dtype))
        prompted = inputs.patch_prompt_ids >= 0
        injected = self.vp_embed(self.embed_tokens(inputs.patch_prompt_ids.clamp_min(0)))
        visual = visual + injected * prompted[:, None]
        # Under autocast the products are of half precision, the embeddings aren't.
        visual = visual.to(embedded.dtype)
        return embedded.flatten(0, 1).index_add(0, inputs.patch_slots, visual).view_as(embedded)

    def forward(self, inputs: StudentInputs, cache: KeyValueCache | None = None) -> Float[Tensor, "batch tokens dim"]:
        """Last-layer hidden states behind the final norm; a cache, if given, is filled."""
        return self.decode(
            self.embed(inputs), inputs.positions, prefix_mask(inputs.document, inputs.prefix, inputs.branch), cache
        )

    def decode(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        positions: Int[Tensor, "3 batch tokens"],
        mask: Bool[Tensor, "batch 1 tokens keys"],
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Runs embedded tokens through the decoder."""
        rotary = rotary_embedding(positions, self.config.head_dim, self.config.rope_theta)
        for layer in self.layers:
            hidden = layer(hidden, rotary, mask, cache)
        return self.norm(hidden)

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab"]:
        """Next-token logits; the output embedding is tied to the input embedding."""
        return functional.linear(hidden, self.embed_tokens.weight)

    def patch_maps(
        self, hidden: Float[Tensor, "batch tokens dim"], inputs: StudentInputs
    ) -> dict[tuple[int, int], tuple[list[int], Float[Tensor, "images h w dim"]]]:
        """Patch hidden states as maps, images of one grid stacked: grid -> (image numbers, maps)."""
        states = hidden.flatten(0, 1)[inputs.patch_slots]
        per_image = states.split([rows * columns for rows, columns in inputs.grids])
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for image, grid in enumerate(inputs.grids):
            groups[grid].append(image)
        return {
            grid: (images, torch.stack([per_image[image] for image in images]).unflatten(1, grid))
            for grid, images in groups.items()
        }
