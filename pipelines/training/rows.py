"""From facts to a conversation with its mask targets: wordings, prompt tokens and order are drawn here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import SEG, name_prompts
from model.visual_prompt import largest_first
from model.wordings import WordingStyle, answer_of, question_of
from pipelines.training.mixture import RowSource
from storage.errors import DataError
from storage.masks import decode_mask
from storage.prompts import prompt_mask
from storage.schema import Sample

__all__ = ["Conversation", "draw_conversation"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Questions, answers, visual prompts and target masks of one row."""

    turns: tuple[tuple[str, str], ...]
    visual_prompts: tuple[tuple[int, NDArray[np.bool_]], ...]
    """(number of the prompt token, mask) pairs, largest first."""
    masks: NDArray[np.uint8]
    """(masks, height, width), one per `[SEG]` of the answers."""
    sample_ids: tuple[str, ...]


def draw_conversation(
    source: RowSource,
    size_px: tuple[int, int],
    num_prompt_tokens: int,
    absent_prompt_share: float,
    style: WordingStyle,
    rng: np.random.Generator,
) -> Conversation:
    """Draws one conversation of a source.

    Args:
        source: samples of one image.
        size_px: (height, width) of the image.
        num_prompt_tokens: visual-prompt tokens that the student has.
        absent_prompt_share: share of prompt turns that ask for a prompt that isn't there.
        style: the set of wordings.
        rng: draws turns, wordings and prompt numbers.

    Raises:
        DataError: more visual prompts than prompt tokens in one sample.
    """
    numbers = [int(number) for number in rng.permutation(num_prompt_tokens)]
    turns: list[tuple[str, str]] = []
    prompts: list[tuple[int, NDArray[np.bool_]]] = []
    masks: list[NDArray[np.bool_]] = []
    sample_ids: list[str] = []
    for sample, turn_indices in _draw_samples(source, rng):
        if len(sample.prompts) >= len(numbers) and sample.prompts:
            if turns:
                break
            raise DataError(
                f"sample {sample.sample_id}: expected fewer than {num_prompt_tokens} visual prompts, got "
                f"{len(sample.prompts)}; raise student.num_visual_prompts"
            )
        own: list[int] = []
        for prompt in sample.prompts:
            mask = prompt_mask(prompt, sample.regions, *size_px)
            # One object has one prompt, however many turns point at it: painted twice, the first would be lost.
            number = next((number for number, painted in prompts if np.array_equal(painted, mask)), None)
            if number is None or number in own:
                number = numbers.pop()
                prompts.append((number, mask))
            own.append(number)
        sample_ids.append(sample.sample_id)
        for index in turn_indices:
            turns.append(_wording(sample, index, own, style, rng))
            masks += [_target(sample, target, size_px) for target in sample.turns[index].targets]
        if own and turn_indices and rng.random() < absent_prompt_share:
            absent = numbers.pop(int(rng.integers(len(numbers))))
            question = name_prompts(question_of(sample, turn_indices[0], rng, style), [absent] * len(own))
            turns.append((question, f"<Prompt{absent}> is not in the image."))
    stacked = np.stack(masks) if masks else np.zeros((0, *size_px), np.bool_)
    return Conversation(tuple(turns), tuple(largest_first(prompts)), stacked.view(np.uint8), tuple(sample_ids))


def _draw_samples(source: RowSource, rng: np.random.Generator) -> list[tuple[Sample, list[int]]]:
    if len(source.samples) == 1 and len(source.samples[0].turns) != 1:
        return [(source.samples[0], list(range(len(source.samples[0].turns))))]
    replace = len(source.samples) < source.num_turns
    num_turns = source.num_turns if len(source.samples) > 1 else 1
    chances = None if source.weights is None else np.asarray(source.weights) / sum(source.weights)
    chosen = rng.choice(len(source.samples), num_turns, replace=replace and num_turns > 1, p=chances)
    return [(source.samples[int(index)], [0]) for index in chosen]


def _wording(
    sample: Sample, index: int, numbers: list[int], style: WordingStyle, rng: np.random.Generator
) -> tuple[str, str]:
    answer = answer_of(sample, index, rng, style)
    expected = len(sample.turns[index].targets)
    if answer.count(SEG) != expected:
        raise DataError(
            f"sample {sample.sample_id}, turn {index}: expected {expected} {SEG} in the answer, got {answer.count(SEG)}"
        )
    return name_prompts(question_of(sample, index, rng, style), numbers), name_prompts(answer, numbers)


def _target(sample: Sample, target: tuple[int, ...], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    if not target:
        return np.zeros(size_px, np.bool_)
    return np.logical_or.reduce([decode_mask(sample.regions[index].mask) for index in target])
