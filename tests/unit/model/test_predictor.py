"""Checkpoints there and back, and answers in words and masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from model.generate import generate
from model.predictor import Predictor, Request, checkpoint_files, name_prompts
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.errors import ObjectNotFound
from storage.objects import Objects

Scripted = Callable[[list[list[int]]], Any]
"""Makes a student whose next tokens are dictated, row by row; `calls` counts them."""
Picture = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def checkpoint(student: PixelSail, tokenizer: StudentTokenizer, request: pytest.FixtureRequest) -> Objects:
    objects = Objects.open(f"memory://{request.node.name.replace('[', '-').strip(']')}/checkpoint")
    for name, data in checkpoint_files(student, tokenizer).items():
        objects.put(name, data)
    return objects


@pytest.fixture
def requests(picture: Picture) -> list[Request]:
    prompt = np.zeros((20, 30), np.bool_)
    prompt[3:9, 4:20] = True
    return [
        Request(Image.fromarray(picture(24, 32, 1)), "segment the ring"),
        Request(Image.fromarray(picture(20, 30, 2)), "what is <region1> beside <region2>?", (prompt, ~prompt)),
        Request(Image.fromarray(picture(9, 70, 3)), "segment the red square left of the ring"),
    ]


def test_a_checkpoint_is_three_plain_files(student: PixelSail, tokenizer: StudentTokenizer) -> None:
    files = checkpoint_files(student, tokenizer)
    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert json.loads(files["config.json"])["vocab_size"] == tokenizer.vocab_size
    assert files == checkpoint_files(student, tokenizer)


def test_a_loaded_student_answers_as_the_saved_one(
    student: PixelSail, tokenizer: StudentTokenizer, checkpoint: Objects, requests: list[Request]
) -> None:
    loaded = Predictor.load(checkpoint)
    assert loaded.model.config == student.config
    assert not loaded.model.training
    weights = loaded.model.state_dict()
    assert all(weights[name].equal(tensor) for name, tensor in student.state_dict().items())
    before = Predictor(student, tokenizer).answer(requests, max_new_tokens=6)
    after = loaded.answer(requests, max_new_tokens=6)
    assert [answer.text for answer in before] == [answer.text for answer in after]
    assert len({answer.text for answer in after}) > 1


def test_untrained_student_is_another(student: PixelSail, checkpoint: Objects, requests: list[Request]) -> None:
    untrained, again = Predictor.load_untrained(checkpoint, seed=1), Predictor.load_untrained(checkpoint, seed=1)
    assert not untrained.model.embed_tokens.weight.equal(student.embed_tokens.weight)
    assert untrained.model.embed_tokens.weight.equal(again.model.embed_tokens.weight)
    assert untrained.tokenizer.to_json() == Predictor.load(checkpoint).tokenizer.to_json()
    texts = [answer.text for answer in untrained.answer(requests, 6)]
    assert texts == [answer.text for answer in again.answer(requests, 6)]
    assert texts != [answer.text for answer in Predictor.load(checkpoint).answer(requests, 6)]


def test_absent_checkpoint_is_named(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ObjectNotFound, match=r"config\.json: no such object"):
        Predictor.load(Objects.open(f"memory://{request.node.name}/nothing"))


def test_masks_have_the_size_of_their_image(
    scripted: Scripted, tokenizer: StudentTokenizer, requests: list[Request]
) -> None:
    seg, end = tokenizer.seg, tokenizer.end_of_text
    predictor = Predictor(scripted([[seg, seg, end]] * 3), tokenizer)
    for answer, request in zip(predictor.answer(requests), requests, strict=True):
        assert answer.text == "[SEG][SEG]"
        assert len(answer.masks) == len(answer.scores) == 2
        for mask, score in zip(answer.masks, answer.scores, strict=True):
            assert mask.dtype == np.bool_
            assert mask.shape == (request.image.height, request.image.width)
            assert 0 <= score <= 1


def test_masks_are_logits_above_zero_at_image_size(
    scripted: Scripted, tokenizer: StudentTokenizer, requests: list[Request]
) -> None:
    script = [[tokenizer.seg, tokenizer.end_of_text]]
    predictor = Predictor(scripted(script), tokenizer)
    answer = predictor.answer(requests[2:])[0]
    image = requests[2].image
    row = predictor.processor.encode(np.asarray(image), [(requests[2].text, None)])
    logits = generate(scripted(script), tokenizer, [row], 5)[0].mask_logits
    logits = functional.interpolate(logits[None], size=(image.height, image.width), mode="bilinear")[0, 0]
    np.testing.assert_array_equal(answer.masks[0], (logits > 0).numpy())
    inside = logits[logits > 0].sigmoid()
    assert answer.scores[0] == pytest.approx(inside.mean().item() if len(inside) else 0.0, abs=1e-5)


def test_without_masks_there_is_text_alone(
    scripted: Scripted, tokenizer: StudentTokenizer, requests: list[Request]
) -> None:
    words = tokenizer.encode("a red ring")
    answer = Predictor(scripted([[*words, tokenizer.end_of_text]]), tokenizer).answer(requests[:1])[0]
    assert (answer.text, answer.masks, answer.scores) == ("a red ring", (), ())


def test_many_requests_keep_their_order(student: PixelSail, tokenizer: StudentTokenizer, picture: Picture) -> None:
    """More than one batch, rows of many lengths: each gets its own answer."""
    predictor = Predictor(student, tokenizer)
    image = Image.fromarray(picture(8, 16))
    requests = [Request(image, "a ring " * (number % 7) + str(number)) for number in range(40)]
    together = [answer.text for answer in predictor.answer(requests, 4)]
    for number in (0, 6, 13, 39):
        assert predictor.answer([requests[number]], 4)[0].text == together[number]
    assert len(set(together)) > 3
    assert predictor.answer([]) == []


def test_prompts_reach_the_student(student: PixelSail, tokenizer: StudentTokenizer, picture: Picture) -> None:
    predictor = Predictor(student, tokenizer)
    image = Image.fromarray(picture(32, 32))
    left = np.zeros((32, 32), np.bool_)
    left[:, :16] = True
    texts = {predictor.answer([Request(image, "describe <region1>", (prompt,))], 8)[0].text for prompt in (left, ~left)}
    assert len(texts) == 2


def test_more_prompts_than_tokens_are_refused(
    student: PixelSail, tokenizer: StudentTokenizer, picture: Picture
) -> None:
    request = Request(Image.fromarray(picture(8, 8)), "describe <region1>", tuple(np.ones((4, 8, 8), np.bool_)))
    with pytest.raises(ValueError, match="expected numbers from 0 to 2, got 3"):
        Predictor(student, tokenizer).answer([request])


def test_grey_pictures_are_read_as_colour(student: PixelSail, tokenizer: StudentTokenizer, picture: Picture) -> None:
    grey = Image.fromarray(picture(16, 16)[..., 0])
    predictor = Predictor(student, tokenizer)
    texts = [predictor.answer([Request(image, "describe", ())], 5)[0].text for image in (grey, grey.convert("RGB"))]
    assert texts[0] == texts[1]


def test_placeholders_become_prompt_tokens() -> None:
    assert name_prompts("<region2> and <region1>", [7, 3]) == "<Prompt3> and <Prompt7>"
    assert name_prompts("no region", []) == "no region"


def test_the_tenth_region_is_not_the_first() -> None:
    numbers = list(range(20, 31))
    assert name_prompts("<region1> <region10> <region11>", numbers) == "<Prompt20> <Prompt29> <Prompt30>"


@pytest.mark.parametrize("text", ["<region0>", "<region3>", "<region12>"])
def test_placeholder_without_a_prompt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}: expected one of 2 visual prompts, got number"):
        name_prompts(f"what is {text}?", [0, 1])


def test_weights_survive_as_float32(checkpoint: Objects) -> None:
    assert {p.dtype for p in Predictor.load(checkpoint).model.parameters()} == {torch.float32}
