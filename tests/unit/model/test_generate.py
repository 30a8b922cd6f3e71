"""Greedy decoding: batches, the cache, where it stops, and the masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.generate import generate
from model.processor import EncodedRow, collate
from model.student import PixelSail
from model.tokenizer import StudentTokenizer

Scripted = Callable[[list[list[int]]], Any]
"""Makes a student whose next tokens are dictated, row by row; `calls` counts them."""


def with_tokens(row: EncodedRow, tokens: list[int]) -> EncodedRow:
    """The row with text behind it, as a conversation of that length would have been built."""
    more = torch.tensor(tokens, dtype=torch.long)
    positions = row.positions[:, -1:] + 1 + torch.arange(len(tokens))
    return replace(
        row,
        input_ids=torch.cat([row.input_ids, more]),
        labels=torch.cat([row.labels, torch.full_like(more, -100)]),
        positions=torch.cat([row.positions, positions], dim=1),
        branch=torch.cat([row.branch, torch.zeros_like(more)]),
    )


@torch.no_grad()
def recomputed(student: PixelSail, row: EncodedRow, num_tokens: int) -> list[int]:
    """Greedy decoding of one row without any cache, as often as asked for."""
    tokens: list[int] = []
    for _ in range(num_tokens):
        hidden = student(collate([with_tokens(row, tokens)], 0)[0])
        tokens.append(int(student.logits(hidden)[0, -1].argmax()))
    return tokens


@torch.no_grad()
def recomputed_masks(student: PixelSail, row: EncodedRow, tokens: list[int], seg: int) -> Tensor:
    inputs = collate([with_tokens(row, tokens)], 0)[0]
    hidden = student(inputs)
    (_, maps), *_ = student.patch_maps(hidden, inputs).values()
    queries = student.seg_query(hidden[0][inputs.input_ids[0] == seg])
    return torch.einsum("mq,hwq->mhw", queries, student.mask_features(maps)[0])


def test_batch_and_cache_give_what_recomputing_gives(
    student: PixelSail, tokenizer: StudentTokenizer, questions: list[EncodedRow]
) -> None:
    together = [found.token_ids for found in generate(student, tokenizer, questions, 12)]
    for row, tokens in zip(questions, together, strict=True):
        assert generate(student, tokenizer, [row], 12)[0].token_ids == tokens
        expected = recomputed(student, row, 12)
        if tokenizer.end_of_text in expected:
            expected = expected[: expected.index(tokenizer.end_of_text)]
        assert tokens == expected
    assert len({tuple(tokens) for tokens in together}) == 3
    assert all(len(set(tokens)) > 1 for tokens in together)


def test_each_row_stops_at_its_own_end(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow]
) -> None:
    end, seg = tokenizer.end_of_text, tokenizer.seg
    student = scripted([[65, end, 66, 67], [seg, 70, seg, end], [end, seg, seg, seg]])
    found = generate(student, tokenizer, questions, 50)
    assert [row.token_ids for row in found] == [[65], [seg, 70, seg], []]
    assert [len(row.mask_logits) for row in found] == [0, 2, 0]
    assert student.calls == 3


def test_at_most_so_many_tokens(scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow]) -> None:
    student = scripted([[65, 66, tokenizer.seg]])
    assert generate(student, tokenizer, questions[:1], 2)[0].token_ids == [65, 66]
    found = generate(scripted([[65, 66, tokenizer.seg]]), tokenizer, questions[:1], 3)[0]
    assert found.token_ids == [65, 66, tokenizer.seg]
    assert len(found.mask_logits) == 1
    assert generate(student, tokenizer, questions[:1], 0)[0].token_ids == []


def test_masks_are_those_of_the_whole_conversation(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow]
) -> None:
    """Masks from the cached prompt and single steps equal those of one pass over everything."""
    end, seg = tokenizer.end_of_text, tokenizer.seg
    student = scripted([[65, seg, seg, end], [seg, end], [80, 81, 82, end]])
    found = generate(student, tokenizer, questions, 9)
    for row, generated, grid in zip(questions[:2], found[:2], [(6, 8), (4, 2)], strict=True):
        expected = recomputed_masks(student, row, generated.token_ids, seg)
        assert generated.mask_logits.shape[1:] == grid
        torch.testing.assert_close(generated.mask_logits, expected, rtol=1e-4, atol=1e-4)
    assert len(found[2].mask_logits) == 0


@pytest.mark.parametrize("alone", [False, True])
def test_a_mask_token_without_an_image_gives_no_mask(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow], *, alone: bool
) -> None:
    end, seg = tokenizer.end_of_text, tokenizer.seg
    rows = questions[2:] if alone else questions[1:]
    found = generate(scripted([[seg, end]] * len(rows)), tokenizer, rows, 5)
    assert found[-1].token_ids == [seg]
    assert len(found[-1].mask_logits) == 0
    if not alone:
        assert found[0].mask_logits.shape == (1, 4, 2)


def test_images_of_one_grid_keep_their_own_masks(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow]
) -> None:
    end, seg = tokenizer.end_of_text, tokenizer.seg
    first = questions[0]
    second = replace(first, patches=first.patches.flip(0))
    student = scripted([[end], [seg, end], [seg, end]])
    found = generate(student, tokenizer, [first, second, first], 5)
    for row, generated in zip([second, first], found[1:], strict=True):
        expected = recomputed_masks(student, row, [seg], seg)
        torch.testing.assert_close(generated.mask_logits, expected, rtol=1e-4, atol=1e-4)
    assert (found[1].mask_logits - found[2].mask_logits).abs().max() > 1e-2


def test_nothing_needs_a_gradient(student: PixelSail, tokenizer: StudentTokenizer, questions: list[EncodedRow]) -> None:
    assert all(not row.mask_logits.requires_grad for row in generate(student, tokenizer, questions, 2))
