"""Which conversations share a row, and rows as batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.config import StudentConfig
from model.packing import collate, collate_packed, pack
from model.processor import IGNORED, EncodedRow, Picture, Processor, Text
from model.student import StudentInputs
from model.tokenizer import StudentTokenizer


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda bound: st.tuples(st.just(bound), st.lists(st.integers(0, bound)))))
def test_every_conversation_stands_in_one_row_that_holds_it(drawn: tuple[int, list[int]]) -> None:
    bound, lengths = drawn
    rows = pack(lengths, bound)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= bound for row in rows)
    assert rows == sorted(sorted(row) for row in rows)


@settings(deadline=None)
@given(st.lists(st.integers(1, 20)))
def test_no_two_rows_could_be_one(lengths: list[int]) -> None:
    filled = [sum(lengths[number] for number in row) for row in pack(lengths, 20)]
    assert all(one + two > 20 for place, one in enumerate(filled) for two in filled[:place])


def test_the_longest_go_first_each_where_it_leaves_the_least_room() -> None:
    assert pack([2, 9, 7, 3, 1], 10) == [[0], [1, 4], [2, 3]]
    assert pack([6, 4, 6, 4], 10) == [[0, 1], [2, 3]]
    assert pack([], 10) == []


def test_a_conversation_that_is_too_long_is_named() -> None:
    message = "conversation 1: expected at most 8 tokens, got 9; raise the bound, lower max_side_px, or give it fewer"
    with pytest.raises(ValueError, match=message):
        pack([3, 9, 4], 8)


@pytest.fixture
def conversations(
    config: StudentConfig, tokenizer: StudentTokenizer, picture: Callable[..., NDArray[np.uint8]]
) -> list[EncodedRow]:
    """Two pictures, of which one is pointed at; text alone; branches; a picture right behind another."""
    processor = Processor(config.model_copy(update={"visual_prompt": "pooled"}), tokenizer)
    region = np.zeros((16, 24), np.bool_)
    region[9:, 10:] = True
    return [
        processor.encode_parts(
            [
                Picture(picture(16, 8, 1)),
                Text("and"),
                Picture(picture(16, 24, 2), [(1, region)]),
                Text("what is <Prompt1>?"),
                Text("a ring", is_answer=True),
            ]
        ),
        processor.encode(None, [("hello", "good day")]),
        processor.encode(picture(8, 24, 3), [("one", "two"), ("three", "[SEG] [SEG]")], branched=True),
        processor.encode_parts([Picture(picture(8, 8, 4)), Picture(picture(24, 8, 5)), Text("same?")]),
    ]


PACKED = [[0, 1], [2], [3]], [[3, 2, 1, 0]], [[1], [0], [3, 2]]


def assert_reads_back(inputs: StudentInputs, labels: Tensor, rows: Sequence[EncodedRow]) -> None:
    """Every conversation, in the order of the batch, is found whole and at one stretch."""
    flat_ids = inputs.input_ids.flatten()
    first_patch = first_pair = first_image = 0
    for number, row in enumerate(rows):
        index, place = (inputs.document == number).nonzero().unbind(1)
        length = len(row.input_ids)
        assert index.unique().numel() == 1
        assert place.equal(place[0] + torch.arange(length))
        here = int(index[0]), slice(int(place[0]), int(place[0]) + length)
        assert inputs.input_ids[here].equal(row.input_ids)
        assert labels[here].equal(row.labels)
        assert inputs.branch[here].equal(row.branch)
        assert inputs.positions[:, here[0], here[1]].equal(row.positions)
        assert inputs.prefix[here].equal(torch.where(row.prefix >= 0, row.prefix + first_image, -1))
        start = here[0] * inputs.input_ids.shape[1] + here[1].start
        patches = slice(first_patch, first_patch + len(row.patches))
        assert inputs.patches[patches].equal(row.patches)
        assert inputs.patch_prompt_ids[patches].equal(row.patch_prompt_ids)
        assert inputs.patch_slots[patches].equal(start + row.patch_slots)
        assert flat_ids[inputs.patch_slots[patches]].equal(row.input_ids[row.patch_slots])
        pairs = slice(first_pair, first_pair + len(row.pooled_slots))
        assert inputs.pooled_slots[pairs].equal(start + row.pooled_slots)
        assert inputs.patches[inputs.pooled_patches[pairs]].equal(row.patches[row.pooled_patches])
        assert inputs.grids[first_image : first_image + len(row.grids)] == row.grids
        first_patch, first_pair, first_image = patches.stop, pairs.stop, first_image + len(row.grids)
    assert (len(inputs.patches), len(inputs.pooled_slots), len(inputs.grids)) == (first_patch, first_pair, first_image)
    assert int(inputs.document.max()) == len(rows) - 1


@pytest.mark.parametrize("pad_left", [False, True])
@pytest.mark.parametrize("packed", PACKED)
def test_packed_conversations_are_found_whole(
    conversations: list[EncodedRow], packed: list[list[int]], *, pad_left: bool
) -> None:
    rows = [[conversations[number] for number in row] for row in packed]
    longest = max(sum(len(row.input_ids) for row in row) for row in rows)
    for num_tokens in (None, longest + 7):
        inputs, labels = collate_packed(rows, 9, num_tokens=num_tokens, pad_left=pad_left)
        assert inputs.input_ids.shape == labels.shape == (len(rows), num_tokens or longest)
        assert_reads_back(inputs, labels, [row for conversations in rows for row in conversations])
        for row, real in zip(rows, inputs.document >= 0, strict=True):
            length = sum(len(part.input_ids) for part in row)
            assert (real[-length:] if pad_left else real[:length]).all()
            assert int(real.sum()) == length


def test_what_is_left_over_says_nothing(conversations: list[EncodedRow]) -> None:
    inputs, labels = collate_packed([conversations[:1], conversations[1:2]], 9)
    padding = inputs.document < 0
    assert padding.any()
    assert (inputs.input_ids[padding] == 9).all()
    assert (labels[padding] == IGNORED).all()
    assert (inputs.prefix[padding] == -1).all()
    assert not inputs.branch[padding].any()
    assert not inputs.positions[:, padding].any()


def test_a_row_that_is_too_long_is_refused(conversations: list[EncodedRow]) -> None:
    length = len(conversations[0].input_ids) + len(conversations[1].input_ids)
    with pytest.raises(ValueError, match=f"row: expected at most {length - 1} tokens, got {length}"):
        collate_packed([conversations[:2], conversations[2:3]], 0, num_tokens=length - 1)


@pytest.mark.parametrize("pad_left", [False, True])
def test_collating_is_packing_one_conversation_a_row(conversations: list[EncodedRow], *, pad_left: bool) -> None:
    found, labels = collate(conversations, 5, pad_left=pad_left)
    expected, expected_labels = collate_packed([[row] for row in conversations], 5, pad_left=pad_left)
    assert labels.equal(expected_labels)
    for item in fields(StudentInputs):
        one, two = getattr(found, item.name), getattr(expected, item.name)
        assert one.equal(two) if isinstance(one, Tensor) else one == two


@pytest.mark.parametrize("pad_left", [False, True])
def test_rows_are_padded_where_nothing_looks(questions: list[EncodedRow], *, pad_left: bool) -> None:
    inputs, labels = collate(questions, 9, pad_left=pad_left)
    longest = max(len(row.input_ids) for row in questions)
    assert inputs.input_ids.shape == labels.shape == inputs.document.shape == (3, longest)
    flat_patches = inputs.input_ids.flatten()[inputs.patch_slots]
    assert flat_patches.unique().numel() == 1
    assert len(flat_patches) == 14
    for index, row in enumerate(questions):
        length = len(row.input_ids)
        span = slice(longest - length, longest) if pad_left else slice(0, length)
        real = torch.zeros(longest, dtype=torch.bool)
        real[span] = True
        assert (inputs.document[index] == index).equal(real)
        assert (inputs.document[index][~real] == -1).all()
        assert (inputs.input_ids[index][~real] == 9).all()
        assert (labels[index][~real] == IGNORED).all()
        assert inputs.input_ids[index][real].equal(row.input_ids)
        assert inputs.positions[:, index][:, real].equal(row.positions)
        assert int((inputs.prefix[index] == index).sum()) == int((row.prefix >= 0).sum())
    assert inputs.grids == ((3, 4), (2, 1))
    assert inputs.patches.equal(torch.cat([row.patches for row in questions]))
