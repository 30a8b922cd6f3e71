"""Sentences that frame the facts of a sample as questions and answers.

Facts never change; the wording is drawn for each use from a generator, so that epochs differ.
Without a generator the first wording of the list stands, which is what evaluation asks with.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

import numpy as np

from model.tokenizer import SEG
from storage.schema import Sample, Task

__all__ = ["WordingStyle", "answer_of", "example_texts", "question_of"]

WordingStyle = Literal["short", "varied"]

_NO_TARGET = f"No target {SEG}."

_QUESTIONS: dict[WordingStyle, dict[Task, tuple[str, ...]]] = {
    "short": {
        Task.REFERRING: ("{text}",),
        Task.SEMANTIC: ("semantic: {text}",),
        Task.INSTANCE: ("instance: {text}",),
        Task.CATEGORY: ("name <region1>",),
        Task.DESCRIPTION: ("describe <region1>",),
        Task.CAPTION: ("describe the image",),
        Task.GROUNDED_CAPTION: ("describe the image with masks",),
    },
    "varied": {
        Task.REFERRING: (
            "Please segment {text} in this image.",
            "Can you find {text} and give its mask?",
            "Which pixels belong to {text}?",
            "Mark {text} in the picture.",
            "I am looking for {text}. Where is it?",
        ),
        Task.SEMANTIC: (
            "Please segment {text}. Segmentation in the semantic mode.",
            "Which pixels show {text}? Segmentation in the semantic mode.",
            "Give one mask for all of {text}. Segmentation in the semantic mode.",
        ),
        Task.INSTANCE: (
            "Please segment every {text}. Segmentation in the instance mode.",
            "Give one mask for each {text}. Segmentation in the instance mode.",
            "Find each {text} in the picture. Segmentation in the instance mode.",
        ),
        Task.CATEGORY: (
            "What is the class of <region1>?",
            "Name the category of <region1>.",
            "Which kind of thing is <region1>?",
        ),
        Task.DESCRIPTION: (
            "Please describe <region1> in detail.",
            "What can you say about <region1>?",
            "Tell me how <region1> looks.",
        ),
        Task.CAPTION: ("Please describe this image.", "What does the picture show?"),
        Task.GROUNDED_CAPTION: (
            "Describe the image and give a mask for each phrase.",
            "What does the picture show? Please interleave masks with your answer.",
        ),
    },
}
_SEG_ANSWERS: dict[WordingStyle, tuple[str, ...]] = {
    "short": (SEG,),
    "varied": (f"It is {SEG}.", f"Sure, {SEG}.", f"Here it is: {SEG}.", f"{SEG}."),
}
_FREE_QUESTION = ("{text}",)


def question_of(
    sample: Sample, turn_index: int, rng: np.random.Generator | None = None, style: WordingStyle = "varied"
) -> str:
    """The user's side of a turn; `<region1>` ... stand for the sample's visual prompts.

    Args:
        sample: the facts.
        turn_index: which of its turns.
        rng: draws the wording; None takes the first one.
        style: the set of sentences.
    """
    turn = sample.turns[turn_index]
    wordings = _QUESTIONS[style].get(sample.task, _FREE_QUESTION)
    question = _draw(wordings, rng).replace("{text}", turn.text)
    if turn.options:
        letters = [*ascii_uppercase, *map(str, range(len(ascii_uppercase) + 1, len(turn.options) + 1))]
        question += "".join(f" ({letter}) {option}" for letter, option in zip(letters, turn.options, strict=False))
    return question


def answer_of(
    sample: Sample, turn_index: int, rng: np.random.Generator | None = None, style: WordingStyle = "varied"
) -> str:
    """The assistant's side of a turn, with one `[SEG]` per target."""
    turn = sample.turns[turn_index]
    if turn.answer is not None:
        return turn.answer
    if not turn.targets:
        raise ValueError(f"sample {sample.sample_id}, turn {turn_index}: expected an answer or targets, got neither")
    if not any(turn.targets):
        return _NO_TARGET
    if len(turn.targets) == 1:
        return _draw(_SEG_ANSWERS[style], rng)
    return " ".join([SEG] * len(turn.targets)) + "."


def example_texts(style: WordingStyle) -> list[str]:
    """Every sentence of a set, for the training of a tokenizer."""
    texts = [wording for wordings in _QUESTIONS[style].values() for wording in wordings]
    return [text.replace("{text}", "") for text in [*texts, *_SEG_ANSWERS[style], _NO_TARGET, "user\n"]]


def _draw(wordings: Sequence[str], rng: np.random.Generator | None) -> str:
    return wordings[0 if rng is None else int(rng.integers(len(wordings)))]
