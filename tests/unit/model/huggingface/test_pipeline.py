"""The student in transformers' pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from model.huggingface import PixelSailForConditionalGeneration, PixelSailProcessor
from model.predictor import Predictor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer

MakePicture = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def image(picture: MakePicture) -> Image.Image:
    return Image.fromarray(picture(20, 30))


def chat(image: Image.Image, text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def test_a_chat_with_a_picture(
    model: PixelSailForConditionalGeneration,
    hf_processor: PixelSailProcessor,
    student: PixelSail,
    tokenizer: StudentTokenizer,
    image: Image.Image,
) -> None:
    asks = pipeline("image-text-to-text", model=model, processor=hf_processor)
    expected = Predictor(student, tokenizer).predict(image, "what is it?", max_new_tokens=8).text
    options: dict[str, Any] = {"max_new_tokens": 8, "skip_special_tokens": False}
    (found,) = asks(text=chat(image, "what is it?"), return_full_text=False, **options)
    assert found["generated_text"].removesuffix("<|endoftext|>") == expected
    (whole,) = asks(text=chat(image, "what is it?"), **options)
    assert whole["generated_text"][-1] == {"role": "assistant", "content": found["generated_text"]}


def test_several_chats(
    model: PixelSailForConditionalGeneration, hf_processor: PixelSailProcessor, image: Image.Image
) -> None:
    asks = pipeline("image-text-to-text", model=model, processor=hf_processor)
    chats = [chat(image, "what is it?"), [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]]
    found = asks(text=chats, return_full_text=False, max_new_tokens=5)
    alone = [asks(text=each, return_full_text=False, max_new_tokens=5) for each in chats]
    assert found == alone


def test_an_answer_that_goes_on(
    scripted: Any, tokenizer: StudentTokenizer, hf_processor: PixelSailProcessor, image: Image.Image
) -> None:
    student = scripted([[*tokenizer.encode(" [SEG]."), tokenizer.end_of_text]])
    model = PixelSailForConditionalGeneration.of(student, tokenizer)
    asks = pipeline("image-text-to-text", model=model, processor=hf_processor)
    begun = [*chat(image, "where?"), {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    (found,) = asks(text=begun, max_new_tokens=8, return_full_text=False, skip_special_tokens=False)
    assert found["generated_text"] == " [SEG].<|endoftext|>"
    (shown,) = asks(text=begun, max_new_tokens=8, return_full_text=False)
    assert shown["generated_text"] == " ."  # special tokens are left out unless asked for, `[SEG]` among them


def test_from_a_folder(folder: Path, image: Image.Image, logged: list[str]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    asks = pipeline("image-text-to-text", model=model, processor=AutoProcessor.from_pretrained(folder))
    by_name = pipeline("image-text-to-text", model=str(folder))
    answers = [each(text=chat(image, "what?"), max_new_tokens=5, return_full_text=False) for each in (asks, by_name)]
    assert answers[0][0]["generated_text"] == answers[1][0]["generated_text"]
    assert logged == []
