"""Grouped-query attention with a bidirectional image prefix, and who may look at whom.

The same rule in three forms: a dense mask (short rows, cached decoding), spans of queries with their
keys (long or packed rows on the CPU), and blocks for FlexAttention (CUDA), which never hold L x L.

Shapes: batch B, tokens L (queries) and M (keys), query heads H, key-value heads G, head dim d.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from model.config import StudentConfig

__all__ = [
    "Attention",
    "AttentionPlan",
    "DenseMask",
    "FlexBlocks",
    "KeyValueCache",
    "Spans",
    "Structure",
    "flex_blocks",
    "plan_attention",
    "prefix_mask",
    "rotate",
    "spans",
]

Queries = Float[Tensor, "batch heads tokens head_dim"]
Keys = Float[Tensor, "batch key_heads keys head_dim"]

FLEX_BLOCK = 128
"""Tokens along one side of FlexAttention's blocks."""

_DENSE_TOKENS = 512
"""Rows up to this length take a dense mask on the CPU: measured, spans win from about 1,000 tokens on
for a single conversation, and always where a row holds several."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What decides who may look at whom, token by token."""

    document: Int[Tensor, "batch tokens"]
    """Number of the conversation that a token belongs to; -1 for padding."""
    prefix: Int[Tensor, "batch tokens"]
    """Number of the image that a token from `<vision>` to `</vision>` belongs to; -1 for text."""
    branch: Int[Tensor, "batch tokens"]
    """0 for what the whole conversation sees; tokens of branch 1, 2, ... see branch 0 and their own alone,
    so that several one-turn conversations can share one image: since the image never looks at text,
    each gets exactly what it would get by itself."""

    def to(self, device: torch.device | str) -> Structure:
        """The same structure on another device."""
        return Structure(*(t.to(device, non_blocking=True) for t in (self.document, self.prefix, self.branch)))


@runtime_checkable
class KeyValueCache(Protocol):
    """Keys and values of earlier tokens; the caches of transformers are such."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Adds new tokens to a layer and returns all of its keys and values, each (B, G, M, d)."""
        ...


@runtime_checkable
class AttentionPlan(Protocol):
    """Attention of one batch, the same in every layer."""

    def attend(self, queries: Queries, keys: Keys, values: Keys) -> Queries:
        """Scaled dot-product attention between those that may look at each other."""
        ...


def prefix_mask(structure: Structure) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """Which token (row) may look at which (column).

    Returns:
        True where attention is allowed: within a conversation, to the past, and within one image in
        both directions. Padding looks at itself alone (a row without any key would be undefined).
    """
    document, prefix, branch = structure.document, structure.prefix, structure.branch
    num_tokens = document.shape[1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=document.device).tril()
    same_document = (document[:, :, None] == document[:, None, :]) & (document >= 0)[:, :, None]
    same_branch = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    same_image = (prefix[:, :, None] == prefix[:, None, :]) & (prefix >= 0)[:, :, None]
    itself = torch.eye(num_tokens, dtype=torch.bool, device=document.device)
    return ((same_document & same_branch & (causal | same_image)) | itself)[:, None]


@dataclass(frozen=True, slots=True)
class DenseMask:
    """A mask of every query and key."""

    mask: Bool[Tensor, "batch 1 tokens keys"]

    def attend(self, queries: Queries, keys: Keys, values: Keys) -> Queries:
        """See `AttentionPlan`."""
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=self.mask, enable_gqa=True)


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring queries of one row and the stretch of keys that they look at."""

    start: int
    stop: int
    first_key: int
    """Keys are those from here to `stop`."""
    mask: Bool[Tensor, "tokens keys"] | None
    """Which of these keys; None for all of them."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Each row as spans: an image looks at all that is before its end, text causally at its own conversation.

    Nothing is computed between conversations, and only the text's part of the mask is ever held.
    """

    rows: tuple[tuple[Span, ...], ...]

    def attend(self, queries: Queries, keys: Keys, values: Keys) -> Queries:
        """See `AttentionPlan`; padding gets zeros."""
        return torch.cat([self._row(row, queries, keys, values) for row in range(len(self.rows))])

    def _row(self, row: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys, values = (heads[row : row + 1] for heads in (queries, keys, values))
        parts: list[Tensor] = []
        done = 0
        for span in self.rows[row]:
            parts.append(queries.new_zeros(()).expand_as(queries[:, :, done : span.start]))
            parts.append(
                functional.scaled_dot_product_attention(
                    queries[:, :, span.start : span.stop],
                    keys[:, :, span.first_key : span.stop],
                    values[:, :, span.first_key : span.stop],
                    attn_mask=None if span.mask is None else span.mask[None, None],
                    enable_gqa=True,
                )
            )
            done = span.stop
        parts.append(queries.new_zeros(()).expand_as(queries[:, :, done:]))
        return torch.cat(parts, dim=2)


def spans(structure: Structure) -> Spans:
    """The spans of a structure; conversations and images have to be stretches of neighbouring tokens."""
    return Spans(
        tuple(
            tuple(_row_spans(document, prefix, branch))
            for document, prefix, branch in zip(
                structure.document.cpu(), structure.prefix.cpu(), structure.branch.cpu(), strict=True
            )
        )
    )


def _row_spans(document: Tensor, prefix: Tensor, branch: Tensor) -> list[Span]:
    found: list[Span] = []
    for first, last in _runs(document):
        if int(document[first]) < 0:
            continue
        for start, stop in _runs(prefix[first:last], first):
            mask = None
            keys = branch[first:stop]
            if int(prefix[start]) < 0:
                mask = torch.ones(stop - start, stop - first, dtype=torch.bool).tril(start - first)
            if keys.any():
                allowed = (keys == 0) | (branch[start:stop, None] == keys)
                mask = allowed if mask is None else mask & allowed
            found.append(Span(start, stop, first, mask))
    return found


def _runs(values: Tensor, offset: int = 0) -> list[tuple[int, int]]:
    """Stretches of equal neighbours as (start, stop)."""
    lengths = torch.unique_consecutive(values, return_counts=True)[1]
    stops = (lengths.cumsum(0) + offset).tolist()
    return list(zip([offset, *stops[:-1]], stops, strict=True))


@dataclass(frozen=True, slots=True)
class FlexBlocks:
    """FlexAttention with a block mask."""

    blocks: BlockMask

    def attend(self, queries: Queries, keys: Keys, values: Keys) -> Queries:
        """See `AttentionPlan`."""
        run = _compiled_flex() if queries.is_cuda and not torch.compiler.is_compiling() else flex_attention
        attended = run(queries, keys, values, block_mask=self.blocks, enable_gqa=True)
        assert isinstance(attended, Tensor)
        return attended


@functools.cache
def _compiled_flex() -> Callable[..., object]:
    """Uncompiled, FlexAttention would hold every score."""
    return torch.compile(flex_attention, dynamic=True)


def flex_blocks(structure: Structure, block: int = FLEX_BLOCK) -> FlexBlocks:
    """The block mask of a structure, made from bounds per block: no L x L tensor comes to be.

    A pair of blocks counts as partial unless the bounds show that it is empty or full, so that the
    exact rule decides within it.
    """
    document, prefix, branch = structure.document, structure.prefix, structure.branch
    num_tokens = document.shape[1]
    padded = -num_tokens % block

    def bounds(values: Tensor, filler: int) -> tuple[Tensor, Tensor]:
        lowest, highest = functional.pad(values, (0, padded), value=filler).unflatten(1, (-1, block)).aminmax(dim=2)
        return lowest, highest

    doc_low, doc_high = bounds(document, -1)
    image_low, image_high = bounds(prefix, -1)
    _, branch_high = bounds(branch, 0)
    number = torch.arange(doc_low.shape[1], device=document.device)
    below, diagonal = number[:, None] > number, number[:, None] == number

    def meet(low: Tensor, high: Tensor) -> Tensor:
        return (low[:, :, None] <= high[:, None]) & (low[:, None] <= high[:, :, None])

    some_image = meet(image_low, image_high) & (image_high >= 0)[:, :, None] & (image_high >= 0)[:, None]
    some_document = meet(doc_low, doc_high) & (doc_high >= 0)[:, :, None] & (doc_high >= 0)[:, None]
    possible = (some_document & (below | some_image)) | diagonal

    def one(low: Tensor, high: Tensor) -> Tensor:
        alone = (low == high) & (low >= 0)
        return alone[:, :, None] & alone[:, None] & (low[:, :, None] == low[:, None])

    open_keys = (branch_high == 0)[:, None]
    full = one(doc_low, doc_high) & open_keys & (below | one(image_low, image_high))
    partial = possible & ~full

    def rule(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        together = (document[row, query] == document[row, key]) & (document[row, query] >= 0)
        seen = (branch[row, key] == 0) | (branch[row, key] == branch[row, query])
        image = (prefix[row, query] == prefix[row, key]) & (prefix[row, query] >= 0)
        return (together & seen & ((key <= query) | image)) | (query == key)

    def listed(pairs: Tensor) -> tuple[Tensor, Tensor]:
        counts = pairs.sum(2, dtype=torch.int32)[:, None]
        order = pairs.int().argsort(dim=2, descending=True, stable=True).int()[:, None]
        return counts, order

    return FlexBlocks(
        BlockMask.from_kv_blocks(
            *listed(partial), *listed(full), BLOCK_SIZE=block, mask_mod=rule, seq_lengths=(num_tokens, num_tokens)
        )
    )


def plan_attention(structure: Structure, *, compiled: bool = False) -> AttentionPlan:
    """The form in which a batch attends best on its device.

    Args:
        structure: of the batch.
        compiled: whether the layers are compiled: spans would have them compiled anew for each batch.
    """
    document = structure.document
    if document.is_cuda:
        return flex_blocks(structure)
    if document.device.type == "cpu" and not compiled and not torch.compiler.is_compiling():
        before, behind = document[:, :-1], document[:, 1:]
        packed = bool(((before != behind) & (before >= 0) & (behind >= 0)).any())
        if packed or document.shape[1] > _DENSE_TOKENS:
            return spans(structure)
    return DenseMask(prefix_mask(structure))


class Attention(nn.Module):
    """Projections of one layer's self-attention: q, k and v with bias (by configuration), the output without."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        key_value_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def project(self, hidden: Float[Tensor, "*tokens dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (..., H * d), keys and values (..., G * d) of tokens."""
        return self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)


def rotate(
    vectors: Float[Tensor, "batch heads tokens head_dim"],
    cosines: Float[Tensor, "batch tokens head_dim"],
    sines: Float[Tensor, "batch tokens head_dim"],
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Turns each pair (i, i + d/2) of channels by the angle of its token."""
    first, second = vectors.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return vectors * cosines[:, None].to(vectors.dtype) + turned * sines[:, None].to(vectors.dtype)
