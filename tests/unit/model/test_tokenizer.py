"""The student's tokenizer: special tokens, any text, the same result from the same texts."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.tokenizer import StudentTokenizer, special_tokens

SENTENCES = [
    " ".join(words)
    for words in itertools.product(("segment", "find", "mark"), ("the",), ("red", "blue"), ("ring", "square", "cross"))
]


def test_training_depends_on_the_texts_alone() -> None:
    shuffled = SENTENCES * 2
    random.Random(0).shuffle(shuffled)
    first = StudentTokenizer.train(SENTENCES * 2, 320, 4).to_json()
    assert StudentTokenizer.train(iter(SENTENCES * 2), 320, 4).to_json() == first
    assert StudentTokenizer.train(shuffled, 320, 4).to_json() == first
    assert StudentTokenizer.train(["something else"], 320, 4).to_json() != first


def test_frequent_words_become_single_tokens() -> None:
    tokenizer = StudentTokenizer.train(SENTENCES, 400, 4)
    assert len(tokenizer.encode("segment the red ring")) == 4


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_any_text_round_trips(tokenizer: StudentTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from(["[SEG]", "<Prompt0>", "<Prompt2>", "<|endoftext|>", "a ", " é", "\n"]), max_size=8)
)
def test_special_tokens_stay_whole(tokenizer: StudentTokenizer, parts: list[str]) -> None:
    ids = tokenizer.encode("".join(parts))
    assert tokenizer.decode(ids) == "".join(parts)
    assert ids.count(tokenizer.seg) == parts.count("[SEG]")
    assert ids.count(tokenizer.visual_prompts[2]) == parts.count("<Prompt2>")
    assert ids.count(tokenizer.end_of_text) == parts.count("<|endoftext|>")


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special_tokens(3)])
def test_every_special_token_is_one_id(tokenizer: StudentTokenizer, token: str) -> None:
    ids = tokenizer.encode(f"a{token}b")
    assert [tokenizer.decode([i]) for i in ids] == ["a", token, "b"]


def test_a_prompt_without_a_token_is_plain_text(tokenizer: StudentTokenizer) -> None:
    assert len(tokenizer.encode("<Prompt3>")) > 1
    assert len(tokenizer.visual_prompts) == 3


def test_special_tokens_stand_behind_the_vocabulary(tokenizer: StudentTokenizer) -> None:
    ids = [tokenizer.encode(token)[0] for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *special_tokens(3))]
    assert ids == list(range(tokenizer.vocab_size - len(ids), tokenizer.vocab_size))


def test_json_round_trip(tokenizer: StudentTokenizer) -> None:
    copy = StudentTokenizer.from_json(tokenizer.to_json(), 3)
    assert copy.to_json() == tokenizer.to_json()
    assert copy.vocab_size == tokenizer.vocab_size
    assert (copy.seg, copy.end_of_text) == (tokenizer.seg, tokenizer.end_of_text)
    assert (copy.vision_start, copy.vision_patch, copy.vision_end) == (
        tokenizer.vision_start,
        tokenizer.vision_patch,
        tokenizer.vision_end,
    )
    assert copy.encode("It is [SEG].") == tokenizer.encode("It is [SEG].")


def test_the_bound_is_kept_and_must_hold_all_bytes() -> None:
    smallest = 256 + 3 + len(special_tokens(2))
    assert StudentTokenizer.train(SENTENCES, smallest, 2).vocab_size == smallest
    assert StudentTokenizer.train(SENTENCES, smallest + 7, 2).vocab_size == smallest + 7
    assert StudentTokenizer.train(["ab"], 1000, 2).vocab_size < 300
    with pytest.raises(ValueError, match=f"vocab_size: expected at least {smallest}, got {smallest - 1}"):
        StudentTokenizer.train(SENTENCES, smallest - 1, 2)
