"""Generation: batches, the cache, beams, where it stops, the masks, and answers as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StaticCache, TextIteratorStreamer

from model.config import StudentConfig
from model.huggingface import PixelSailForConditionalGeneration, PixelSailProcessor
from model.huggingface.modeling import AnswerCache
from model.huggingface.processing import model_inputs
from model.packing import collate
from model.processor import EncodedRow, Picture, Processor, Text
from model.student import PixelSail
from model.tokenizer import StudentTokenizer

Scripted = Callable[[list[list[int]]], Any]
"""Makes a student whose next tokens are dictated, row by row; `calls` counts them."""
MakePicture = Callable[..., NDArray[np.uint8]]
InputsOf = Callable[[Sequence[EncodedRow]], dict[str, Any]]
SEG_BIAS = 4.5
"""Makes `[SEG]` likely enough for a student of random weights to say it now and then."""


def often_seg(tokenizer: StudentTokenizer) -> dict[str, Any]:
    return {"sequence_bias": [[[tokenizer.seg], SEG_BIAS]], "return_dict_in_generate": True}


def never(tokenizer: StudentTokenizer) -> list[int]:
    """What the default configuration keeps out of answers."""
    return [tokenizer.vision_start, tokenizer.vision_patch, tokenizer.vision_end, tokenizer.pooled_region]


def with_tokens(row: EncodedRow, tokens: list[int]) -> EncodedRow:
    """The row with text behind it, as a conversation of that length would have been built."""
    more = torch.tensor(tokens, dtype=torch.long)
    return replace(
        row,
        input_ids=torch.cat([row.input_ids, more]),
        labels=torch.cat([row.labels, torch.full_like(more, -100)]),
        positions=torch.cat([row.positions, row.positions[:, -1:] + 1 + torch.arange(len(tokens))], dim=1),
        branch=torch.cat([row.branch, torch.zeros_like(more)]),
        prefix=torch.cat([row.prefix, torch.full_like(more, -1)]),
    )


@torch.no_grad()
def recomputed(student: PixelSail, row: EncodedRow, num_tokens: int, tokenizer: StudentTokenizer) -> list[int]:
    """Greedy decoding of one row without any cache, up to its end."""
    tokens: list[int] = []
    while len(tokens) < num_tokens and tokens[-1:] != [tokenizer.end_of_text]:
        hidden = student(collate([with_tokens(row, tokens)], 0)[0])
        logits = student.logits(hidden)[0, -1]
        logits[never(tokenizer)] = -torch.inf
        logits[tokenizer.seg] += SEG_BIAS
        tokens.append(int(logits.argmax()))
    return tokens


@torch.no_grad()
def whole_masks(student: PixelSail, row: EncodedRow, tokens: Sequence[int], seg: int) -> Tensor:
    """Masks of `[SEG]` among new tokens, by one pass over everything; on the last image of the row."""
    inputs = collate([with_tokens(row, list(tokens))], 0)[0]
    hidden = student(inputs)
    maps = student.patch_maps(hidden, inputs)
    (number, stacked) = next(
        (images.index(len(row.grids) - 1), stacked) for images, stacked in maps.values() if len(row.grids) - 1 in images
    )
    places = [len(row.input_ids) + place for place, token in enumerate(tokens) if token == seg]
    return torch.einsum("mq,hwq->mhw", student.seg_query(hidden[0, places]), student.mask_features(stacked)[number])


def new_tokens(output: Any, given: dict[str, Any], end: int) -> list[list[int]]:
    """What was generated for each row, its end included, without what stands behind that."""
    found = output.sequences[:, given["input_ids"].shape[1] :].tolist()
    return [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in found]


def check_masks(
    model: PixelSailForConditionalGeneration, rows: Sequence[EncodedRow], output: Any, num_prompt_tokens: int
) -> int:
    """Masks of every row against those of one whole pass; returns how many there were."""
    seg = model.config.seg_token_id
    sequences = output.sequences[:, num_prompt_tokens:].tolist()
    assert len(rows) == len(sequences) == len(output.masks)
    for row, tokens, masks in zip(rows, sequences, output.masks, strict=True):
        assert masks.dtype == torch.float32
        assert not masks.requires_grad
        if not row.grids or seg not in tokens:
            assert len(masks) == 0
            continue
        torch.testing.assert_close(masks, whole_masks(model.model, row, tokens, seg), rtol=1e-5, atol=1e-5)
    return sum(map(len, output.masks))


def wrapped(student: PixelSail, tokenizer: StudentTokenizer) -> PixelSailForConditionalGeneration:
    return PixelSailForConditionalGeneration.of(student, tokenizer)


def test_batch_and_cache_give_what_recomputing_gives(
    model: PixelSailForConditionalGeneration,
    student: PixelSail,
    tokenizer: StudentTokenizer,
    questions: list[EncodedRow],
    inputs_of: InputsOf,
) -> None:
    """Token for token; masks to 1e-5, in a batch, alone, and by one whole pass."""
    given, end = inputs_of(questions), tokenizer.end_of_text
    output = model.generate(**given, max_new_tokens=12, **often_seg(tokenizer))
    together = new_tokens(output, given, end)
    for index, row in enumerate(questions):
        alone = inputs_of([row])
        single = model.generate(**alone, max_new_tokens=12, **often_seg(tokenizer))
        assert new_tokens(single, alone, end)[0] == together[index]
        assert together[index] == recomputed(student, row, 12, tokenizer)
        torch.testing.assert_close(single.masks[0], output.masks[index], rtol=1e-5, atol=1e-5)
    assert check_masks(model, questions, output, given["input_ids"].shape[1]) >= 2
    assert len({tuple(tokens) for tokens in together}) == 3
    assert all(len(set(tokens)) > 1 for tokens in together)


def test_tokens_alone_unless_more_is_asked_for(
    model: PixelSailForConditionalGeneration, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(questions)
    found = model.generate(**given, max_new_tokens=4)
    assert found.equal(model.generate(**given, max_new_tokens=4, return_dict_in_generate=True).sequences)
    ids = given.pop("input_ids")
    assert found.equal(model.generate(ids, **given, max_new_tokens=4))
    assert found[:, : ids.shape[1]].equal(ids)


def test_each_row_stops_at_its_own_end(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    end, seg = tokenizer.end_of_text, tokenizer.seg
    student = scripted([[65, end, 66, 67], [seg, 70, seg, end], [end, seg, seg, seg]])
    given = inputs_of(questions)
    output = wrapped(student, tokenizer).generate(**given, max_new_tokens=50, return_dict_in_generate=True)
    found = output.sequences[:, given["input_ids"].shape[1] :].tolist()
    assert found == [[65, end, end, end], [seg, 70, seg, end], [end, end, end, end]]
    assert [len(masks) for masks in output.masks] == [0, 2, 0]
    assert student.calls == 3


def test_at_most_so_many_tokens(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    """The last of them may be `[SEG]`: it was never fed back, and gets its mask all the same."""
    seg, given = tokenizer.seg, inputs_of(questions[:1])
    script = [[65, 66, seg]]
    for most in (2, 3):
        model = wrapped(scripted(script), tokenizer)
        output = model.generate(**given, max_new_tokens=most, return_dict_in_generate=True)
        assert output.sequences[0, -most:].tolist() == script[0][:most]
        assert check_masks(model, questions[:1], output, given["input_ids"].shape[1]) == most - 2
    with pytest.raises(ValueError, match="`max_new_tokens` must be greater than 0, but is 0"):
        model.generate(**given, max_new_tokens=0)


def test_masks_are_those_of_the_whole_conversation(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    """Masks from the cached prompt and single steps equal those of one pass over everything."""
    end, seg = tokenizer.end_of_text, tokenizer.seg
    model = wrapped(scripted([[65, seg, seg, end], [seg, end], [80, 81, 82, end]]), tokenizer)
    given = inputs_of(questions)
    output = model.generate(**given, max_new_tokens=9, return_dict_in_generate=True)
    assert check_masks(model, questions, output, given["input_ids"].shape[1]) == 3
    assert [tuple(masks.shape) for masks in output.masks] == [(2, 6, 8), (1, 4, 2), (0, 1, 1)]


@pytest.mark.parametrize("alone", [False, True])
def test_a_mask_token_without_an_image_gives_no_mask(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf, *, alone: bool
) -> None:
    rows = questions[2:] if alone else questions[1:]
    model = wrapped(scripted([[tokenizer.seg, tokenizer.end_of_text]] * len(rows)), tokenizer)
    output = model.generate(**inputs_of(rows), max_new_tokens=5, return_dict_in_generate=True)
    assert output.sequences[-1, -2:].tolist() == [tokenizer.seg, tokenizer.end_of_text]
    assert len(output.masks[-1]) == 0
    if not alone:
        assert output.masks[0].shape == (1, 4, 2)


def test_images_of_one_grid_keep_their_own_masks(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    end, seg = tokenizer.end_of_text, tokenizer.seg
    first = questions[0]
    rows = [first, replace(first, patches=first.patches.flip(0)), first]
    model = wrapped(scripted([[end, 65], [seg, end], [seg, end]]), tokenizer)
    given = inputs_of(rows)
    output = model.generate(**given, max_new_tokens=5, return_dict_in_generate=True)
    assert check_masks(model, rows, output, given["input_ids"].shape[1]) == 2
    assert (output.masks[1] - output.masks[2]).abs().max() > 1e-2


@pytest.fixture
def several(processor: Processor, picture: MakePicture) -> list[EncodedRow]:
    """Three pictures in a row, two of one grid; one picture; two turns, of which the second has another picture."""
    question = Text("<|im_start|>user\nwhere is <Prompt0>?<|im_end|>\n")
    answer = Text("It is [SEG].<|endoftext|>", is_answer=True)
    region = np.zeros((16, 16), np.bool_)
    region[3:8, 9:] = True
    pictures = [Picture(picture(16, 16, 5), [(0, region)]), Picture(picture(8, 24, 6)), Picture(picture(16, 16, 7))]
    return [
        processor.encode_parts([*pictures, question]),
        processor.encode_parts([pictures[1], question]),
        processor.encode_parts([pictures[0], question, answer, pictures[1], question]),
    ]


@pytest.mark.parametrize("last_is_seg", [False, True])
def test_a_mask_is_on_the_image_shown_last(
    scripted: Scripted,
    tokenizer: StudentTokenizer,
    several: list[EncodedRow],
    inputs_of: InputsOf,
    *,
    last_is_seg: bool,
) -> None:
    end, seg = tokenizer.end_of_text, tokenizer.seg
    given = inputs_of(several)
    model = wrapped(scripted([[65, seg] if last_is_seg else [seg, end]] * 3), tokenizer)
    output = model.generate(**given, max_new_tokens=2, return_dict_in_generate=True)
    assert [tuple(masks.shape) for masks in output.masks] == [(1, 4, 4), (1, 2, 6), (1, 2, 6)]
    assert check_masks(model, several, output, given["input_ids"].shape[1]) == 3


@pytest.mark.parametrize("returned", [1, 2, 4])
def test_beams(
    model: PixelSailForConditionalGeneration,
    tokenizer: StudentTokenizer,
    questions: list[EncodedRow],
    several: list[EncodedRow],
    inputs_of: InputsOf,
    returned: int,
) -> None:
    """Several images a row, text alone among them; the masks are those of the rows that are returned."""
    rows = [*questions, *several]
    given = inputs_of(rows)
    options = often_seg(tokenizer) | {"num_beams": 4, "max_new_tokens": 8}
    output = model.generate(**given, **options, num_return_sequences=returned)
    repeated = [row for row in rows for _ in range(returned)]
    assert check_masks(model, repeated, output, given["input_ids"].shape[1]) >= 3
    for index, row in enumerate(rows):
        alone = inputs_of([row])
        single = model.generate(**alone, **options, num_return_sequences=returned)
        own = output.sequences[index * returned : (index + 1) * returned, given["input_ids"].shape[1] :]
        found = single.sequences[:, alone["input_ids"].shape[1] :]
        assert own[:, : found.shape[1]].equal(found)
    if returned == 4:
        greedy = model.generate(**given, **(options | {"num_beams": 1}))
        assert not output.sequences[::returned].equal(greedy.sequences)


def test_beams_without_a_cache(
    model: PixelSailForConditionalGeneration,
    tokenizer: StudentTokenizer,
    several: list[EncodedRow],
    inputs_of: InputsOf,
) -> None:
    given = inputs_of(several)
    options = often_seg(tokenizer) | {"num_beams": 2, "max_new_tokens": 6, "num_return_sequences": 2}
    cached, plain = (model.generate(**given, **options, use_cache=use_cache) for use_cache in (True, False))
    assert cached.sequences.equal(plain.sequences)
    for first, second in zip(cached.masks, plain.masks, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_sampling_follows_torchs_seed(
    model: PixelSailForConditionalGeneration,
    tokenizer: StudentTokenizer,
    questions: list[EncodedRow],
    inputs_of: InputsOf,
) -> None:
    given = inputs_of(questions)
    options = often_seg(tokenizer) | {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 8, "top_k": 20}
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        output = model.generate(**given, **options)
        found.append(output.sequences)
        repeated = [row for row in questions for _ in range(3)]
        assert check_masks(model, repeated, output, given["input_ids"].shape[1]) > 0
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])
    assert len({tuple(row) for row in found[0].tolist()}) == 9


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "dynamic"},
        {"past_key_values": "own"},
        {"prompt_lookup_num_tokens": 3},
        {"generation_config": GenerationConfig(max_new_tokens=10)},
        {"generation_config": GenerationConfig(max_new_tokens=10, use_cache=False)},
        {"position_ids": "own"},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_every_way_gives_the_same(
    model: PixelSailForConditionalGeneration,
    tokenizer: StudentTokenizer,
    questions: list[EncodedRow],
    inputs_of: InputsOf,
    options: dict[str, Any],
) -> None:
    rows = questions[:1] if "prompt_lookup_num_tokens" in options else questions
    given = inputs_of(rows)
    expected = model.generate(**given, **often_seg(tokenizer), max_new_tokens=10)
    if "past_key_values" in options:
        options = {"past_key_values": DynamicCache()}
    if "position_ids" in options:
        options = {"position_ids": model.student_inputs(**given).positions}
    if config := options.get("generation_config"):
        config.update(**often_seg(tokenizer))
    else:
        options = options | often_seg(tokenizer) | {"max_new_tokens": 10}
    output = model.generate(**given, **options)
    assert output.sequences.equal(expected.sequences)
    assert sum(map(len, output.masks)) > 0
    for first, second in zip(output.masks, expected.masks, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_a_configuration_of_generation_is_not_changed(
    model: PixelSailForConditionalGeneration, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    config = GenerationConfig(max_new_tokens=3, return_dict_in_generate=True)
    before = config.to_dict()
    output = model.generate(**inputs_of(questions), generation_config=config)
    assert output.sequences.shape[1] == inputs_of(questions)["input_ids"].shape[1] + 3
    assert isinstance(output.past_key_values, AnswerCache)
    assert config.to_dict() == before


def test_the_models_own_configuration_of_generation_counts(
    model: PixelSailForConditionalGeneration, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    model.generation_config.use_cache = False
    output = model.generate(**inputs_of(questions), max_new_tokens=3, return_dict_in_generate=True)
    assert output.past_key_values is None
    model.generation_config.use_cache = None
    model.generation_config.cache_implementation = "dynamic"
    output = model.generate(**inputs_of(questions), max_new_tokens=3, return_dict_in_generate=True)
    assert type(output.past_key_values) is DynamicCache


def test_a_cache_of_fixed_length_is_refused(
    model: PixelSailForConditionalGeneration, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    message = "past_key_values: expected a cache that grows, as DynamicCache does, got StaticCache; leave cache_impl"
    given = inputs_of(questions)
    with pytest.raises(ValueError, match=message):
        model.generate(**given, max_new_tokens=3, cache_implementation="static")
    with pytest.raises(ValueError, match=message):
        model.generate(**given, max_new_tokens=3, past_key_values=StaticCache(config=model.config, max_cache_len=64))
    model.generation_config.cache_implementation = "static"
    with pytest.raises(ValueError, match=message):
        model.generate(**given, max_new_tokens=3)


def test_answers_hold_no_images(
    scripted: Scripted, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(questions[:1])
    for token in never(tokenizer):
        model = wrapped(scripted([[token]]), tokenizer)
        new = model.generate(**given, max_new_tokens=2)[0, -2:].tolist()
        assert token not in new


def test_training_mode_generates_the_same(
    model: PixelSailForConditionalGeneration, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    given = inputs_of(questions)
    expected = model.generate(**given, max_new_tokens=5)
    model.train()
    model.activation_checkpointing_enable()
    assert model.generate(**given, max_new_tokens=5).equal(expected)


def test_half_precision_generates(
    student: PixelSail, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    model = wrapped(student.bfloat16(), tokenizer)
    output = model.generate(**inputs_of(questions), max_new_tokens=8, **often_seg(tokenizer))
    assert {masks.dtype for masks in output.masks} == {torch.float32}


def test_pooled_regions(
    config: StudentConfig, tokenizer: StudentTokenizer, picture: MakePicture, inputs_of: InputsOf
) -> None:
    """In a batch, alone, by beams: each row keeps its own regions."""
    pooled = config.model_copy(update={"visual_prompt": "pooled"})
    model = wrapped(PixelSail(pooled).init_weights(torch.Generator().manual_seed(3)).eval(), tokenizer)
    processor = Processor(pooled, tokenizer)
    region = np.zeros((16, 16), np.bool_)
    region[3:8, 9:] = True
    rows = [
        processor.encode(picture(16, 16, 1), [("what is <Prompt1> or <Prompt0>?", None)], [(1, region), (0, ~region)]),
        processor.encode(None, [("hello", None)]),
        processor.encode(picture(16, 16, 2), [("where is <Prompt0>?", None)], [(0, region)]),
    ]
    given, options = inputs_of(rows), often_seg(tokenizer) | {"max_new_tokens": 8}
    output = model.generate(**given, **options)
    assert check_masks(model, rows, output, given["input_ids"].shape[1]) > 0
    for index, row in enumerate(rows):
        alone = inputs_of([row])
        single = model.generate(**alone, **options)
        end = tokenizer.end_of_text
        assert new_tokens(single, alone, end)[0] == new_tokens(output, given, end)[index]
        assert new_tokens(output, given, end)[index] == recomputed(model.model, row, 8, tokenizer)
    beams = model.generate(**given, **options, num_beams=2, num_return_sequences=2)
    assert check_masks(model, [row for row in rows for _ in range(2)], beams, given["input_ids"].shape[1]) > 0
    del given["pooled_tokens"], given["pooled_patches"]
    assert not model.generate(**given, **options).sequences.equal(output.sequences)


def test_separate_modality_weights(
    config: StudentConfig, tokenizer: StudentTokenizer, questions: list[EncodedRow], inputs_of: InputsOf
) -> None:
    separate = config.model_copy(update={"modality_weights": "separate"})
    model = wrapped(PixelSail(separate).init_weights(torch.Generator().manual_seed(3)).eval(), tokenizer)
    given, end = inputs_of(questions), tokenizer.end_of_text
    output = model.generate(**given, max_new_tokens=10, **often_seg(tokenizer))
    for row, tokens in zip(questions, new_tokens(output, given, end), strict=True):
        assert tokens == recomputed(model.model, row, 10, tokenizer)
    assert check_masks(model, questions, output, given["input_ids"].shape[1]) > 0


def test_a_streamer_gets_the_final_text(
    model: PixelSailForConditionalGeneration,
    hf_processor: PixelSailProcessor,
    tokenizer: StudentTokenizer,
    questions: list[EncodedRow],
    inputs_of: InputsOf,
) -> None:
    for row in questions:
        given = inputs_of([row])
        streamer = TextIteratorStreamer(hf_processor.tokenizer, skip_prompt=True, timeout=60)
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda given=given, streamer=streamer, found=found: found.append(
                model.generate(**given, **often_seg(tokenizer), max_new_tokens=20, streamer=streamer)
            )
        )
        thread.start()
        pieces = list(streamer)
        thread.join()
        new = found[0].sequences[0, given["input_ids"].shape[1] :].tolist()
        assert "".join(pieces) == tokenizer.decode(new)
        assert len(pieces) > 1


def test_a_second_turn(
    model: PixelSailForConditionalGeneration,
    hf_processor: PixelSailProcessor,
    tokenizer: StudentTokenizer,
    scripted: Scripted,
    picture: MakePicture,
) -> None:
    """The answer among the messages and asked again equals the conversation built afresh, with the cache or without."""
    image = picture(24, 32, 1)
    answer = "It is [SEG]."
    spoken = wrapped(scripted([[*tokenizer.encode(answer), tokenizer.end_of_text]]), tokenizer)
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "where is it?"}]}
    ]
    first = hf_processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    output = spoken.generate(**first, max_new_tokens=30, return_dict_in_generate=True)
    said = tokenizer.decode(output.sequences[0, first["input_ids"].shape[1] :].tolist())
    assert said == answer + "<|endoftext|>"
    messages += [
        {"role": "assistant", "content": [{"type": "text", "text": said.removesuffix("<|endoftext|>")}]},
        {"role": "user", "content": [{"type": "text", "text": "segment the blue ring"}]},
    ]
    second = hf_processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert second["input_ids"][:, : output.sequences.shape[1]].equal(output.sequences)
    row = Processor(model.config.student, tokenizer).encode(
        image, [("where is it?", answer), ("segment the blue ring", None)]
    )
    fresh = model_inputs([row], tokenizer)
    del fresh["labels"]
    assert all(second[name].equal(fresh[name]) for name in fresh)
    expected = model.generate(**fresh, max_new_tokens=10, **often_seg(tokenizer))
    found = model.generate(**second, max_new_tokens=10, **often_seg(tokenizer))
    # Of the same weights, whatever was dictated.
    going_on = model.generate(
        **second, past_key_values=output.past_key_values, max_new_tokens=10, **often_seg(tokenizer)
    )
    assert found.sequences.equal(expected.sequences)
    assert going_on.sequences.equal(expected.sequences)
    for continued, whole, again in zip(going_on.masks, expected.masks, found.masks, strict=True):
        assert again.equal(whole)
        torch.testing.assert_close(continued, whole, rtol=1e-5, atol=1e-5)
    assert check_masks(model, [row], found, len(row.input_ids)) > 0


def test_another_image_behind_a_cache_is_refused(
    model: PixelSailForConditionalGeneration, several: list[EncodedRow], inputs_of: InputsOf
) -> None:
    whole = several[2]
    before = int((whole.prefix == 1).nonzero()[0])
    num_patches = whole.grids[0][0] * whole.grids[0][1]
    first = replace(
        whole,
        patches=whole.patches[:num_patches],
        patch_slots=whole.patch_slots[:num_patches],
        patch_prompt_ids=whole.patch_prompt_ids[:num_patches],
        grids=whole.grids[:1],
        **{
            name: getattr(whole, name)[..., :before]
            for name in ("input_ids", "labels", "positions", "branch", "prefix")
        },
    )
    cache = model(**inputs_of([first]), use_cache=True).past_key_values
    with pytest.raises(
        ValueError, match="expected text behind a filled cache, got an image; start anew with all of it"
    ):
        model.generate(**inputs_of([whole]), past_key_values=cache, max_new_tokens=2)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"input_ids": None}, r"input_ids: expected a tensor \(rows, tokens\) of at least one token, got NoneType"),
        ({"input_ids": [[1, 2]]}, "at least one token, got list"),
        ({"input_ids": torch.tensor([1, 2])}, r"at least one token, got \(2,\)"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, r"at least one token, got \(2, 0\)"),
        ({"image_grids": None}, "images: expected pixel_values and image_grids together"),
        ({"image_grids": torch.tensor([[3, 3], [5, 1]])}, "image 0: expected 3 x 3 <vpatch> and </vision>"),
        (
            {"attention_mask": torch.ones(3, 2, dtype=torch.long)},
            r"attention_mask: expected \(3, \d+\) like input_ids, got \(3, 2\)",
        ),
        ({"max_new_toknes": 3}, "max_new_toknes"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: PixelSailForConditionalGeneration,
    questions: list[EncodedRow],
    inputs_of: InputsOf,
    spoiled: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**(inputs_of(questions) | {"max_new_tokens": 2} | spoiled))


def test_padding_on_the_right_is_refused(
    model: PixelSailForConditionalGeneration, tokenizer: StudentTokenizer, questions: list[EncodedRow]
) -> None:
    inputs, _ = collate(questions, tokenizer.end_of_text)
    with pytest.raises(ValueError, match=r"attention_mask: expected padding on the left, .* got it on the right"):
        model.generate(
            input_ids=inputs.input_ids,
            attention_mask=(inputs.document >= 0).long(),
            pixel_values=inputs.patches,
            image_grids=torch.tensor(inputs.grids),
            max_new_tokens=2,
        )
