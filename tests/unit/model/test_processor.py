"""Pictures and turns as rows of tokens, and rows as batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.processor import IGNORED, EncodedRow, Processor, collate, normalise_and_patchify
from model.tokenizer import StudentTokenizer

Picture = Callable[..., NDArray[np.uint8]]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def test_resize_is_pillows_bilinear(picture: Picture) -> None:
    image = picture(37, 50)
    resized = np.asarray(Image.fromarray(image).resize((32, 24), Image.Resampling.BILINEAR), np.float64)
    patches = normalise_and_patchify(image, (24, 32), 8)
    expected = ((resized / 255 - MEAN) / STD).transpose(2, 0, 1)
    assert patches.shape == (12, 192)
    for number, patch in enumerate(patches.view(12, 3, 8, 8).numpy()):
        row, column = divmod(number, 4)
        block = expected[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_allclose(patch, block, rtol=0, atol=2e-6)


def test_patches_are_flattened_by_channel_row_column() -> None:
    """Each pixel counts 4 * channel-free position, so that its place can be read off."""
    image = np.zeros((4, 8, 3), np.uint8)
    image[..., 0] = np.arange(32).reshape(4, 8)
    image[..., 1] = image[..., 0] + 100
    image[..., 2] = image[..., 0] + 200
    patches = normalise_and_patchify(image, (4, 8), 4)
    values = patches.view(2, 3, 16).numpy() * STD[:, None] + MEAN[:, None]
    places = np.round(values * 255).astype(int)
    left = [8 * y + x for y in range(4) for x in range(4)]
    assert places[0].tolist() == [left, [v + 100 for v in left], [v + 200 for v in left]]
    assert places[1, 0].tolist() == [v + 4 for v in left]


def test_an_image_of_the_right_size_is_left_alone(picture: Picture) -> None:
    image = picture(16, 8)
    patches = normalise_and_patchify(image, (16, 8), 8).view(2, 3, 8, 8).numpy()
    np.testing.assert_allclose(patches[1, 2], (image[8:, :, 2] / 255 - MEAN[2]) / STD[2], atol=2e-6)


def test_a_row_holds_image_question_and_answer(
    processor: Processor, tokenizer: StudentTokenizer, picture: Picture
) -> None:
    row = processor.encode(picture(10, 20), [("segment the ring", "It is [SEG].")])
    assert row.grid == (2, 3)
    assert tokenizer.decode(row.input_ids.tolist()) == (
        "<vision>" + "<vpatch>" * 6 + "</vision><|im_start|>user\nsegment the ring<|im_end|>\nIt is [SEG].<|endoftext|>"
    )
    assert row.prefix_length == 8
    assert row.patches.shape == (6, 192)
    assert row.positions.shape == (3, len(row.input_ids))
    assert row.positions[:, 8].tolist() == [5, 5, 5]
    assert not row.branch.any()


@pytest.mark.parametrize("branched", [False, True])
def test_labels_are_answers_alone(processor: Processor, tokenizer: StudentTokenizer, *, branched: bool) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    row = processor.encode(image, [("one [SEG]", "two"), ("three", "It is [SEG].")], branched=branched)
    labelled = row.labels != IGNORED
    assert tokenizer.decode(row.labels[labelled].tolist()) == "two<|endoftext|>It is [SEG].<|endoftext|>"
    assert row.input_ids[labelled].equal(row.labels[labelled])


def test_branches_count_the_turns(processor: Processor) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    turns = [("one", "two"), ("three", "four and five"), ("six", "seven")]
    row = processor.encode(image, turns, branched=True)
    lengths = [len(processor.encode(image, [turn]).input_ids) - 3 for turn in turns]
    expected = [0] * 3 + [number for number, length in enumerate(lengths, 1) for _ in range(length)]
    assert row.branch.tolist() == expected
    assert [int(row.positions[0, 3 + sum(lengths[:n])]) for n in range(3)] == [3, 3, 3]
    assert row.input_ids.equal(processor.encode(image, turns).input_ids)


def test_an_open_question_ends_where_the_answer_begins(processor: Processor, tokenizer: StudentTokenizer) -> None:
    row = processor.encode(None, [("hello", None)])
    assert tokenizer.decode(row.input_ids.tolist()) == "<|im_start|>user\nhello<|im_end|>\n"
    assert (row.labels == IGNORED).all()
    assert row.grid is None
    assert row.prefix_length == 0
    assert row.patches.shape == (0, 192)


def test_a_picture_alone_is_a_row(processor: Processor, picture: Picture) -> None:
    for branched in (False, True):
        row = processor.encode(picture(8, 16), [], branched=branched)
        assert len(row.input_ids) == row.prefix_length == row.positions.shape[1] == 4


def test_prompts_become_token_ids(processor: Processor, tokenizer: StudentTokenizer) -> None:
    left = np.zeros((8, 16), np.bool_)
    left[:, :4] = True
    row = processor.encode(np.zeros((8, 16, 3), np.uint8), [("<Prompt1>", None)], [(1, left)])
    assert row.patch_prompt_ids.tolist() == [tokenizer.visual_prompts[1], -1]
    assert tokenizer.visual_prompts[1] in row.input_ids.tolist()


@pytest.mark.parametrize("number", [-1, 3, 99])
def test_prompt_without_a_token_is_refused(processor: Processor, number: int) -> None:
    mask = np.ones((8, 8), np.bool_)
    with pytest.raises(ValueError, match=f"visual prompts: expected numbers from 0 to 2, got {number}"):
        processor.encode(np.zeros((8, 8, 3), np.uint8), [("q", None)], [(number, mask)])


def test_prompt_without_a_token_is_refused_even_where_another_covers_it(processor: Processor) -> None:
    mask = np.ones((8, 8), np.bool_)
    with pytest.raises(ValueError, match="visual prompts: expected numbers from 0 to 2, got 3"):
        processor.encode(np.zeros((8, 8, 3), np.uint8), [("q", None)], [(3, mask), (0, mask)])


def test_prompts_on_text_alone_are_refused(processor: Processor) -> None:
    with pytest.raises(ValueError, match="expected an image to point at, got text alone"):
        processor.encode(None, [("q", None)], [(0, np.ones((8, 8), np.bool_))])


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
        assert int((inputs.prefix[index] == index).sum()) == row.prefix_length
    assert inputs.grids == ((3, 4), (2, 1))
    assert inputs.patches.equal(torch.cat([row.patches for row in questions]))
