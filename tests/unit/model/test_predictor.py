"""Checkpoints there and back, and answers in words and masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from model.checkpoint import checkpoint_files
from model.config import StudentConfig
from model.huggingface import PixelSailForConditionalGeneration
from model.huggingface.processing import model_inputs
from model.predictor import Answer, Predictor, Request
from model.processor import Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer, name_prompts
from storage.errors import DataError, ObjectNotFound
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


def same(first: Answer, second: Answer) -> bool:
    return (
        (first.text, first.scores) == (second.text, second.scores)
        and len(first.masks) == len(second.masks)
        and all(np.array_equal(left, right) for left, right in zip(first.masks, second.masks, strict=True))
    )


def test_a_checkpoint_is_plain_files(student: PixelSail, tokenizer: StudentTokenizer) -> None:
    """Weights as safetensors, a template, and JSON that names no Python module."""
    files = checkpoint_files(student, tokenizer)
    assert sorted(files) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads(files["config.json"])["vocab_size"] == tokenizer.vocab_size
    assert not any("auto_map" in json.loads(data) for name, data in files.items() if name.endswith(".json"))
    assert files == checkpoint_files(student, tokenizer)


def test_a_loaded_student_answers_as_the_saved_one(
    student: PixelSail, tokenizer: StudentTokenizer, checkpoint: Objects, requests: list[Request]
) -> None:
    loaded = Predictor.load(checkpoint)
    assert loaded.model.model.config == student.config
    assert not loaded.model.training
    assert not loaded.model.model.training
    weights = loaded.model.model.state_dict()
    assert all(weights[name].equal(tensor) for name, tensor in student.state_dict().items())
    before = Predictor(student, tokenizer).answer(requests, max_new_tokens=6)
    after = loaded.answer(requests, max_new_tokens=6)
    assert all(same(*pair) for pair in zip(before, after, strict=True))
    assert len({answer.text for answer in after}) > 1


def test_a_local_folder_and_a_url(
    student: PixelSail, tokenizer: StudentTokenizer, tmp_path: Path, checkpoint: Objects, requests: list[Request]
) -> None:
    for name, data in checkpoint_files(student, tokenizer).items():
        (tmp_path / name).write_bytes(data)
    expected = Predictor(student, tokenizer).answer(requests, 4)
    for place in (tmp_path, str(tmp_path), checkpoint.url):
        found = Predictor.from_pretrained(place).answer(requests, 4)
        assert all(same(*pair) for pair in zip(found, expected, strict=True))


def test_what_transformers_saves_is_loaded(
    student: PixelSail, tokenizer: StudentTokenizer, tmp_path: Path, requests: list[Request]
) -> None:
    predictor = Predictor(student, tokenizer)
    predictor.model.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    found = Predictor.from_pretrained(tmp_path).answer(requests, 4)
    assert all(same(*pair) for pair in zip(found, predictor.answer(requests, 4), strict=True))


def test_untrained_student_is_another(student: PixelSail, checkpoint: Objects, requests: list[Request]) -> None:
    untrained, again = Predictor.load_untrained(checkpoint, seed=1), Predictor.load_untrained(checkpoint, seed=1)
    drawn = untrained.model.model.embed_tokens.weight
    assert not drawn.equal(student.embed_tokens.weight)
    assert drawn.equal(again.model.model.embed_tokens.weight)
    assert untrained.tokenizer.to_json() == Predictor.load(checkpoint).tokenizer.to_json()
    texts = [answer.text for answer in untrained.answer(requests, 6)]
    assert texts == [answer.text for answer in again.answer(requests, 6)]
    assert texts != [answer.text for answer in Predictor.load(checkpoint).answer(requests, 6)]


def test_absent_checkpoint_is_named(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ObjectNotFound, match=r"config\.json: no such object"):
        Predictor.load(Objects.open(f"memory://{request.node.name}/nothing"))


def test_another_kind_of_model_is_refused(checkpoint: Objects) -> None:
    checkpoint.put("config.json", json.dumps({"model_type": "qwen2"}).encode())
    message = r"config\.json: expected model_type 'pixel_sail', got 'qwen2'; `sailloft convert` makes a student"
    with pytest.raises(DataError, match=message):
        Predictor.load(checkpoint)


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
    scripted: Scripted, tokenizer: StudentTokenizer, config: StudentConfig, requests: list[Request]
) -> None:
    script = [[tokenizer.seg, tokenizer.end_of_text]]
    answer = Predictor(scripted(script), tokenizer).answer(requests[2:])[0]
    image = requests[2].image
    row = Processor(config, tokenizer).encode(np.asarray(image), [(requests[2].text, None)])
    output = PixelSailForConditionalGeneration.of(scripted(script), tokenizer).generate(
        input_ids=row.input_ids[None],
        pixel_values=row.patches,
        image_grids=torch.tensor(row.grids),
        max_new_tokens=5,
        return_dict_in_generate=True,
    )
    logits = functional.interpolate(output.masks[0][None], size=(image.height, image.width), mode="bilinear")[0, 0]
    np.testing.assert_array_equal(answer.masks[0], (logits > 0).numpy())
    inside = logits[logits > 0].sigmoid()
    assert answer.scores[0] == pytest.approx(inside.mean().item() if len(inside) else 0.0, abs=1e-5)


def test_without_masks_there_is_text_alone(
    scripted: Scripted, tokenizer: StudentTokenizer, requests: list[Request]
) -> None:
    words = tokenizer.encode("a red ring")
    answer = Predictor(scripted([[*words, tokenizer.end_of_text]]), tokenizer).answer(requests[:1])[0]
    assert (answer.text, answer.masks, answer.scores) == ("a red ring", (), ())


def test_at_most_so_many_tokens(scripted: Scripted, tokenizer: StudentTokenizer, requests: list[Request]) -> None:
    """The last of them may be `[SEG]`."""
    words = [*tokenizer.encode("ab"), tokenizer.seg]
    for most, expected in ((1, "a"), (2, "ab"), (3, "ab[SEG]")):
        answer = Predictor(scripted([words]), tokenizer).answer(requests[:1], max_new_tokens=most)[0]
        assert answer.text == expected
        assert len(answer.masks) == (most == 3)


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


def test_one_question_is_answered_as_among_others(
    student: PixelSail, tokenizer: StudentTokenizer, requests: list[Request]
) -> None:
    predictor = Predictor(student, tokenizer)
    together = predictor.answer(requests, 8)
    for request, expected in zip(requests, together, strict=True):
        alone = predictor.predict(request.image, request.text, request.visual_prompts, 8)
        assert alone.text == expected.text
        assert len(alone.masks) == len(expected.masks)


def test_regions_in_other_forms(student: PixelSail, tokenizer: StudentTokenizer, picture: Picture) -> None:
    """A box is the mask that it stands for; arrays and tensors are pictures."""
    predictor = Predictor(student, tokenizer)
    image = picture(32, 32)
    mask = np.zeros((32, 32), np.bool_)
    mask[4:20, 8:16] = True
    expected = predictor.predict(image, "describe <region1>", [mask], 8)
    for form in (Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1)):
        assert same(predictor.predict(form, "describe <Prompt0>", [{"box": (8, 4, 16, 20)}], 8), expected)


@pytest.mark.parametrize("max_new_tokens", [1, 7, 40])
def test_text_comes_in_pieces(
    student: PixelSail, tokenizer: StudentTokenizer, requests: list[Request], max_new_tokens: int
) -> None:
    """Together they are the answer, of a student that says any byte whatever."""
    predictor = Predictor(student, tokenizer)
    for request in requests:
        pieces: list[str] = []
        answer = predictor.predict(*_arguments(request), max_new_tokens, pieces.append)
        assert "".join(pieces) == answer.text
        assert all(pieces)


def _arguments(request: Request) -> tuple[Any, ...]:
    return request.image, request.text, request.visual_prompts


@pytest.mark.parametrize(
    "text", ["", " ", "It is [SEG]. ", "one\ntwo\n\n", "zwölf Boxkämpfer 水是绿的 🙂", "[SEG][SEG]", "a  b <p>c</p> "]
)
def test_pieces_of_any_text(
    scripted: Scripted, tokenizer: StudentTokenizer, requests: list[Request], text: str
) -> None:
    predictor = Predictor(scripted([[*tokenizer.encode(text), tokenizer.end_of_text]]), tokenizer)
    pieces: list[str] = []
    answer = predictor.predict(*_arguments(requests[0]), on_text=pieces.append)
    assert answer.text == "".join(pieces) == text
    assert len(pieces) >= min(len(text.split()), 1)


def test_words_come_one_by_one(scripted: Scripted, tokenizer: StudentTokenizer, requests: list[Request]) -> None:
    script = [*tokenizer.encode("the red square"), tokenizer.end_of_text]
    student = scripted([script])
    calls: list[tuple[int, str]] = []
    Predictor(student, tokenizer).predict(
        *_arguments(requests[0]), on_text=lambda piece: calls.append((student.calls, piece))
    )
    assert [piece for _, piece in calls] == ["the ", "red ", "square"]
    assert calls[0][0] < calls[1][0] < calls[2][0]


def test_more_prompts_than_tokens_are_refused(
    student: PixelSail, tokenizer: StudentTokenizer, picture: Picture
) -> None:
    request = Request(Image.fromarray(picture(8, 8)), "describe <region1>", tuple(np.ones((4, 8, 8), np.bool_)))
    with pytest.raises(
        ValueError, match="visual prompts: expected at most 3, as many as the student has tokens, got 4"
    ):
        Predictor(student, tokenizer).answer([request])


SMALL = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((SMALL, ""), ValueError, "text: expected a question, got ''"),
        ((SMALL, " \n"), ValueError, r"text: expected a question, got ' \\n'"),
        (("a file", "what"), TypeError, "expected a picture .*, got the text 'a file'; open it with PIL"),
        ((SMALL[None], "what"), ValueError, "expected one picture, got a batch"),
        (
            (SMALL, "what", [{"point": (1, 1)}]),
            ValueError,
            "visual prompt 1: expected it named in the text as <region1>, got 'what'",
        ),
        (
            (SMALL, "<region1> <region10>", [{"point": (1, 1)}, {"point": (2, 2)}]),
            ValueError,
            "visual prompt 2: expected it named in the text as <region2>",
        ),
        ((SMALL, "<region1>"), ValueError, "<region1>: expected one of 0 visual prompts, got number 1"),
        ((SMALL, "<Prompt7>"), ValueError, "expected special tokens that the student has .*, got <Prompt7>"),
        (
            (SMALL, "see <vpatch>"),
            ValueError,
            "expected a picture as <vision><vpatch></vision> in the text, got <vpatch>",
        ),
        (
            (SMALL, "<region1>", [{"point": (1, 9)}]),
            ValueError,
            "visual prompt 1: point: expected points inside the picture of 8 x 8 px",
        ),
        ((SMALL, "<region1>", [np.zeros((8, 8))]), ValueError, "visual prompt 1: mask: expected at least one pixel"),
        ((SMALL, "<region1>", ["box"]), TypeError, "visual prompt 1: region: expected a mask"),
        ((SMALL, "<region1>", {"point": (1, 1)}), TypeError, "expected a list of regions, got one dict; put it in a"),
        ((SMALL, "what", [], 0), ValueError, "max_new_tokens: expected at least 1, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_predict_refuses(
    student: PixelSail,
    tokenizer: StudentTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[Any, ...],
    kind: type[Exception],
    message: str,
) -> None:
    """Outside of tests nothing looks at annotations; the errors are our own then."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(kind, match=message):
        Predictor(student, tokenizer).predict(*arguments)


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


def test_a_student_in_training_is_put_into_evaluation(student: PixelSail, tokenizer: StudentTokenizer) -> None:
    predictor = Predictor(student.train(), tokenizer)
    assert not student.training
    assert predictor.model.model is student


def test_an_answer_begins_with_the_words_it_is_given(checkpoint: Objects, requests: list[Request]) -> None:
    predictor = Predictor.load(checkpoint)
    plain = predictor.answer(requests, max_new_tokens=3)
    prefixed = [replace(request, answer_prefix="It is [SEG].") for request in requests]
    mixed = predictor.answer([prefixed[0], *requests[1:]], max_new_tokens=3)
    assert mixed[0].text.startswith("It is [SEG].")
    assert len(mixed[0].masks) >= 1
    assert mixed[0].masks[0].shape == (24, 32)
    (alone,) = predictor.answer([prefixed[0]], max_new_tokens=3)
    assert alone.text == mixed[0].text
    assert alone.scores == pytest.approx(mixed[0].scores, abs=1e-5)
    assert np.mean(alone.masks[0] == mixed[0].masks[0]) > 0.99
    for before, after in zip(plain[1:], mixed[1:], strict=True):
        assert after.text.startswith(before.text)  # those beside it go on as they would, if longer


def test_a_read_answer_costs_what_each_of_its_tokens_costs(
    student: PixelSail, tokenizer: StudentTokenizer, requests: list[Request]
) -> None:
    """Token by token from the logits of each answer alone, and together in one padded batch."""
    predictor = Predictor(student, tokenizer)
    answers = ["a ring", "<region2> is left of <region1>", "it is a small red square"]
    found = predictor.read(requests, answers)
    for request, answer, (nats, num_tokens) in zip(requests, answers, found, strict=True):
        ids = [*tokenizer.encode(name_prompts(answer, [0, 1])), tokenizer.end_of_text]
        row = predictor._encode(request, answer)
        assert row.input_ids[-len(ids) :].tolist() == ids
        inputs = model_inputs([row], tokenizer)
        del inputs["labels"]
        with torch.inference_mode():
            logits = predictor.model(**inputs).logits[0]
        chances = logits[-len(ids) - 1 : -1].double().log_softmax(1)
        assert num_tokens == len(ids)
        assert nats == pytest.approx(-sum(float(chances[place, token]) for place, token in enumerate(ids)), rel=1e-4)
    assert predictor.read([], []) == []


def test_nothing_can_be_read_of_an_empty_answer(
    student: PixelSail, tokenizer: StudentTokenizer, requests: list[Request]
) -> None:
    with pytest.raises(ValueError, match=r"answer: expected words, got ' '"):
        Predictor(student, tokenizer).read(requests[:1], [" "])
