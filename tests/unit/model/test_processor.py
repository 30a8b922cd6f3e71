"""Pictures and turns as rows of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.config import StudentConfig
from model.processor import IGNORED, EncodedRow, Picture, Processor, Text, normalise_and_patchify
from model.tokenizer import StudentTokenizer

Noise = Callable[..., NDArray[np.uint8]]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def test_resize_is_pillows_bilinear(picture: Noise) -> None:
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


def test_an_image_of_the_right_size_is_left_alone(picture: Noise) -> None:
    image = picture(16, 8)
    patches = normalise_and_patchify(image, (16, 8), 8).view(2, 3, 8, 8).numpy()
    np.testing.assert_allclose(patches[1, 2], (image[8:, :, 2] / 255 - MEAN[2]) / STD[2], atol=2e-6)


def test_a_row_holds_image_question_and_answer(
    processor: Processor, tokenizer: StudentTokenizer, picture: Noise
) -> None:
    row = processor.encode(picture(10, 20), [("segment the ring", "It is [SEG].")])
    assert row.grids == ((2, 3),)
    assert tokenizer.decode(row.input_ids.tolist()) == (
        "<vision>" + "<vpatch>" * 6 + "</vision><|im_start|>user\nsegment the ring<|im_end|>\nIt is [SEG].<|endoftext|>"
    )
    assert row.prefix.tolist() == [0] * 8 + [-1] * (len(row.input_ids) - 8)
    assert row.patch_slots.tolist() == [1, 2, 3, 4, 5, 6]
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
    assert row.grids == ()
    assert (row.prefix == -1).all()
    assert row.patches.shape == (0, 192)
    assert [len(row.patch_slots), len(row.patch_prompt_ids), len(row.pooled_slots)] == [0, 0, 0]


def test_a_picture_alone_is_a_row(processor: Processor, picture: Noise) -> None:
    for branched in (False, True):
        row = processor.encode(picture(8, 16), [], branched=branched)
        assert len(row.input_ids) == row.positions.shape[1] == 4
        assert row.prefix.tolist() == [0] * 4


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


def test_a_prompt_that_is_used_twice_is_refused(processor: Processor) -> None:
    image, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.bool_)
    with pytest.raises(ValueError, match="expected each number once in a conversation, got 2 twice"):
        processor.encode(image, [("q", None)], [(2, mask), (0, mask), (2, mask)])
    with pytest.raises(ValueError, match="expected each number once in a conversation, got 1 twice"):
        processor.encode_parts([Picture(image, [(1, mask)]), Picture(image, [(0, mask), (1, mask)])])


def test_several_pictures_stand_where_they_are_written(
    processor: Processor, tokenizer: StudentTokenizer, picture: Noise
) -> None:
    first, second = picture(16, 8, 1), picture(8, 24, 2)
    row = processor.encode_parts(
        [Text("x"), Picture(first), Text("and"), Picture(second), Text("?"), Text("[SEG]", is_answer=True)]
    )
    shown = ["x", "<vision><vpatch><vpatch></vision>", "and", f"<vision>{'<vpatch>' * 3}</vision>", "?", "[SEG]"]
    assert tokenizer.decode(row.input_ids.tolist()) == "".join(shown)
    lengths = [len(tokenizer.encode(part)) for part in shown]
    assert row.prefix.tolist() == np.repeat([-1, 0, -1, 1, -1, -1], lengths).tolist()
    assert row.grids == ((2, 1), (1, 3))
    assert row.input_ids[row.patch_slots].tolist() == [tokenizer.vision_patch] * 5
    assert row.patches.equal(
        torch.cat([normalise_and_patchify(first, (16, 8), 8), normalise_and_patchify(second, (8, 24), 8)])
    )
    start = sum(lengths[:3])
    between = int(row.positions[0, start])
    assert row.positions[:, start + 1 : start + 4].tolist() == [
        [between + 1] * 3,
        [between + 1] * 3,
        [between + 1, between + 2, between + 3],
    ]
    assert row.positions[:, start + 4].tolist() == [between + 4] * 3


def test_a_conversation_is_its_parts(processor: Processor, picture: Noise) -> None:
    image, region = picture(16, 16), np.ones((16, 16), np.bool_)
    turn = "<|im_start|>user\nwhat is <Prompt1>?<|im_end|>\n"
    parts = [Picture(image, [(1, region)]), Text(turn), Text("a ring<|endoftext|>", is_answer=True)]
    found, expected = (
        processor.encode_parts(parts),
        processor.encode(image, [("what is <Prompt1>?", "a ring")], [(1, region)]),
    )
    for name in ("input_ids", "labels", "positions", "branch", "prefix", "patches", "patch_slots", "patch_prompt_ids"):
        assert getattr(found, name).equal(getattr(expected, name)), name


@pytest.fixture
def pooling(config: StudentConfig, tokenizer: StudentTokenizer) -> Processor:
    return Processor(config.model_copy(update={"visual_prompt": "pooled"}), tokenizer)


def pooled(row: EncodedRow) -> dict[int, list[int]]:
    """Patches of each token that stands for a region."""
    found: dict[int, list[int]] = {}
    for slot, patch in zip(row.pooled_slots.tolist(), row.pooled_patches.tolist(), strict=True):
        found.setdefault(slot, []).append(patch)
    return found


def test_a_pooled_region_stands_behind_its_prompt(pooling: Processor, tokenizer: StudentTokenizer) -> None:
    """Overlapping regions are whole; of those in an answer none stands for anything."""
    upper, left = np.zeros((2, 16, 24), np.bool_)
    upper[:7], left[:, :5] = True, True
    row = pooling.encode(
        np.zeros((16, 24, 3), np.uint8),
        [("is <Prompt2> on <Prompt0>? <Prompt2>", "<Prompt2>: yes"), ("and <Prompt0>", None)],
        [(0, upper), (2, left)],
    )
    extra = tokenizer.pooled_region
    ids = row.input_ids.tolist()
    prompts = [place for place, token in enumerate(ids) if token in tokenizer.visual_prompts]
    assert [ids[place + 1] == extra for place in prompts] == [True, True, True, False, True]
    first, second, third, _, fourth = (place + 1 for place in prompts)
    assert pooled(row) == {first: [0, 3], second: [0, 1, 2], third: [0, 3], fourth: [0, 1, 2]}
    assert ids.count(extra) == 4
    assert [token for token in ids if token != extra] == tokenizer.encode(
        "<vision>" + "<vpatch>" * 6 + "</vision><|im_start|>user\nis <Prompt2> on <Prompt0>? <Prompt2><|im_end|>\n"
        "<Prompt2>: yes<|endoftext|><|im_start|>user\nand <Prompt0><|im_end|>\n"
    )
    assert (row.labels[row.input_ids == extra] == IGNORED).all()
    assert row.positions.shape[1] == row.branch.shape[0] == row.prefix.shape[0] == len(ids)


def test_a_prompt_that_is_not_there_is_no_region(
    pooling: Processor, processor: Processor, tokenizer: StudentTokenizer
) -> None:
    image, region = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.bool_)
    row = pooling.encode(image, [("what is <Prompt1>?", None)], [(0, region)])
    assert row.input_ids.equal(processor.encode(image, [("what is <Prompt1>?", None)], [(0, region)]).input_ids)
    assert tokenizer.pooled_region not in row.input_ids.tolist()
    assert len(row.pooled_slots) == len(row.pooled_patches) == 0


def test_injected_prompts_get_no_extra_token(processor: Processor, tokenizer: StudentTokenizer) -> None:
    row = processor.encode(np.zeros((8, 8, 3), np.uint8), [("<Prompt1>", None)], [(1, np.ones((8, 8), np.bool_))])
    assert tokenizer.pooled_region not in row.input_ids.tolist()
    assert len(row.pooled_slots) == 0


def test_pooled_regions_of_branches_and_of_a_second_picture(pooling: Processor, tokenizer: StudentTokenizer) -> None:
    """Patches count through the pictures of the row."""
    region = np.zeros((8, 16), np.bool_)
    region[:, 9:] = True
    pictures = [Picture(np.zeros((8, 16, 3), np.uint8)), Picture(np.zeros((8, 16, 3), np.uint8), [(1, region)])]
    row = pooling.encode_parts([*pictures, Text("<Prompt1>", branch=1), Text("say <Prompt1>", branch=2)])
    first, second = (row.input_ids == tokenizer.pooled_region).nonzero()[:, 0].tolist()
    assert pooled(row) == {first: [3], second: [3]}
    assert row.branch[[first, second]].tolist() == [1, 2]
    shared = int((row.branch == 0).sum())
    assert row.positions[0, first] == row.positions[0, shared] + 1


def test_a_shortened_row_is_the_one_without_its_end(pooling: Processor) -> None:
    image, region = np.zeros((8, 16, 3), np.uint8), np.ones((8, 16), np.bool_)
    turns = [("what is <Prompt0>?", "a ring"), ("and <Prompt0>?", None)]
    whole, expected = (pooling.encode(image, turns[:count], [(0, region)]) for count in (2, 1))
    found = whole.shortened(len(expected.input_ids))
    for item in fields(EncodedRow):
        one, two = getattr(found, item.name), getattr(expected, item.name)
        assert one.equal(two) if isinstance(one, torch.Tensor) else one == two, item.name
    assert len(found.pooled_slots) < len(whole.pooled_slots)


@pytest.mark.parametrize("branches", [[1, 0], [2, 1], [0, 1, 0]])
def test_branches_out_of_order_are_refused(processor: Processor, branches: list[int]) -> None:
    with pytest.raises(ValueError, match="branches: expected them behind everything else, ascending"):
        processor.encode_parts([Text("a", branch=branch) for branch in branches])
