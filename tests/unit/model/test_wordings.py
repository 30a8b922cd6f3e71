"""Sentences around the facts."""

from __future__ import annotations

import numpy as np
import pytest

from model.wordings import WordingStyle, answer_of, example_texts, question_of
from storage.schema import Sample, Task, Turn


def sample(task: Task, *turns: Turn) -> Sample:
    return Sample(
        sample_id="s1",
        image_id="i",
        family="toy",
        task=task,
        split="train",
        turns=turns,
        source_file="toy.json",
        locator="0",
    )


RING = sample(Task.REFERRING, Turn(text="the blue ring", targets=((0, 1),)))
NOTHING = sample(Task.REFERRING, Turn(text="a cow", targets=((),)))
THREE = sample(Task.INSTANCE, Turn(text="ring", targets=((0,), (1,), (2,))))
CHOICE = sample(Task.MULTIPLE_CHOICE, Turn(text="Which is <region1>?", answer="red", options=("red", "blue")))
REASON = sample(
    Task.REASONING, Turn(text="what?", targets=((0,),)), Turn(text="and?", answer="Here [SEG].", targets=((1,),))
)


def test_default_wording_is_stable() -> None:
    """What evaluation asks with; a change of these makes scores of old checkpoints another thing."""
    assert question_of(RING, 0) == "Please segment the blue ring in this image."
    assert question_of(RING, 0, style="short") == "the blue ring"
    assert question_of(THREE, 0) == "Please segment every ring. Segmentation in the instance mode."
    semantic = sample(Task.SEMANTIC, Turn(text="sky", targets=((0,),)))
    assert question_of(semantic, 0) == "Please segment sky. Segmentation in the semantic mode."
    assert question_of(sample(Task.CATEGORY, Turn(text="")), 0) == "What is the class of <region1>?"
    assert question_of(sample(Task.DESCRIPTION, Turn(text="")), 0) == "Please describe <region1> in detail."
    assert question_of(REASON, 1) == "and?"
    assert answer_of(RING, 0) == "It is [SEG]."
    assert answer_of(REASON, 1) == "Here [SEG]."


def test_options_are_lettered() -> None:
    assert question_of(CHOICE, 0) == "Which is <region1>? (A) red (B) blue"


def test_no_option_is_lost() -> None:
    many = tuple(f"option {number}" for number in range(12))
    asked = question_of(sample(Task.MULTIPLE_CHOICE, Turn(text="Which?", answer="option 11", options=many)), 0)
    assert asked.endswith("(K) option 10 (L) option 11")


@pytest.mark.parametrize("style", ["short", "varied"])
def test_answers_hold_one_mask_token_per_target(style: WordingStyle) -> None:
    rng = np.random.default_rng(0)
    for draw in (None, *[rng] * 20):
        assert answer_of(RING, 0, draw, style).count("[SEG]") == 1
        assert answer_of(THREE, 0, draw, style).count("[SEG]") == 3
        assert answer_of(NOTHING, 0, draw, style) == "No target [SEG]."


def test_a_generator_draws_the_wording() -> None:
    def questions(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [question_of(RING, 0, rng) for _ in range(30)]

    assert questions(0) == questions(0) != questions(1)
    assert len(set(questions(0))) == 5
    assert all("the blue ring" in question and "{" not in question for question in questions(0))
    rng = np.random.default_rng(0)
    assert len({answer_of(RING, 0, rng) for _ in range(30)}) == 4


def test_braces_in_an_expression_stay() -> None:
    odd = sample(Task.REFERRING, Turn(text="the {text} sign", targets=((0,),)))
    assert question_of(odd, 0, style="short") == "the {text} sign"


def test_a_turn_without_answer_and_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="sample s1, turn 0: expected an answer or targets, got neither"):
        answer_of(sample(Task.CAPTION, Turn(text="")), 0)


@pytest.mark.parametrize("style", ["short", "varied"])
def test_example_texts_show_every_wording(style: WordingStyle) -> None:
    texts = example_texts(style)
    assert "No target [SEG]." in texts
    assert all("{text}" not in text for text in texts)
    rng = np.random.default_rng(0)
    for drawn in (question_of(sample(Task.CATEGORY, Turn(text="")), 0, rng, style) for _ in range(20)):
        assert drawn in texts
