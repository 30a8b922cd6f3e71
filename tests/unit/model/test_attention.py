"""Who sees whom, in each of the forms that attention takes; the cache, and rotation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from transformers import DynamicCache

from model.attention import (
    Attention,
    DenseMask,
    FlexBlocks,
    Spans,
    Structure,
    flex_blocks,
    plan_attention,
    prefix_mask,
    rotate,
    spans,
)
from model.config import StudentConfig
from model.positions import rotary_embedding
from model.student import DecoderLayer


def structure(document: list[int], prefix: list[int], branch: list[int] | None = None) -> Structure:
    """One row."""
    columns = (document, prefix, [0] * len(document) if branch is None else branch)
    return Structure(*(torch.tensor([column]) for column in columns))


def mask_of(document: list[int], prefix: list[int], branch: list[int] | None = None) -> Tensor:
    return prefix_mask(structure(document, prefix, branch))[0, 0]


def test_image_sees_itself_in_both_directions_and_text_only_the_past() -> None:
    assert prefix_mask(structure([0] * 5, [7, 7, 7, -1, -1])).shape == (1, 1, 5, 5)
    assert mask_of([0] * 5, [7, 7, 7, -1, -1]).int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_nothing_passes_between_documents() -> None:
    mask = mask_of([0, 0, 0, 1, 1, 1], [0, 0, -1, 1, 1, -1])
    assert not mask[:3, 3:].any()
    assert not mask[3:, :3].any()
    assert mask[:3, :3].equal(mask[3:, 3:])


def test_two_images_of_one_document_look_at_each_other_causally() -> None:
    mask = mask_of([0] * 4, [4, 4, 5, 5])
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_branches_share_what_is_common_and_nothing_else() -> None:
    mask = mask_of([0] * 6, [0, 0, -1, -1, -1, -1], [0, 0, 1, 1, 2, 2])
    assert mask[4].tolist() == [True, True, False, False, True, False]
    assert mask[5].tolist() == [True, True, False, False, True, True]
    assert not mask[:4, 4:].any()
    assert not mask[:2, 2:].any()


def test_padding_sees_itself_alone_and_is_not_seen() -> None:
    mask = mask_of([-1, 0, 0, -1], [-1, 0, -1, -1])
    assert mask[0].tolist() == [True, False, False, False]
    assert mask[3].tolist() == [False, False, False, True]
    assert not mask[1:3, [0, 3]].any()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2), st.integers(0, 2)), min_size=1, max_size=9))
def test_mask_is_what_its_rule_says(tokens: list[tuple[int, int, int]]) -> None:
    document, prefix, branch = (list(column) for column in zip(*tokens, strict=True))
    mask = mask_of(document, prefix, branch)
    for i, (doc_i, image_i, branch_i) in enumerate(tokens):
        for j, (doc_j, image_j, branch_j) in enumerate(tokens):
            together = doc_i == doc_j != -1 and branch_j in (0, branch_i)
            past_or_image = j <= i or image_i == image_j != -1
            assert bool(mask[i, j]) == (i == j or (together and past_or_image))


@dataclass
class Conversation:
    """Lengths of its stretches (positive: text, negative: an image), and of the branches behind them."""

    stretches: list[int]
    branches: list[int]


conversations = st.builds(
    Conversation,
    st.lists(st.one_of(st.integers(1, 8), st.integers(-20, -1)), min_size=1, max_size=5),
    st.lists(st.integers(1, 6), max_size=3),
)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Rows of several conversations, padded on both sides."""
    document, images = itertools.count(), itertools.count()
    rows: list[list[tuple[int, int, int]]] = []
    for conversations_of_row in draw(st.lists(st.lists(conversations, max_size=4), min_size=1, max_size=3)):
        row = [(-1, -1, 0)] * draw(st.integers(0, 5))
        for conversation in conversations_of_row:
            number = next(document)
            for length in conversation.stretches:
                row += [(number, next(images) if length < 0 else -1, 0)] * abs(length)
            for branch, length in enumerate(conversation.branches, 1):
                row += [(number, -1, branch)] * length
        rows.append(row)
    assume(any(number >= 0 for row in rows for number, *_ in row))
    longest = max(map(len, rows)) + draw(st.integers(0, 5))
    padded = torch.tensor([row + [(-1, -1, 0)] * (longest - len(row)) for row in rows])
    return Structure(*padded.unbind(2))


def heads_of(drawn: Structure, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of four heads, keys and values of two."""
    generator = torch.Generator().manual_seed(seed)
    rows, tokens = drawn.document.shape
    queries, keys, values = (torch.randn(rows, heads, tokens, 16, generator=generator) for heads in (4, 2, 2))
    return queries, keys, values


def assert_same_where_real(found: Tensor, expected: Tensor, drawn: Structure) -> None:
    assert found.shape == expected.shape
    real = drawn.document >= 0
    torch.testing.assert_close(found.transpose(1, 2)[real], expected.transpose(1, 2)[real], rtol=0.0, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(structures())
def test_spans_attend_as_the_dense_mask_does(drawn: Structure) -> None:
    heads = heads_of(drawn)
    found = spans(drawn).attend(*heads)
    assert_same_where_real(found, DenseMask(prefix_mask(drawn)).attend(*heads), drawn)
    assert not found.transpose(1, 2)[drawn.document < 0].any()


@settings(deadline=None, max_examples=50)
@given(structures())
def test_spans_pass_the_gradients_of_the_dense_mask(drawn: Structure) -> None:
    heads = [part.requires_grad_() for part in heads_of(drawn)]
    weights = torch.randn(heads[0].shape, generator=torch.Generator().manual_seed(1))
    weights = weights * (drawn.document >= 0)[:, None, :, None]
    dense = DenseMask(prefix_mask(drawn)).attend(*heads)
    expected = torch.autograd.grad((dense * weights).sum(), heads)
    found = torch.autograd.grad((spans(drawn).attend(*heads) * weights).sum(), heads)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=1e-5)


def test_spans_hold_no_key_beyond_their_conversation_and_end() -> None:
    drawn = structure([0] * 5 + [1] * 4 + [-1], [-1, 0, 0, 0, -1, 1, 1, -1, -1, -1])
    (row,) = spans(drawn).rows
    assert [(span.start, span.stop, span.first_key) for span in row] == [
        (0, 1, 0),
        (1, 4, 0),
        (4, 5, 0),
        (5, 7, 5),
        (7, 9, 5),
    ]
    assert [None if span.mask is None else tuple(span.mask.shape) for span in row] == [
        (1, 1),
        None,
        (1, 5),
        None,
        (2, 4),
    ]


def attend_by_rule(plan: FlexBlocks, heads: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """FlexAttention's plain implementation, run as it is instead of through a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        return plan.attend(*heads)


@settings(deadline=None, max_examples=50)
@given(structures(), st.sampled_from([4, 16]))
def test_flex_blocks_attend_as_the_dense_mask_does(drawn: Structure, block: int) -> None:
    heads = heads_of(drawn)
    found = attend_by_rule(flex_blocks(drawn, block), heads)
    assert_same_where_real(found, DenseMask(prefix_mask(drawn)).attend(*heads), drawn)


# The plain implementation materialises every score, says torch; it is only asked for on the CPU, here.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_blocks_attend_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch traces the rule even there, and checks of shapes around it can't be traced.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    drawn = structure([0] * 12 + [1] * 25 + [-1] * 3, [-1, -1] + [0] * 6 + [-1] * 4 + [1] * 20 + [-1] * 8)
    heads = heads_of(drawn)
    found = flex_blocks(drawn, 16).attend(*heads)
    assert_same_where_real(found, DenseMask(prefix_mask(drawn)).attend(*heads), drawn)


def listed_blocks(counts: Tensor | None, indices: Tensor | None) -> Tensor:
    """Pairs of blocks (B, N, N) from the lists of a block mask."""
    assert counts is not None
    assert indices is not None
    counts, indices = counts[:, 0], indices[:, 0]
    is_listed = torch.arange(indices.shape[2]) < counts[..., None]
    return torch.zeros_like(is_listed).scatter(2, indices.long(), is_listed)


@settings(deadline=None, max_examples=50)
@given(structures(), st.sampled_from([2, 5, 16]))
def test_blocks_leave_out_nothing_and_full_ones_are_full(drawn: Structure, block: int) -> None:
    """Kernels ask for the rule in partial blocks, take everything of full ones, and never look at the others."""
    blocks = flex_blocks(drawn, block).blocks
    partial = listed_blocks(blocks.kv_num_blocks, blocks.kv_indices)
    full = listed_blocks(blocks.full_kv_num_blocks, blocks.full_kv_indices)
    assert not (partial & full).any()
    assert blocks.to_dense()[:, 0].bool().equal(partial | full)
    rows, tokens = drawn.document.shape
    row, query, key = torch.meshgrid(*map(torch.arange, (rows, tokens, tokens)), indexing="ij")
    allowed = blocks.mask_mod(row, torch.zeros_like(row), query, key)
    mask = prefix_mask(drawn)[:, 0]
    assert allowed.equal(mask)
    spread = [pairs[row, query // block, key // block] for pairs in (partial, full)]
    assert ((spread[0] & allowed) | spread[1]).equal(mask)


@settings(deadline=None, max_examples=50)
@given(structures())
def test_blocks_listed_for_keys_are_those_listed_for_queries(drawn: Structure) -> None:
    """Going back, kernels walk from keys to queries."""
    blocks = flex_blocks(drawn, 4).blocks
    forward = (blocks.kv_num_blocks, blocks.kv_indices), (blocks.full_kv_num_blocks, blocks.full_kv_indices)
    backward = (blocks.q_num_blocks, blocks.q_indices), (blocks.full_q_num_blocks, blocks.full_q_indices)
    for ahead, back in zip(forward, backward, strict=True):
        assert listed_blocks(*ahead).equal(listed_blocks(*back).mT)


def test_an_image_inside_blocks_is_computed_in_full() -> None:
    drawn = structure([0] * 64, [-1] * 16 + [0] * 32 + [-1] * 16)
    blocks = flex_blocks(drawn, 16).blocks
    assert listed_blocks(blocks.full_kv_num_blocks, blocks.full_kv_indices)[0].int().tolist() == [
        [0, 0, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 0],
    ]
    assert listed_blocks(blocks.kv_num_blocks, blocks.kv_indices)[0].nonzero().tolist() == [[0, 0], [3, 3]]


def row_of(*lengths: int) -> Structure:
    """One row of several conversations, each beginning with an image of a few tokens."""
    document = [number for number, length in enumerate(lengths) for _ in range(length)]
    prefix = [number if place < 4 else -1 for number, length in enumerate(lengths) for place in range(length)]
    return structure(document, prefix)


@pytest.mark.parametrize(
    ("lengths", "expected"), [((30,), DenseMask), ((512,), DenseMask), ((513,), Spans), ((10, 20), Spans)]
)
def test_long_and_packed_rows_take_spans(lengths: tuple[int, ...], expected: type) -> None:
    drawn = row_of(*lengths)
    assert isinstance(plan_attention(drawn), expected)
    dense = plan_attention(drawn, compiled=True)
    assert isinstance(dense, DenseMask)
    assert dense.mask.equal(prefix_mask(drawn))


def test_padding_is_no_second_conversation() -> None:
    padded = structure([-1, 0, 0, 0, -1, -1], [-1, 0, 0, -1, -1, -1])
    assert isinstance(plan_attention(padded), DenseMask)
    rows = Structure(*(torch.cat([column, column]) for column in (padded.document, padded.prefix, padded.branch)))
    rows.document[1][rows.document[1] == 0] = 1
    assert isinstance(plan_attention(rows), DenseMask)


def test_a_structure_moves_as_a_whole() -> None:
    moved = row_of(7).to("meta")
    assert {column.device.type for column in (moved.document, moved.prefix, moved.branch)} == {"meta"}


def test_rotation_keeps_lengths_and_sees_differences_alone() -> None:
    positions = torch.tensor([[[0, 3, 10, 13]]] * 3)
    vectors = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).expand(1, 1, 4, 8)
    turned = rotate(vectors, *rotary_embedding(positions, 8, 50.0))
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))
    products = turned[0, 0] @ turned[0, 0].T
    torch.testing.assert_close(products[0, 1], products[2, 3])
    assert abs(products[0, 1] - products[0, 2]) > 1e-3


def drawn_layer(config: StudentConfig, seed: int) -> DecoderLayer:
    generator = torch.Generator().manual_seed(seed)
    layer = DecoderLayer(config, 0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return layer


def test_a_layer_is_the_textbook_formula(config: StudentConfig) -> None:
    layer = drawn_layer(config, 0)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 5, config.hidden_size, generator=generator)
    rotary = rotary_embedding(torch.randint(0, 9, (3, 2, 5), generator=generator), config.head_dim, config.rope_theta)
    mask = prefix_mask(
        Structure(torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, -1, -1]]), torch.full((2, 5), -1), torch.zeros(2, 5).long())
    )
    attention = layer.self_attn

    def normed(values: Tensor, norm: torch.nn.RMSNorm) -> Tensor:
        return values / (values.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * norm.weight

    with torch.no_grad():
        found = layer(hidden, rotary, DenseMask(mask), None, None)
        inputs = normed(hidden, layer.input_layernorm)
        queries = rotate(attention.q_proj(inputs).view(2, 5, 2, 16).transpose(1, 2), *rotary)
        keys = rotate(attention.k_proj(inputs).view(2, 5, 1, 16).transpose(1, 2), *rotary)
        values = attention.v_proj(inputs).view(2, 5, 1, 16).transpose(1, 2)
        weights = (queries @ keys.mT / 4).masked_fill(~mask, -torch.inf).softmax(-1)
        behind = hidden + attention.o_proj((weights @ values).transpose(1, 2).flatten(2))
        inputs = normed(behind, layer.post_attention_layernorm)
        gate = layer.gate_proj(inputs)
        expected = behind + layer.down_proj(gate * gate.sigmoid() * layer.up_proj(inputs))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_bias", [True, False])
def test_bias_stands_on_queries_keys_and_values_alone(config: StudentConfig, *, with_bias: bool) -> None:
    attention = Attention(config.model_copy(update={"attention_bias": with_bias}))
    biased = [p.bias is not None for p in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)]
    assert biased == [with_bias, with_bias, with_bias, False]


def test_projections_have_the_channels_of_their_heads(config: StudentConfig) -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_head_dim": 20}
    attention = Attention(config.model_copy(update=sizes))
    hidden = torch.randn(3, config.hidden_size, generator=torch.Generator().manual_seed(0))
    assert [tuple(heads.shape) for heads in attention.project(hidden)] == [(3, 80), (3, 40), (3, 40)]
    assert attention.o_proj.weight.shape == (config.hidden_size, 80)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_cached_tokens_stand_before_new_ones(config: StudentConfig, cut: int) -> None:
    layer = drawn_layer(config, 2)
    hidden = torch.randn(1, 6, config.hidden_size, generator=torch.Generator().manual_seed(2))
    cosines, sines = rotary_embedding(torch.arange(6).expand(3, 1, 6), config.head_dim, 100.0)
    causal = torch.from_numpy(np.tri(6, dtype=bool))[None, None]
    cache = DynamicCache()
    with torch.no_grad():
        whole = layer(hidden, (cosines, sines), DenseMask(causal), None, None)
        parts = [
            layer(hidden[:, s], (cosines[:, s], sines[:, s]), DenseMask(causal[:, :, s, : s.stop]), cache, None)
            for s in (slice(0, cut), slice(cut, 6))
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-6)
    assert cache.layers[0].keys.shape == (1, 1, 6, 16)
    assert cache.get_seq_length() == 6
