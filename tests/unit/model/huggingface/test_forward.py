"""One pass: what goes in, that it is the student's own pass, losses, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, StaticCache

from model.config import StudentConfig
from model.huggingface import PixelSailConfig, PixelSailForConditionalGeneration
from model.huggingface.inputs import VisualInputs
from model.huggingface.processing import model_inputs
from model.objective import LossWeights, compute_losses, draw_points, training_batch
from model.packing import collate
from model.processor import EncodedRow, Picture, Processor, Text
from model.student import PixelSail, StudentInputs
from model.tokenizer import StudentTokenizer

MakePicture = Callable[..., NDArray[np.uint8]]
InputsOf = Callable[[Sequence[EncodedRow]], dict[str, Any]]


def region(height: int, width: int, rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    mask[rows, columns] = True
    return mask


@pytest.fixture
def rows(processor: Processor, picture: MakePicture) -> list[EncodedRow]:
    """Two pictures with prompts in one row, text alone, one wide picture, one of one patch; answers among them."""
    first = Picture(picture(16, 8, 2), [(2, region(16, 8, slice(9, 16), slice(2, 5)))])
    second = Picture(picture(24, 24, 3), [(0, region(24, 24, slice(0, 9), slice(0, 24)))])
    both = [
        first,
        Text("<|im_start|>user\ndescribe <Prompt2><|im_end|>\n"),
        Text("a ring [SEG]<|endoftext|>", is_answer=True),
        second,
        Text("<|im_start|>user\n<Prompt0> or <Prompt2>?<|im_end|>\n"),
        Text("It is [SEG] and [SEG].<|endoftext|>", is_answer=True),
    ]
    return [
        processor.encode_parts(both),
        processor.encode(None, [("hello", "good day")]),
        processor.encode(picture(24, 32, 1), [("segment the red square", "It is [SEG].")]),
        processor.encode(picture(8, 8, 4), [("what", None)]),
    ]


def same(first: StudentInputs, second: StudentInputs) -> None:
    for item in fields(StudentInputs):
        left, right = getattr(first, item.name), getattr(second, item.name)
        assert left.equal(right) if isinstance(left, Tensor) else left == right, item.name


def named(inputs: StudentInputs) -> dict[str, Tensor]:
    """The arguments that describe a batch, whichever side it is padded on."""
    return {
        "input_ids": inputs.input_ids,
        "attention_mask": (inputs.document >= 0).long(),
        "pixel_values": inputs.patches,
        "image_grids": torch.tensor(inputs.grids),
        "visual_prompt_ids": inputs.patch_prompt_ids,
    }


@pytest.mark.parametrize("pad_left", [True, False])
def test_inputs_and_outputs_are_the_students(
    model: PixelSailForConditionalGeneration,
    student: PixelSail,
    tokenizer: StudentTokenizer,
    rows: list[EncodedRow],
    *,
    pad_left: bool,
) -> None:
    expected, _ = collate(rows, tokenizer.end_of_text, pad_left=pad_left)
    same(model.student_inputs(**named(expected)), expected)
    output = model(**named(expected))
    hidden = student(expected)
    assert output.last_hidden_state.equal(hidden)
    assert output.logits.equal(student.logits(hidden))
    assert output.loss is output.loss_terms is output.past_key_values is None


def test_what_the_processor_gives_is_what_collate_gives(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow]
) -> None:
    expected, labels = collate(rows, tokenizer.end_of_text, pad_left=True)
    given = model_inputs(rows, tokenizer)
    assert given.pop("labels").equal(labels)
    same(model.student_inputs(**given), expected)


@pytest.mark.parametrize("kept", [[1], [1, 1], [0], [3, 1], [2]])
def test_some_rows(
    model: PixelSailForConditionalGeneration,
    student: PixelSail,
    tokenizer: StudentTokenizer,
    rows: list[EncodedRow],
    inputs_of: InputsOf,
    kept: list[int],
) -> None:
    chosen = [rows[index] for index in kept]
    expected, _ = collate(chosen, tokenizer.end_of_text, pad_left=True)
    given = inputs_of(chosen)
    assert ("pixel_values" in given) == (set(kept) != {1})
    same(model.student_inputs(**given), expected)
    assert model(**given).last_hidden_state.equal(student(expected))


def test_without_padding_no_mask_is_needed(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(rows[:1])
    with_mask = model(**given).logits
    del given["attention_mask"]
    assert model(**given).logits.equal(with_mask)


def test_prompts_are_none_where_none_are_given(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(rows[2:])
    without = {name: value for name, value in given.items() if name != "visual_prompt_ids"}
    assert model(**given).logits.equal(model(**without).logits)


def test_logits_of_the_last_tokens(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(rows)
    all_of_them = model(**given).logits
    torch.testing.assert_close(model(**given, logits_to_keep=2).logits, all_of_them[:, -2:])


def test_positions_may_be_given(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(rows)
    positions = model.student_inputs(**given).positions
    assert model(**given, position_ids=positions).logits.equal(model(**given).logits)
    assert not model(**given, position_ids=positions * 2).logits.equal(model(**given).logits)


@pytest.fixture
def pooling(config: StudentConfig, tokenizer: StudentTokenizer) -> tuple[PixelSailForConditionalGeneration, Processor]:
    pooled = config.model_copy(update={"visual_prompt": "pooled"})
    student = PixelSail(pooled).init_weights(torch.Generator().manual_seed(3)).eval()
    return PixelSailForConditionalGeneration.of(student, tokenizer), Processor(pooled, tokenizer)


@pytest.mark.parametrize("pad_left", [True, False])
def test_pooled_regions(
    pooling: tuple[PixelSailForConditionalGeneration, Processor],
    tokenizer: StudentTokenizer,
    picture: MakePicture,
    *,
    pad_left: bool,
) -> None:
    model, processor = pooling
    small, large = region(16, 16, slice(0, 4), slice(9, 16)), region(16, 16, slice(0, 16), slice(0, 16))
    rows = [
        processor.encode(picture(8, 8, 1), [("no region", None)]),
        processor.encode(
            picture(16, 16, 2), [("<Prompt1> beside <Prompt0>, and <Prompt1>", None)], [(0, large), (1, small)]
        ),
        processor.encode(None, [("text", None)]),
        processor.encode(picture(16, 16, 3), [("<Prompt0>", None)], [(0, small)]),
    ]
    expected, _ = collate(rows, tokenizer.end_of_text, pad_left=pad_left)
    given = model_inputs(rows, tokenizer)
    del given["labels"]
    assert given["pooled_tokens"].tolist() == [0, 1, 1, 1, 1, 2, 3]
    assert given["pooled_patches"].tolist() == [2, 1, 2, 3, 4, 2, 6]
    both = given | named(expected)
    same(model.student_inputs(**both), expected)
    assert model(**both).last_hidden_state.equal(model.model(expected))
    del both["pooled_tokens"], both["pooled_patches"]
    assert not model(**both).last_hidden_state.equal(model.model(expected))


def with_images(number: int, *sizes: tuple[int, int]) -> list[Tensor]:
    """Targets that differ, `number` of them on each image."""
    generator = torch.Generator().manual_seed(9)
    return [(torch.rand(number, *size, generator=generator) > 0.5).to(torch.uint8) for size in sizes]


@pytest.fixture
def targets() -> list[Tensor]:
    """Of the pictures in `rows`: one, two, one, none."""
    return [
        *with_images(1, (16, 8)),
        *with_images(2, (24, 24)),
        *with_images(1, (24, 32)),
        *with_images(0, (8, 8)),
    ]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("pad_left", [True, False])
def test_losses_are_the_objective(
    model: PixelSailForConditionalGeneration,
    student: PixelSail,
    tokenizer: StudentTokenizer,
    rows: list[EncodedRow],
    targets: list[Tensor],
    mode: str,
    *,
    pad_left: bool,
) -> None:
    model.train(mode == "train")
    inputs, labels = collate(rows, tokenizer.end_of_text, pad_left=pad_left)
    torch.manual_seed(5)
    output = model(**named(inputs), labels=labels, mask_labels=targets)
    torch.manual_seed(5)
    batch = training_batch(inputs, labels, targets, {}, tokenizer.seg)
    points = draw_points(batch, 12_544, torch.Generator().manual_seed(int(torch.randint(2**62, ()))))
    expected = compute_losses(student, batch, LossWeights(), points)
    assert output.loss.equal(expected.total)
    assert output.loss.requires_grad
    assert output.loss_terms.keys() == expected.terms.keys() == {"text", "mask_bce", "mask_dice"}
    assert all(term.equal(expected.terms[name]) and term > 0 for name, term in output.loss_terms.items())
    assert (output.logits is None) == (mode == "train")
    if mode == "eval":
        assert output.logits.equal(model(**named(inputs)).logits)


def test_text_alone_has_a_loss(
    model: PixelSailForConditionalGeneration,
    student: PixelSail,
    tokenizer: StudentTokenizer,
    rows: list[EncodedRow],
) -> None:
    """Without target masks the words count in full, also around `[SEG]`."""
    for chosen in (rows, rows[1:2]):
        inputs, labels = collate(chosen, tokenizer.end_of_text, pad_left=True)
        output = model(**model_inputs(chosen, tokenizer))
        batch = training_batch(inputs, labels, [torch.zeros(0, 1, 1)] * len(inputs.grids), {}, -1)
        expected = compute_losses(student, batch, LossWeights())
        assert output.loss.equal(expected.total)
        assert output.loss.equal(output.loss_terms["text"])
        assert output.loss_terms["mask_bce"] == 0
        mean_of_rows = torch.stack(
            [
                torch.nn.functional.cross_entropy(logits[:-1], own[1:])
                for logits, own in zip(output.logits, labels, strict=True)
                if (own >= 0).any()
            ]
        )
        torch.testing.assert_close(output.loss, mean_of_rows.sum() / len(chosen))


@pytest.mark.parametrize("pad_left", [True, False])
def test_labels_on_padding_count_for_nothing(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow], *, pad_left: bool
) -> None:
    """As where labels are a copy of the ids."""
    given = named(collate(rows, tokenizer.end_of_text, pad_left=pad_left)[0])
    labels = given["input_ids"]
    masked = labels.masked_fill(given["attention_mask"] == 0, -100)
    assert model(**given, labels=labels).loss.equal(model(**given, labels=masked).loss)


def test_weights_of_the_loss_can_be_set(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow], targets: list[Tensor]
) -> None:
    model.loss_weights = LossWeights(text_with_masks=0, text=0, mask_bce=0, mask_dice=3)
    output = model(**model_inputs(rows, tokenizer), mask_labels=targets)
    torch.testing.assert_close(output.loss, 3 * output.loss_terms["mask_dice"])


def test_points_follow_torchs_seed(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow], targets: list[Tensor]
) -> None:
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(**model_inputs(rows, tokenizer), mask_labels=targets).loss.item())
    assert losses[0] == losses[1] != losses[2]


def test_masks_of_any_number_type(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow], targets: list[Tensor]
) -> None:
    losses = []
    for kind in (torch.uint8, torch.bool, torch.float32, torch.int64):
        torch.manual_seed(0)
        masks = [masks.to(kind) for masks in targets]
        losses.append(model(**model_inputs(rows, tokenizer), mask_labels=masks).loss.item())
    assert len(set(losses)) == 1


def test_gradient_checkpointing_gives_the_same_gradients(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow], targets: list[Tensor]
) -> None:
    def gradients() -> dict[str, Tensor]:
        torch.manual_seed(0)
        model.zero_grad()
        model(**model_inputs(rows, tokenizer), mask_labels=targets).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.train()
    plain = gradients()
    assert not model.is_gradient_checkpointing
    with pytest.warns(FutureWarning, match="activation_checkpointing_enable"):
        model.gradient_checkpointing_enable()  # the name until transformers 6
    assert model.model.gradient_checkpointing
    model.activation_checkpointing_disable()
    assert not model.model.gradient_checkpointing
    model.activation_checkpointing_enable()
    assert model.is_gradient_checkpointing
    assert model.model.gradient_checkpointing
    again = gradients()
    assert plain.keys() == again.keys()
    assert all(gradient.equal(again[name]) for name, gradient in plain.items())
    without_heads = {name for name, _ in model.named_parameters() if "distillation_heads" not in name}
    assert plain.keys() == without_heads


def test_gradient_checkpointing_keeps_less(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow]
) -> None:
    def kept_bytes() -> int:
        kept: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**model_inputs(rows, tokenizer))
        return sum(tensor.nbytes for tensor in kept)

    model.train()
    plain = kept_bytes()
    model.activation_checkpointing_enable()
    assert kept_bytes() < plain / 2


def test_a_cache_takes_no_part_in_gradient_checkpointing(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    model.train()
    model.activation_checkpointing_enable()
    output = model(**inputs_of(rows), use_cache=True)
    assert output.past_key_values is None


def test_continuing_a_cache_is_one_whole_pass(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(rows)
    more = torch.tensor([[65, 66, 67]] * len(rows))
    whole = given | {
        "input_ids": torch.cat([given["input_ids"], more], 1),
        "attention_mask": torch.cat([given["attention_mask"], torch.ones_like(more)], 1),
    }
    expected = model(**whole)
    for cache in (None, DynamicCache()):
        first = model(**given, use_cache=True, past_key_values=cache)
        positions = model.student_inputs(**whole).positions[:, :, -3:]
        second = model(
            input_ids=more,
            attention_mask=whole["attention_mask"],
            position_ids=positions,
            past_key_values=first.past_key_values,
        )
        torch.testing.assert_close(second.last_hidden_state, expected.last_hidden_state[:, -3:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(second.logits, expected.logits[:, -3:], rtol=1e-4, atol=1e-5)


def test_a_model_that_knows_no_special_tokens(
    student: PixelSail, config: StudentConfig, tokenizer: StudentTokenizer
) -> None:
    """Made from sizes alone: text goes through, pictures have no place."""
    bare = PixelSailForConditionalGeneration(PixelSailConfig(**config.model_dump(mode="json"))).eval()
    bare.model.load_state_dict(student.state_dict())
    ids = torch.tensor([tokenizer.encode("hello [SEG]")])
    assert bare(ids).logits.equal(PixelSailForConditionalGeneration.of(student, tokenizer)(ids).logits)
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}):
        output = bare.generate(ids, max_new_tokens=3, return_dict_in_generate=True, **options)
        assert not any(map(len, output.masks))
    with pytest.raises(ValueError, match="images: expected 0, one per <vision> in the text, got 1"):
        bare(ids, pixel_values=torch.zeros(1, 192), image_grids=torch.tensor([[1, 1]]))


def test_half_precision_learns(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, rows: list[EncodedRow], targets: list[Tensor]
) -> None:
    def loss() -> Tensor:
        torch.manual_seed(0)
        return model(**model_inputs(rows, tokenizer), mask_labels=targets).loss

    exact = loss()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(), exact, rtol=0.02, atol=0)  # measured: 0.003
    model.bfloat16()
    halved = loss()
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, exact, rtol=0.02, atol=0)
    halved.backward()
    assert model.model.seg_query[0].weight.grad.abs().sum() > 0


def test_what_trainer_looks_at(model: PixelSailForConditionalGeneration) -> None:
    """The loss is a mean already: Trainer has to divide it by the number of batches that it adds up."""
    assert model.accepts_loss_kwargs is False
    assert set(model.config.keys_to_ignore_at_inference) == {
        "loss_terms",
        "past_key_values",
        "last_hidden_state",
        "masks",
    }


def test_outputs_by_place(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    """As every output of transformers: what is None is left out."""
    output = model(**inputs_of(rows))
    assert output[0] is output.logits
    assert list(output) == ["logits", "last_hidden_state"]
    output = model(**inputs_of(rows), labels=inputs_of(rows)["input_ids"])
    assert output[0] is output.loss
    assert list(output) == ["loss", "loss_terms", "logits", "last_hidden_state"]


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "grids missing": (
        lambda given: given.pop("image_grids"),
        "images: expected pixel_values and image_grids together, got one of them",
    ),
    "pixels missing": (lambda given: given.pop("pixel_values"), "expected pixel_values and image_grids together"),
    "pixels of another student": (
        lambda given: given.update(pixel_values=torch.zeros(24, 768)),
        r"pixel_values: expected \(patches, 192\), which are patches of 8 px, got \(24, 768\)",
    ),
    "pixels as image models have them": (
        lambda given: given.update(pixel_values=torch.zeros(4, 3, 8, 8)),
        r"pixel_values: expected \(patches, 192\), .* got \(4, 3, 8, 8\)",
    ),
    "grids of one number": (
        lambda given: given.update(image_grids=torch.tensor([2, 9, 12, 1])),
        r"image_grids: expected \(images, 2\), got \(4,\)",
    ),
    "a patch too few": (
        lambda given: given.update(pixel_values=given["pixel_values"][1:]),
        "pixel_values: expected 24 patches by image_grids, got 23",
    ),
    "a prompt too few": (
        lambda given: given.update(visual_prompt_ids=given["visual_prompt_ids"][1:]),
        "visual_prompt_ids: expected one per patch, 24, got 23",
    ),
    "an image too few": (
        lambda given: given.update(
            pixel_values=given["pixel_values"][:23],
            image_grids=given["image_grids"][:3],
            visual_prompt_ids=given["visual_prompt_ids"][:23],
        ),
        "images: expected 4, one per <vision> in the text, got 3",
    ),
    "another grid": (
        lambda given: given.update(image_grids=torch.tensor([[1, 2], [3, 3], [2, 2], [3, 3]])),
        "image 2: expected 2 x 2 <vpatch> and </vision> behind <vision> in row 2",
    ),
    "a loose patch token": (
        lambda given: given["input_ids"].__setitem__((1, -1), 288),
        "<vpatch> tokens: expected 24, one per patch, got 25; they stand between <vision> and </vision> alone",
    ),
    "padding alone": (
        lambda given: given["attention_mask"].__setitem__(1, 0),
        "row 1: expected at least one token, got padding alone",
    ),
    "a hole": (
        lambda given: given["attention_mask"].__setitem__((0, 20), 0),
        "attention_mask, row 0: expected padding at one side or both, got a hole",
    ),
    "a pooled token too many": (
        lambda given: given.update(pooled_tokens=torch.tensor([1]), pooled_patches=torch.tensor([0])),
        "pooled_tokens: expected numbers below 0, the tokens for regions in the text, got 1",
    ),
    "half of the pairs": (
        lambda given: given.update(pooled_tokens=torch.tensor([0])),
        "pooled_tokens and pooled_patches: expected pairs, got 1 and 0",
    ),
    "a patch that isn't there": (
        lambda given: (
            given["input_ids"].__setitem__((1, -1), 292),
            given.update(pooled_tokens=torch.tensor([0]), pooled_patches=torch.tensor([24])),
        ),
        "pooled_patches: expected numbers below 24, the patches given, got 24",
    ),
    "positions of another batch": (
        lambda given: given.update(position_ids=torch.zeros(3, 1, 5, dtype=torch.long)),
        r"position_ids: expected \(3, 4, \d+\), got \(3, 1, 5\)",
    ),
    "a mask of another batch": (
        lambda given: given.update(attention_mask=given["attention_mask"][:, 1:]),
        r"attention_mask: expected \(4, \d+\) like input_ids, got \(4, \d+\)",
    ),
    "labels of another batch": (
        lambda given: given.update(labels=given["input_ids"][:, 1:]),
        r"labels: expected \(4, \d+\) like input_ids, got \(4, \d+\)",
    ),
    "masks without labels": (
        lambda given: given.update(mask_labels=[torch.zeros(0, 8, 8)] * 4),
        "mask_labels: expected labels beside them, got none",
    ),
    "masks of an image too few": (
        lambda given: given.update(labels=given["input_ids"], mask_labels=[torch.zeros(0, 8, 8)] * 3),
        "mask_labels: expected 4, one entry per image, got 3",
    ),
    "hidden states of every layer": (
        lambda given: given.update(output_hidden_states=True),
        "output_hidden_states: expected none of it, got True; there is last_hidden_state alone",
    ),
    "attention weights": (lambda given: given.update(output_attentions=True), "output_attentions: expected none of it"),
    "a mask too few": (
        lambda given: given.update(
            labels=given["input_ids"], mask_labels=[torch.zeros(number, 8, 8) for number in (1, 1, 1, 0)]
        ),
        r"\[SEG\] tokens of image 1: expected 1, one per target mask, got 2",
    ),
}


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("case", list(REFUSED))
def test_what_does_not_fit_is_refused(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf, case: str
) -> None:
    spoil, message = REFUSED[case]
    given = inputs_of(rows)
    model(**given)
    spoil(given)
    with pytest.raises(ValueError, match=message):
        model(**given)


def test_what_a_filled_cache_asks_for(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf, tokenizer: StudentTokenizer
) -> None:
    given = inputs_of(rows)
    num_tokens = given["input_ids"].shape[1]
    cache = model(**given, use_cache=True).past_key_values
    more = torch.full((4, 1), 65)
    positions = torch.full((3, 4, 1), 40)
    with pytest.raises(ValueError, match="position_ids: expected those of the new tokens beside a filled cache"):
        model(input_ids=more, past_key_values=cache)
    with pytest.raises(ValueError, match="labels: expected no filled cache beside them"):
        model(input_ids=more, past_key_values=cache, position_ids=positions, labels=more)
    with pytest.raises(
        ValueError, match=rf"expected {num_tokens + 1} tokens, {num_tokens} of them in the cache, got 1"
    ):
        model(input_ids=more, past_key_values=cache, position_ids=positions, attention_mask=torch.ones_like(more))
    image = torch.full((4, 1), tokenizer.vision_start)
    with pytest.raises(ValueError, match="expected text behind a filled cache, got an image; start anew"):
        model(input_ids=image, past_key_values=cache, position_ids=positions)
    assert cache.get_seq_length() == num_tokens


@pytest.mark.usefixtures("no_shape_checks")
def test_a_cache_of_fixed_length_is_refused(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    cache = StaticCache(config=model.config, max_cache_len=64)
    with pytest.raises(
        ValueError, match="past_key_values: expected a cache that grows, as DynamicCache does, got Static"
    ):
        model(**inputs_of(rows), past_key_values=cache)


def test_rows_of_images_are_found_for_beams(
    model: PixelSailForConditionalGeneration, rows: list[EncodedRow], inputs_of: InputsOf
) -> None:
    """Repeating rows with their images gives what repeating the rows themselves gives."""
    given = inputs_of(rows)
    visual = VisualInputs.of(model.config, {name: given.get(name) for name in given}, torch.device("cpu"))
    twice = visual.repeated([2, 0, 1, 1], [0, 0, 0, 0], 2).as_arguments()
    expected = inputs_of([row for row in rows for _ in range(2)])
    for name in ("pixel_values", "image_grids", "visual_prompt_ids"):
        assert twice[name].equal(expected[name])
    assert not len(twice["pooled_tokens"])
