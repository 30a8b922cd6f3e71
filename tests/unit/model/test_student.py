"""The student's forward pass: batches, packed rows, branches, images and prompts, and its variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from model.attention import DenseMask, Spans, plan_attention, prefix_mask
from model.config import InitialHeads, StudentConfig
from model.packing import collate, collate_packed
from model.patch_embedding import ConvolutionalPatchEmbedding
from model.processor import EncodedRow, Picture, Processor, Text
from model.student import Block, DecoderLayer, PixelSail, StudentInputs
from model.tokenizer import StudentTokenizer

CLOSE = {"rtol": 0.0, "atol": 1e-5}
Noise = Callable[..., NDArray[np.uint8]]

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "separate": {"modality_weights": "separate"},
    "convolutions": {"patch_embedding": "convolutions"},
    "pooled": {"visual_prompt": "pooled"},
    "not upsampled": {"upsampling": "none"},
    "untied": {"tie_word_embeddings": False},
    "narrow heads": {"attention_head_dim": 12, "attention_bias": False},
    "all": {
        "modality_weights": "separate",
        "patch_embedding": "convolutions",
        "visual_prompt": "pooled",
        "upsampling": "none",
        "tie_word_embeddings": False,
        "attention_head_dim": 20,
        "attention_bias": False,
    },
}


def run(student: PixelSail, rows: list[EncodedRow]) -> tuple[StudentInputs, Tensor]:
    inputs = as_the_student(student, collate(rows, 0)[0])
    with torch.no_grad():
        return inputs, student(inputs)


def as_the_student(student: PixelSail, inputs: StudentInputs) -> StudentInputs:
    """Inputs in the student's own precision."""
    return replace(inputs, patches=inputs.patches.to(student.embed_tokens.weight.dtype))


def mask_logits(student: PixelSail, inputs: StudentInputs, hidden: Tensor, seg: int) -> Tensor:
    """Masks of a batch of one row with one image: (masks, h, w)."""
    (_, maps), *_ = student.patch_maps(hidden, inputs).values()
    with torch.no_grad():
        queries = student.seg_query(hidden[0][inputs.input_ids[0] == seg])
        return torch.einsum("mq,hwq->mhw", queries, student.mask_features(maps)[0])


def image_of(row: EncodedRow) -> int:
    """Tokens of the picture that a row begins with."""
    return int((row.prefix >= 0).sum())


def drawn(config: StudentConfig, **fields: Any) -> PixelSail:
    student = PixelSail(config.model_copy(update=fields)).init_weights(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return student.eval()


def answered_rows(processor: Processor, picture: Noise) -> list[EncodedRow]:
    prompt = np.zeros((16, 24), np.bool_)
    prompt[:7, 9:15] = True
    other = np.zeros((8, 8), np.bool_)
    other[3:, 3:] = True
    return [
        processor.encode(picture(16, 24, 1), [("the square at <Prompt1>", "It is [SEG].")], [(1, prompt)]),
        processor.encode(None, [("hello", "good day to you, and to the blue ring")]),
        processor.encode(picture(32, 8, 2), [("a", "[SEG]."), ("the ring left of the square", "No target [SEG].")]),
        processor.encode_parts(
            [
                Text("both"),
                Picture(picture(16, 8, 3)),
                Text("or <Prompt0> in"),
                Picture(picture(8, 8, 4), [(0, other)]),
                Text("It is [SEG]", is_answer=True, branch=1),
                Text("No target", is_answer=True, branch=2),
            ]
        ),
    ]


@pytest.fixture
def answered(processor: Processor, picture: Noise) -> list[EncodedRow]:
    return answered_rows(processor, picture)


@pytest.fixture(params=list(VARIANTS))
def variant(
    request: pytest.FixtureRequest, config: StudentConfig, tokenizer: StudentTokenizer, picture: Noise
) -> tuple[PixelSail, list[EncodedRow]]:
    """A student of each kind and conversations as it wants them."""
    fields = VARIANTS[request.param]
    processor = Processor(config.model_copy(update=fields), tokenizer)
    return drawn(config, **fields), answered_rows(processor, picture)


def test_a_batch_gives_what_single_rows_give(variant: tuple[PixelSail, list[EncodedRow]]) -> None:
    student, answered = variant
    inputs, together = run(student, answered)
    assert inputs.grids == ((2, 3), (4, 1), (2, 1), (1, 1))
    maps = student.patch_maps(together, inputs)
    image = 0
    for index, row in enumerate(answered):
        alone_inputs, alone = run(student, [row])
        torch.testing.assert_close(together[index, : len(row.input_ids)], alone[0], **CLOSE)
        of_alone = student.patch_maps(alone, alone_inputs)
        for grid in row.grids:
            assert maps[grid][0] == [image]
            torch.testing.assert_close(maps[grid][1][0], of_alone[grid][1][0], **CLOSE)
            image += 1


@pytest.mark.parametrize("packed", [[[0, 1, 2, 3]], [[2, 1], [3, 0]]])
@pytest.mark.parametrize("pad_left", [False, True])
def test_packed_conversations_give_what_single_rows_give(
    variant: tuple[PixelSail, list[EncodedRow]], packed: list[list[int]], *, pad_left: bool
) -> None:
    student, answered = variant
    # In float32 the order of sums alone makes up to 1.05e-5 of values of 2, more or less by the processor.
    student.double()
    inputs, _ = collate_packed([[answered[number] for number in row] for row in packed], 0, pad_left=pad_left)
    inputs = as_the_student(student, inputs)
    assert isinstance(plan_attention(inputs.structure), Spans)
    with torch.no_grad():
        by_spans = student(inputs)
        by_mask = student(inputs, plan=DenseMask(prefix_mask(inputs.structure)))
    for document, number in enumerate(number for row in packed for number in row):
        alone = run(student, [answered[number]])[1][0]
        torch.testing.assert_close(by_spans[inputs.document == document], alone, **CLOSE)
        torch.testing.assert_close(by_mask[inputs.document == document], alone, **CLOSE)


def test_packed_conversations_give_the_masks_of_single_rows(
    variant: tuple[PixelSail, list[EncodedRow]], tokenizer: StudentTokenizer
) -> None:
    student, answered = variant
    student.double()  # as above
    inputs, _ = collate_packed([[answered[2], answered[1], answered[0]]], 0)
    inputs = as_the_student(student, inputs)
    with torch.no_grad():
        hidden = student(inputs)
        maps = student.patch_maps(hidden, inputs)
        for document, row in ((0, answered[2]), (2, answered[0])):
            seg = (inputs.document == document) & (inputs.input_ids == tokenizer.seg)
            (images, cells) = maps[row.grids[0]]
            assert images == [document // 2]
            queries = student.seg_query(hidden[seg])
            found = torch.einsum("mq,hwq->mhw", queries, student.mask_features(cells)[0])
            alone_inputs, alone = run(student, [row])
            torch.testing.assert_close(found, mask_logits(student, alone_inputs, alone, tokenizer.seg), **CLOSE)


def gradients_of(student: PixelSail, loss: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in student.named_parameters()]
    found = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    return {name: part for name, part in zip(names, found, strict=True) if part is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-5 of the largest."""
    scale = max(float(part.abs().max()) for part in expected.values())
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(found[name] / scale, part / scale, **CLOSE, msg=name)


def test_packed_conversations_give_the_gradients_of_single_rows(variant: tuple[PixelSail, list[EncodedRow]]) -> None:
    student, answered = variant

    def gradients(rows: Sequence[Sequence[EncodedRow]]) -> dict[str, Tensor]:
        inputs, _ = collate_packed(rows, 0)
        hidden = student(inputs)
        real = torch.cat([hidden[inputs.document == document] for document in range(len(answered))])
        return gradients_of(student, (student.logits(real).sin() * torch.arange(len(real))[:, None]).mean())

    assert_same_gradients(gradients([answered]), gradients([[row] for row in answered]))


def test_branched_turns_are_conversations_of_their_own(
    student: PixelSail, processor: Processor, picture: Noise, tokenizer: StudentTokenizer
) -> None:
    image = picture(16, 24, 4)
    prompt = np.zeros((16, 24), np.bool_)
    prompt[8:, :9] = True
    turns = [("the red square", "It is [SEG]."), ("a ring", "No target [SEG]."), ("two", "[SEG] [SEG].")]
    row = processor.encode(image, turns, [(0, prompt)], branched=True)
    inputs, hidden = run(student, [row])
    masks = mask_logits(student, inputs, hidden, tokenizer.seg)
    assert len(masks) == 4
    start = shared = image_of(row)
    seen = 0
    for turn in turns:
        alone = processor.encode(image, [turn], [(0, prompt)])
        alone_inputs, alone_hidden = run(student, [alone])
        own = alone_hidden[0, shared:]
        torch.testing.assert_close(hidden[0, :shared], alone_hidden[0, :shared], **CLOSE)
        torch.testing.assert_close(hidden[0, start : start + len(own)], own, **CLOSE)
        alone_masks = mask_logits(student, alone_inputs, alone_hidden, tokenizer.seg)
        torch.testing.assert_close(masks[seen : seen + len(alone_masks)], alone_masks, **CLOSE)
        start, seen = start + len(own), seen + len(alone_masks)
    assert start == len(row.input_ids)


def test_chained_turns_see_those_before_them(student: PixelSail, processor: Processor, picture: Noise) -> None:
    image = picture(16, 16, 5)
    chained = processor.encode(image, [("a", "b"), ("c", "d")])
    other = processor.encode(image, [("e", "b"), ("c", "d")])
    last = run(student, [chained])[1][0, -1]
    assert (last - run(student, [other])[1][0, -1]).abs().max() > 1e-2


def test_text_sees_every_patch_and_patches_see_no_text(
    student: PixelSail, processor: Processor, picture: Noise
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
    assert hidden[0, : image_of(row)].equal(other[0, : image_of(row)])


def test_a_second_picture_sees_the_first_and_not_the_other_way_round(
    student: PixelSail, processor: Processor, picture: Noise
) -> None:
    first, second, other = picture(16, 8, 1), picture(8, 24, 2), picture(8, 24, 3)

    def states(*parts: Picture | Text) -> tuple[Tensor, Tensor]:
        row = processor.encode_parts(parts)
        return run(student, [row])[1][0], row.prefix

    hidden, prefix = states(Picture(first), Text("or"), Picture(second), Text("?"))
    alone, _ = states(Picture(first), Text("or"))
    torch.testing.assert_close(hidden[: len(alone)], alone, **CLOSE)
    changed, _ = states(Picture(first), Text("or"), Picture(other), Text("?"))
    assert hidden[: len(alone)].equal(changed[: len(alone)])
    assert ((hidden - changed)[len(alone) + 1 :].abs().amax(-1) > 1e-4).all()
    exchanged, _ = states(Picture(picture(16, 8, 9)), Text("or"), Picture(second), Text("?"))
    assert ((hidden - exchanged)[prefix == 1].abs().amax(-1) > 1e-4).all()


def test_pictures_of_one_row_come_as_maps_in_their_order(
    student: PixelSail, processor: Processor, picture: Noise
) -> None:
    sizes = ((16, 24), (8, 8), (16, 24))
    row = processor.encode_parts([Picture(picture(*size, seed)) for seed, size in enumerate(sizes)])
    inputs, hidden = run(student, [row])
    maps = student.patch_maps(hidden, inputs)
    assert {grid: images for grid, (images, _) in maps.items()} == {(2, 3): [0, 2], (1, 1): [1]}
    patches = hidden[0][row.input_ids == row.input_ids[1]]
    assert maps[2, 3][1][0].equal(patches[:6].view(2, 3, -1))
    assert maps[1, 1][1][0].equal(patches[6:7].view(1, 1, -1))
    assert maps[2, 3][1][1].equal(patches[7:].view(2, 3, -1))


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


def test_a_pooled_region_is_the_mean_of_its_patches(config: StudentConfig, tokenizer: StudentTokenizer) -> None:
    """Regions that overlap, one of them named twice: each is whole, and nothing is painted on the patches."""
    student = drawn(config, visual_prompt="pooled")
    upper, left = np.zeros((2, 16, 24), np.bool_)
    upper[:7], left[:, :5] = True, True
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    processor = Processor(student.config, tokenizer)
    turns = [("is <Prompt2> on <Prompt0>, not <Prompt1>? <Prompt2>", "<Prompt2>: yes")]
    rows = [processor.encode(image, turns, [(0, upper), (2, left)]), processor.encode(image, turns)]
    # Behind another row, so that places in the row are not those in the batch.
    inputs = collate([processor.encode(image, [("q", "a" * 40)], [(1, left)]), *rows], 0)[0]
    with torch.no_grad():
        embedded = student.embed(inputs)
        tokens = student.embed_tokens(inputs.input_ids)
        visual = student.vis_embed(rows[0].patches)
    assert visual.std() > 0.1
    added = embedded - tokens
    extra = (rows[0].input_ids == tokenizer.pooled_region).nonzero()[:, 0].tolist()
    expected = [visual[[0, 3]].mean(0), visual[:3].mean(0), visual[[0, 3]].mean(0)]
    torch.testing.assert_close(added[1][extra], torch.stack(expected), **CLOSE)
    for row in added:
        torch.testing.assert_close(row[1:7], visual, **CLOSE)
    extra = [*range(1, 7), *extra]
    assert added[1].abs().sum(-1).nonzero()[:, 0].tolist() == extra
    assert added[0].abs().sum(-1).nonzero()[:, 0].tolist() == added[2].abs().sum(-1).nonzero()[:, 0].tolist()
    assert tokenizer.pooled_region not in rows[1].input_ids.tolist()


def test_output_embedding_is_tied(student: PixelSail) -> None:
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(student.logits(hidden), hidden @ student.embed_tokens.weight.T)
    assert student.lm_head is None
    assert student.output_embedding is student.embed_tokens.weight


def test_an_untied_output_embedding_has_weights_of_its_own(config: StudentConfig) -> None:
    student = drawn(config, tie_word_embeddings=False)
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    head = student.state_dict()["lm_head.weight"]
    assert head.shape == (config.vocab_size, 32)
    assert head.std().item() == pytest.approx(config.initializer_range, rel=0.1)
    torch.testing.assert_close(student.logits(hidden), hidden @ head.T)
    logits = student.logits(hidden).sum()
    assert gradients_of(student, logits).keys() == {"lm_head.weight"}


def by_modality(shared: PixelSail) -> PixelSail:
    """The same student with the weights of its text for its patches, too."""
    separate = drawn(shared.config, modality_weights="separate")
    state = dict(shared.state_dict())
    for name, tensor in shared.state_dict().items():
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            state[f"layers.{layer}.vision.{rest}"] = tensor.clone()
    separate.load_state_dict(state)
    return separate


def visions(student: PixelSail) -> list[Block]:
    layers = [module for module in student.modules() if isinstance(module, DecoderLayer)]
    return [layer.vision for layer in layers if layer.vision is not None]


def test_equal_weights_of_modalities_are_shared_weights(student: PixelSail, answered: list[EncodedRow]) -> None:
    """But for the order in which products are summed, which depends on how many rows a matrix has."""
    separate = by_modality(student).double()
    student.double()
    assert len(visions(separate)) == 2
    for rows in ([answered], [[row] for row in answered]):
        inputs, _ = collate_packed(rows, 0)
        with torch.no_grad():
            torch.testing.assert_close(separate(inputs), student(inputs), rtol=0.0, atol=1e-12)


def test_weights_of_patches_reach_patches_alone(student: PixelSail, answered: list[EncodedRow]) -> None:
    separate = by_modality(student)
    inputs, before = run(separate, answered)
    blocks = visions(separate)
    for parameter in blocks[0].parameters():
        nn.init.normal_(parameter, 0.0, 0.3, generator=torch.Generator().manual_seed(8))
    _, after = run(separate, answered)
    patches = (before - after).flatten(0, 1)[inputs.patch_slots]
    assert (patches.abs().amax(-1) > 1e-3).all()
    assert before[1].equal(after[1])
    # Of the last layer, nothing of a patch reaches the text any more.
    nn.init.normal_(blocks[1].up_proj.weight, 0.0, 0.3, generator=torch.Generator().manual_seed(9))
    _, last = run(separate, answered)
    changed = (after - last).flatten(0, 1).abs().amax(-1) > 0
    assert changed.nonzero()[:, 0].tolist() == inputs.patch_slots.tolist()


def test_weights_of_text_reach_the_marks_around_a_picture(student: PixelSail, answered: list[EncodedRow]) -> None:
    separate = by_modality(student)
    inputs, before = run(separate, answered[:1])
    last = [module for module in separate.modules() if isinstance(module, DecoderLayer)][-1]
    nn.init.normal_(last.up_proj.weight, 0.0, 0.3, generator=torch.Generator().manual_seed(9))
    _, after = run(separate, answered[:1])
    changed = (before - after)[0].abs().amax(-1) > 0
    assert (~changed).nonzero()[:, 0].tolist() == inputs.patch_slots.tolist()


@pytest.mark.parametrize("cut", [9, 12])
def test_cached_tokens_count_as_they_did(variant: tuple[PixelSail, list[EncodedRow]], cut: int) -> None:
    """What was read before stays in the cache, patches with the weights of patches; what follows is text."""
    student, answered = variant
    row = answered[0]
    _, whole = run(student, [row])
    inputs = collate([row.shortened(cut)], 0)[0]
    cache = DynamicCache()
    with torch.no_grad():
        parts = [student(inputs, cache)]
        for place in range(cut, len(row.input_ids)):
            token, position = row.input_ids[None, place : place + 1], row.positions[:, None, place : place + 1]
            embedded = student.embed_tokens(token)
            if place in row.pooled_slots:
                pooled = row.patches[row.pooled_patches[row.pooled_slots == place]]
                embedded = embedded + student.vis_embed(pooled).mean(0)
            everything = DenseMask(torch.ones(1, 1, 1, place + 1, dtype=torch.bool))
            parts.append(student.decode(embedded, position, everything, cache))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **CLOSE)


def test_patches_are_embedded_as_convolutions_of_the_picture_would(config: StudentConfig, picture: Noise) -> None:
    student = drawn(config, patch_embedding="convolutions")
    embedding = student.vis_embed
    assert isinstance(embedding, ConvolutionalPatchEmbedding)
    patches = torch.randn(6, 192, generator=torch.Generator().manual_seed(0))
    whole = patches.view(2, 3, 3, 8, 8).permute(2, 0, 3, 1, 4).reshape(1, 3, 16, 24)
    with torch.no_grad():
        found = embedding(patches)
        quarters = functional.conv2d(whole, embedding.quarters.weight, embedding.quarters.bias, stride=4)
        expected = functional.conv2d(functional.gelu(quarters), embedding.join.weight, embedding.join.bias, stride=2)
    assert expected.shape == (1, 32, 2, 3)
    torch.testing.assert_close(found, expected[0].flatten(1).T, **CLOSE)


def test_without_upsampling_masks_lie_on_the_patch_grid(
    config: StudentConfig, processor: Processor, picture: Noise, tokenizer: StudentTokenizer
) -> None:
    student = drawn(config, upsampling="none")
    inputs, hidden = run(student, [processor.encode(picture(16, 24), [("q", "[SEG] [SEG]")])])
    assert mask_logits(student, inputs, hidden, tokenizer.seg).shape == (2, 2, 3)
    assert not [name for name, _ in student.named_parameters() if name.startswith("mask_features.blocks")]


@pytest.mark.parametrize("fields", [{"attention_head_dim": 12}, {"attention_bias": False}])
def test_attention_has_the_sizes_of_its_configuration(config: StudentConfig, fields: dict[str, Any]) -> None:
    student = drawn(config, **fields)
    attention = next(module.self_attn for module in student.modules() if isinstance(module, DecoderLayer))
    dim = student.config.head_dim
    assert attention.q_proj.weight.shape == (2 * dim, 32)
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (dim, 32)
    assert attention.o_proj.weight.shape == (32, 2 * dim)
    names = [name for name, _ in student.named_parameters() if name.endswith("q_proj.bias")]
    assert len(names) == (2 if student.config.attention_bias else 0)


def test_gradient_checkpointing_gives_the_same_gradients(variant: tuple[PixelSail, list[EncodedRow]]) -> None:
    """Every layer is run twice in training, and once where no gradient is wanted."""
    student, answered = variant
    calls: list[None] = []
    for layer in student.layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(None))

    def gradients(*, again: bool) -> dict[str, Tensor]:
        calls.clear()
        student.gradient_checkpointing = again
        hidden = student(collate_packed([answered[:2], answered[2:]], 0)[0])
        return gradients_of(student, (student.logits(hidden).sin() * torch.arange(hidden.shape[1])[:, None]).mean())

    student.train()
    expected = gradients(again=False)
    assert len(calls) == 2
    found = gradients(again=True)
    assert len(calls) == 4
    assert found.keys() == expected.keys()
    assert all(part.equal(expected[name]) for name, part in found.items())
    student.eval()
    gradients(again=True)
    assert len(calls) == 2


def test_weights_of_half_precision_give_close_states(variant: tuple[PixelSail, list[EncodedRow]]) -> None:
    """Of eight bits; the states measured are 0.022 to 0.025 of their length apart."""
    student, answered = variant
    inputs, _ = collate_packed([answered[:2], answered[2:]], 0)
    real = inputs.document >= 0
    with torch.no_grad():
        exact = student(inputs)[real]
        student.to(torch.bfloat16)
        half = student(inputs)
        cells = [student.mask_features(maps) for _, maps in student.patch_maps(half, inputs).values()]
    assert half.dtype == cells[0].dtype == student.logits(half).dtype == torch.bfloat16
    assert all(part.isfinite().all() for part in cells)
    assert 0 < (half[real].float() - exact).norm() / exact.norm() < 0.04


def test_weights_follow_from_the_seed(config: StudentConfig) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return PixelSail(config).init_weights(torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["embed_tokens.weight"].equal(other["embed_tokens.weight"])
    assert first["layers.0.gate_proj.weight"].std().item() == pytest.approx(config.initializer_range, rel=0.1)
    assert first["seg_query.0.weight"].std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert not any(tensor.any() for name, tensor in first.items() if name.endswith("bias"))


def test_weights_of_variants_are_drawn_like_those_they_stand_for(config: StudentConfig) -> None:
    fields = VARIANTS["all"] | {"hidden_size": 64}
    weights = PixelSail(config.model_copy(update=fields)).init_weights(torch.Generator().manual_seed(1)).state_dict()
    deviations = {
        "layers.1.vision.gate_proj.weight": config.initializer_range,
        "layers.1.vision.self_attn.k_proj.weight": config.initializer_range,
        "lm_head.weight": config.initializer_range,
        "vis_embed.quarters.weight": (3 * 4 * 4) ** -0.5,
        "vis_embed.join.weight": (64 * 2 * 2) ** -0.5,
    }
    for name, expected in deviations.items():
        assert weights[name].std().item() == pytest.approx(expected, rel=0.1), name
    assert not weights["layers.1.gate_proj.weight"].equal(weights["layers.1.vision.gate_proj.weight"])


def test_initial_heads_are_drawn_for_both_modalities(config: StudentConfig) -> None:
    fields = {"initial_heads": InitialHeads(neighbours=1), "modality_weights": "separate"}
    student = PixelSail(config.model_copy(update=fields)).init_weights(torch.Generator().manual_seed(1))
    assert all(block.self_attn.k_proj.bias.any() for block in visions(student))


def test_inputs_move_as_a_whole(questions: list[EncodedRow]) -> None:
    moved = collate(questions, 0)[0].to("meta")
    tensors = [getattr(moved, name) for name in StudentInputs.__annotations__ if name != "grids"]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == 10
    assert moved.structure.prefix is moved.prefix
    assert moved.grids == ((3, 4), (2, 1))


def test_a_fresh_student_sees_prompts_as_strongly_as_pixels(config: StudentConfig) -> None:
    wide = config.model_copy(update={"hidden_size": 256, "distillation": ()})
    student = PixelSail(wide).init_weights(torch.Generator().manual_seed(0))
    patches = torch.randn(64, 3 * wide.patch_size_px**2, generator=torch.Generator().manual_seed(1))
    prompts = student.vp_embed(student.embed_tokens.weight)
    assert prompts.std().item() == pytest.approx(student.vis_embed(patches).std().item(), rel=0.2)
