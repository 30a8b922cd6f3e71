"""The student's forward pass: batches, packed rows, branches, images and prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import StudentConfig
from model.processor import EncodedRow, Processor, collate
from model.student import PixelSail, StudentInputs
from model.tokenizer import StudentTokenizer

CLOSE = {"rtol": 0.0, "atol": 1e-5}


def run(student: PixelSail, rows: list[EncodedRow]) -> tuple[StudentInputs, Tensor]:
    inputs = collate(rows, 0)[0]
    with torch.no_grad():
        return inputs, student(inputs)


def mask_logits(student: PixelSail, inputs: StudentInputs, hidden: Tensor, seg: int) -> Tensor:
    """Masks of a batch of one row with one image: (masks, h, w)."""
    (_, maps), *_ = student.patch_maps(hidden, inputs).values()
    with torch.no_grad():
        queries = student.seg_query(hidden[0][inputs.input_ids[0] == seg])
        return torch.einsum("mq,hwq->mhw", queries, student.mask_features(maps)[0])


@pytest.fixture
def answered(processor: Processor, picture: Callable[..., NDArray[np.uint8]]) -> list[EncodedRow]:
    prompt = np.zeros((16, 24), np.bool_)
    prompt[:7, 9:15] = True
    return [
        processor.encode(picture(16, 24, 1), [("the square", "It is [SEG].")], [(1, prompt)]),
        processor.encode(None, [("hello", "good day to you, and to the blue ring")]),
        processor.encode(picture(32, 8, 2), [("a", "[SEG]."), ("the ring left of the square", "No target [SEG].")]),
    ]


def test_a_batch_gives_what_single_rows_give(student: PixelSail, answered: list[EncodedRow]) -> None:
    inputs, together = run(student, answered)
    assert inputs.grids == ((2, 3), (4, 1))
    maps = student.patch_maps(together, inputs)
    image = 0
    for index, row in enumerate(answered):
        alone_inputs, alone = run(student, [row])
        torch.testing.assert_close(together[index, : len(row.input_ids)], alone[0], **CLOSE)
        if row.grid is not None:
            assert maps[row.grid][0] == [image]
            torch.testing.assert_close(
                maps[row.grid][1][0], student.patch_maps(alone, alone_inputs)[row.grid][1][0], **CLOSE
            )
            image += 1


def test_packed_conversations_give_what_single_rows_give(student: PixelSail, answered: list[EncodedRow]) -> None:
    """Several conversations in one row, told apart by their document numbers."""
    lengths = [len(row.input_ids) for row in answered]
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    prefix = torch.full((sum(lengths),), -1)
    slots = []
    for number, (row, start) in enumerate(zip(answered, starts, strict=True)):
        prefix[start : start + row.prefix_length] = number
        slots.append(torch.arange(start + 1, start + 1 + len(row.patches)))
    packed = StudentInputs(
        input_ids=torch.cat([row.input_ids for row in answered])[None],
        positions=torch.cat([row.positions for row in answered], dim=1)[:, None],
        document=torch.arange(3).repeat_interleave(torch.tensor(lengths))[None],
        prefix=prefix[None],
        branch=torch.cat([row.branch for row in answered])[None],
        patches=torch.cat([row.patches for row in answered]),
        patch_slots=torch.cat(slots),
        patch_prompt_ids=torch.cat([row.patch_prompt_ids for row in answered]),
        grids=tuple(row.grid for row in answered if row.grid is not None),
    )
    with torch.no_grad():
        hidden = student(packed)[0]
    for row, start, length in zip(answered, starts, lengths, strict=True):
        torch.testing.assert_close(hidden[start : start + length], run(student, [row])[1][0], **CLOSE)


def test_branched_turns_are_conversations_of_their_own(
    student: PixelSail, processor: Processor, picture: Callable[..., NDArray[np.uint8]], tokenizer: StudentTokenizer
) -> None:
    image = picture(16, 24, 4)
    prompt = np.zeros((16, 24), np.bool_)
    prompt[8:, :9] = True
    turns = [("the red square", "It is [SEG]."), ("a ring", "No target [SEG]."), ("two", "[SEG] [SEG].")]
    row = processor.encode(image, turns, [(0, prompt)], branched=True)
    inputs, hidden = run(student, [row])
    masks = mask_logits(student, inputs, hidden, tokenizer.seg)
    assert len(masks) == 4
    start = row.prefix_length
    seen = 0
    for turn in turns:
        alone = processor.encode(image, [turn], [(0, prompt)])
        alone_inputs, alone_hidden = run(student, [alone])
        own = alone_hidden[0, row.prefix_length :]
        torch.testing.assert_close(hidden[0, : row.prefix_length], alone_hidden[0, : row.prefix_length], **CLOSE)
        torch.testing.assert_close(hidden[0, start : start + len(own)], own, **CLOSE)
        alone_masks = mask_logits(student, alone_inputs, alone_hidden, tokenizer.seg)
        torch.testing.assert_close(masks[seen : seen + len(alone_masks)], alone_masks, **CLOSE)
        start, seen = start + len(own), seen + len(alone_masks)
    assert start == len(row.input_ids)


def test_chained_turns_see_those_before_them(
    student: PixelSail, processor: Processor, picture: Callable[..., NDArray[np.uint8]]
) -> None:
    image = picture(16, 16, 5)
    chained = processor.encode(image, [("a", "b"), ("c", "d")])
    other = processor.encode(image, [("e", "b"), ("c", "d")])
    last = run(student, [chained])[1][0, -1]
    assert (last - run(student, [other])[1][0, -1]).abs().max() > 1e-2


def test_text_sees_every_patch_and_patches_see_no_text(
    student: PixelSail, processor: Processor, picture: Callable[..., NDArray[np.uint8]]
) -> None:
    image = picture(16, 24, 6)
    row = processor.encode(image, [("the square", "[SEG].")])
    _, hidden = run(student, [row])
    for patch in range(6):
        changed = row.patches.clone()
        changed[patch] += 1.0
        _, other = run(student, [replace(row, patches=changed)])
        assert ((hidden - other)[0].abs().amax(-1) > 1e-4).all()
    _, other = run(student, [processor.encode(image, [("a ring", "[SEG].")])])
    assert hidden[0, : row.prefix_length].equal(other[0, : row.prefix_length])


def test_a_visual_prompt_is_added_to_its_patches(
    student: PixelSail, processor: Processor, tokenizer: StudentTokenizer
) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    prompt = np.zeros((16, 16), np.bool_)
    prompt[9, 2] = True
    plain, prompted = (
        collate([processor.encode(image, [("q", None)], prompts)], 0)[0] for prompts in ([], [(2, prompt)])
    )
    with torch.no_grad():
        difference = student.embed(prompted) - student.embed(plain)
        expected = student.vp_embed(student.embed_tokens.weight[tokenizer.visual_prompts[2]])
    torch.testing.assert_close(difference[0, 3], expected)
    assert difference[0].abs().sum(-1).nonzero()[:, 0].tolist() == [3]


def test_patch_embedding_is_added_to_the_patch_token(
    student: PixelSail, questions: list[EncodedRow], tokenizer: StudentTokenizer
) -> None:
    inputs = collate(questions[:1], 0)[0]
    with torch.no_grad():
        embedded = student.embed(inputs)[0]
        patch_token = student.embed_tokens.weight[tokenizer.vision_patch]
        torch.testing.assert_close(embedded[1:13], patch_token + student.vis_embed(inputs.patches))
        torch.testing.assert_close(embedded[13:], student.embed_tokens(inputs.input_ids[0, 13:]))


def test_output_embedding_is_tied(student: PixelSail) -> None:
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(student.logits(hidden), hidden @ student.embed_tokens.weight.T)


def test_weights_follow_from_the_seed(config: StudentConfig) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return PixelSail(config).init_weights(torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["embed_tokens.weight"].equal(other["embed_tokens.weight"])
    assert first["layers.0.gate_proj.weight"].std().item() == pytest.approx(config.initializer_range, rel=0.1)
    assert first["seg_query.0.weight"].std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert not any(tensor.any() for name, tensor in first.items() if name.endswith("bias"))


def test_inputs_move_as_a_whole(questions: list[EncodedRow]) -> None:
    moved = collate(questions, 0)[0].to("meta")
    assert {getattr(moved, name).device.type for name in ("input_ids", "positions", "document", "patches")} == {"meta"}
    assert moved.grids == ((3, 4), (2, 1))


def test_a_fresh_student_sees_prompts_as_strongly_as_pixels(config: StudentConfig) -> None:
    wide = config.model_copy(update={"hidden_size": 256, "distillation": ()})
    student = PixelSail(wide).init_weights(torch.Generator().manual_seed(0))
    patches = torch.randn(64, 3 * wide.patch_size_px**2, generator=torch.Generator().manual_seed(1))
    prompts = student.vp_embed(student.embed_tokens.weight)
    assert prompts.std().item() == pytest.approx(student.vis_embed(patches).std().item(), rel=0.2)
