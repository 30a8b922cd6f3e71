"""Grouped-query attention with a bidirectional image prefix, and its cache of keys and values.

Shapes: batch B, tokens L (queries) and M (keys), query heads H, key-value heads G, head dim d.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.config import StudentConfig

__all__ = ["Attention", "KeyValueCache", "neighbour_biases", "prefix_mask", "recent_text_biases"]


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


@torch.no_grad()
def neighbour_biases(attention: Attention, theta: float, num_heads: int, generator: torch.Generator) -> None:
    """Draws query and key biases so that some heads begin by looking at a neighbouring place.

    With q = R(d) k for a rotary turn R and an offset d, the score of two places is largest where they
    lie d apart, whatever they hold: the head starts as one tap of a 3 x 3 convolution (the idea of
    ConViT, arXiv 2103.10697, here without new parameters). A student that starts from nothing then
    needn't discover first that neighbouring patches belong together.

    Args:
        attention: the layer to draw; its other biases stay as they are.
        theta: base of the rotary frequencies; small enough that one column is a visible turn.
        num_heads: key-value heads to draw, each with all its query heads.
        generator: draws phases and offsets.
    """
    amplitudes = torch.full((attention.head_dim // 2,), _amplitude(attention.head_dim, attention.head_dim // 2))
    for head in range(num_heads):
        _look_at_offsets(
            attention, theta, head, amplitudes, generator, lambda: torch.randint(-1, 2, (2,), generator=generator)
        )


@torch.no_grad()
def recent_text_biases(
    attention: Attention, theta: float, first_head: int, num_heads: int, generator: torch.Generator
) -> None:
    """Draws query and key biases so that some heads begin by looking at the last few tokens of the text.

    Without them a `[SEG]` spreads its attention over the whole picture, one word is worth one part in
    a hundred of its query, and a student that starts from nothing takes long to find that words
    matter. Only the slower half of the frequencies is used: it tells the last ten tokens from the
    picture before them, but not one of them from the next.

    Args:
        attention: the layer to draw; its other biases stay as they are.
        theta: base of the rotary frequencies.
        first_head: first key-value head to draw.
        num_heads: key-value heads to draw, each with all its query heads.
        generator: draws phases and offsets of 4 to 6 tokens.
    """
    quarter = attention.head_dim // 4
    amplitudes = torch.zeros(2 * quarter)
    amplitudes[quarter:] = _amplitude(attention.head_dim, quarter)
    for head in range(first_head, first_head + num_heads):
        _look_at_offsets(
            attention,
            theta,
            head,
            amplitudes,
            generator,
            lambda: -torch.randint(4, 7, (1,), generator=generator).repeat(2),
        )


_SCORE = 8.0
"""Score of such a head at the offset itself."""


def _amplitude(head_dim: int, num_pairs: int) -> float:
    """Length of each rotary pair for which `num_pairs` of them sum to the wanted score."""
    return (_SCORE * head_dim**0.5 / num_pairs) ** 0.5


def _look_at_offsets(
    attention: Attention,
    theta: float,
    head: int,
    amplitudes: Float[Tensor, " pairs"],
    generator: torch.Generator,
    draw_offset: Callable[[], Tensor],
) -> None:
    """Sets the key bias of one head at random phases, and its query biases turned by (rows, columns)."""
    dim = attention.head_dim
    frequencies = theta ** -(torch.arange(0, dim, 2) / dim)
    keys, queries = attention.k_proj.bias, attention.q_proj.bias
    queries_per_key = len(queries) // len(keys)
    phases = 2 * torch.pi * torch.rand(dim // 2, generator=generator)
    keys[head * dim : (head + 1) * dim] = torch.cat([amplitudes * phases.cos(), amplitudes * phases.sin()])
    for query_head in range(head * queries_per_key, (head + 1) * queries_per_key):
        row, column = draw_offset().tolist()
        turned = phases + torch.cat([frequencies[: dim // 4] * row, frequencies[dim // 4 :] * column])
        queries[query_head * dim : (query_head + 1) * dim] = torch.cat(
            [amplitudes * turned.cos(), amplitudes * turned.sin()]
        )


def rotate(
    vectors: Float[Tensor, "batch heads tokens head_dim"],
    cosines: Float[Tensor, "batch tokens head_dim"],
    sines: Float[Tensor, "batch tokens head_dim"],
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Turns each pair (i, i + d/2) of channels by the angle of its token."""
    first, second = vectors.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return vectors * cosines[:, None].to(vectors.dtype) + turned * sines[:, None].to(vectors.dtype)
