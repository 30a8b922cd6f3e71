"""Grouped-query attention with a bidirectional image prefix, and its cache of keys and values.

Shapes: batch B, tokens L (queries) and M (keys), query heads H, key-value heads G, head dim d.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.config import StudentConfig

__all__ = ["Attention", "KeyValueCache", "prefix_mask", "rotate"]


def prefix_mask(
    document: Int[Tensor, "batch tokens"], prefix: Int[Tensor, "batch tokens"], branch: Int[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """Which token (row) may look at which (column).

    Args:
        document: number of the conversation that a token belongs to; -1 for padding.
        prefix: number of the image that a token from `<vision>` to `</vision>` belongs to; -1 for text.
        branch: 0 for what the whole conversation sees; tokens of branch 1, 2, ... see branch 0 and their
            own alone, so that several one-turn conversations can share one image: since the image never
            looks at text, each gets exactly what it would get by itself.

    Returns:
        True where attention is allowed: within a conversation, to the past, and within one image in
        both directions. Padding looks at itself alone (a row without any key would be undefined).
    """
    num_tokens = document.shape[1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=document.device).tril()
    same_document = (document[:, :, None] == document[:, None, :]) & (document >= 0)[:, :, None]
    same_branch = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    same_image = (prefix[:, :, None] == prefix[:, None, :]) & (prefix >= 0)[:, :, None]
    itself = torch.eye(num_tokens, dtype=torch.bool, device=document.device)
    return ((same_document & same_branch & (causal | same_image)) | itself)[:, None]


@dataclass
class KeyValueCache:
    """Keys and values of the tokens seen so far, one pair of (B, G, M, d) per layer."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds new tokens to a layer and returns all of its keys and values."""
        if layer == len(self.layers):
            self.layers.append((keys, values))
        else:
            old_keys, old_values = self.layers[layer]
            self.layers[layer] = (torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2))
        return self.layers[layer]


class Attention(nn.Module):
    """Self-attention of one layer: q, k and v with bias, the output without."""

    def __init__(self, config: StudentConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        key_value_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        rotary: tuple[Float[Tensor, "batch tokens head_dim"], Float[Tensor, "batch tokens head_dim"]],
        mask: Bool[Tensor, "batch 1 tokens keys"],
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attends; with a cache, the keys of earlier calls stand before the new ones."""
        queries, keys, values = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


def rotate(
    vectors: Float[Tensor, "batch heads tokens head_dim"],
    cosines: Float[Tensor, "batch tokens head_dim"],
    sines: Float[Tensor, "batch tokens head_dim"],
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Turns each pair (i, i + d/2) of channels by the angle of its token."""
    first, second = vectors.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return vectors * cosines[:, None].to(vectors.dtype) + turned * sines[:, None].to(vectors.dtype)
