"""Who sees whom, the cache, and rotation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import Attention, KeyValueCache, prefix_mask, rotate
from model.config import StudentConfig
from model.positions import rotary_embedding


def row(*values: int) -> torch.Tensor:
    return torch.tensor([values])


def test_image_sees_itself_in_both_directions_and_text_only_the_past() -> None:
    mask = prefix_mask(row(0, 0, 0, 0, 0), row(7, 7, 7, -1, -1), row(0, 0, 0, 0, 0))
    assert mask.shape == (1, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_nothing_passes_between_documents() -> None:
    mask = prefix_mask(row(0, 0, 0, 1, 1, 1), row(0, 0, -1, 1, 1, -1), row(0, 0, 0, 0, 0, 0))[0, 0]
    assert not mask[:3, 3:].any()
    assert not mask[3:, :3].any()
    assert mask[:3, :3].equal(mask[3:, 3:])


def test_two_images_of_one_document_look_at_each_other_causally() -> None:
    mask = prefix_mask(row(0, 0, 0, 0), row(4, 4, 5, 5), row(0, 0, 0, 0))[0, 0]
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_branches_share_what_is_common_and_nothing_else() -> None:
    mask = prefix_mask(row(*[0] * 6), row(0, 0, -1, -1, -1, -1), row(0, 0, 1, 1, 2, 2))[0, 0]
    assert mask[4].tolist() == [True, True, False, False, True, False]
    assert mask[5].tolist() == [True, True, False, False, True, True]
    assert not mask[:4, 4:].any()
    assert not mask[:2, 2:].any()


def test_padding_sees_itself_alone_and_is_not_seen() -> None:
    mask = prefix_mask(row(-1, 0, 0, -1), row(-1, 0, -1, -1), row(0, 0, 0, 0))[0, 0]
    assert mask[0].tolist() == [True, False, False, False]
    assert mask[3].tolist() == [False, False, False, True]
    assert not mask[1:3, [0, 3]].any()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2), st.integers(0, 2)), min_size=1, max_size=9))
def test_mask_is_what_its_rule_says(tokens: list[tuple[int, int, int]]) -> None:
    document, prefix, branch = (torch.tensor([column]) for column in zip(*tokens, strict=True))
    mask = prefix_mask(document, prefix, branch)[0, 0]
    for i, (doc_i, image_i, branch_i) in enumerate(tokens):
        for j, (doc_j, image_j, branch_j) in enumerate(tokens):
            together = doc_i == doc_j != -1 and branch_j in (0, branch_i)
            past_or_image = j <= i or image_i == image_j != -1
            assert bool(mask[i, j]) == (i == j or (together and past_or_image))


def test_rotation_keeps_lengths_and_sees_differences_alone() -> None:
    positions = torch.tensor([[[0, 3, 10, 13]]] * 3)
    vectors = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).expand(1, 1, 4, 8)
    turned = rotate(vectors, *rotary_embedding(positions, 8, 50.0))
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))
    products = turned[0, 0] @ turned[0, 0].T
    torch.testing.assert_close(products[0, 1], products[2, 3])
    assert abs(products[0, 1] - products[0, 2]) > 1e-3


def test_attention_is_the_textbook_formula(config: StudentConfig) -> None:
    generator = torch.Generator().manual_seed(1)
    attention = Attention(config, 0)
    hidden = torch.randn(2, 5, config.hidden_size, generator=generator)
    positions = torch.randint(0, 9, (3, 2, 5), generator=generator)
    rotary = rotary_embedding(positions, config.head_dim, config.rope_theta)
    mask = prefix_mask(
        torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, -1, -1]]), torch.full((2, 5), -1), torch.zeros(2, 5).long()
    )
    with torch.no_grad():
        found = attention(hidden, rotary, mask)
        queries = rotate(attention.q_proj(hidden).view(2, 5, 2, 16).transpose(1, 2), *rotary)
        keys = rotate(attention.k_proj(hidden).view(2, 5, 1, 16).transpose(1, 2), *rotary)
        values = attention.v_proj(hidden).view(2, 5, 1, 16).transpose(1, 2)
        weights = (queries @ keys.mT / 4).masked_fill(~mask, -torch.inf).softmax(-1)
        expected = attention.o_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_bias_stands_on_queries_keys_and_values_alone(config: StudentConfig) -> None:
    attention = Attention(config, 0)
    biased = [p.bias is not None for p in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)]
    assert biased == [True, True, True, False]


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_cached_tokens_stand_before_new_ones(config: StudentConfig, cut: int) -> None:
    generator = torch.Generator().manual_seed(2)
    attention = Attention(config, 0)
    hidden = torch.randn(1, 6, config.hidden_size, generator=generator)
    cosines, sines = rotary_embedding(torch.arange(6).expand(3, 1, 6), config.head_dim, 100.0)
    causal = torch.from_numpy(np.tri(6, dtype=bool))[None, None]
    cache = KeyValueCache()
    with torch.no_grad():
        whole = attention(hidden, (cosines, sines), causal)
        parts = [
            attention(hidden[:, s], (cosines[:, s], sines[:, s]), causal[:, :, s, : s.stop], cache)
            for s in (slice(0, cut), slice(cut, 6))
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-6)
    assert cache.layers[0][0].shape == (1, 1, 6, 16)
