"""From facts to a conversation with its mask targets: wordings, prompt tokens and order are drawn here.

What is drawn depends on samples and on the size of the image alone, so that a step can be planned
without a picture; masks are decoded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import SEG, name_prompts
from model.visual_prompt import largest_first
from model.wordings import WordingStyle, answer_of, question_of
from pipelines.training.mixture import RowSource
from storage.errors import DataError
from storage.masks import decode_masks
from storage.prompts import prompt_mask
from storage.schema import PromptKind, Sample, VisualPrompt

__all__ = ["Conversation", "draw_conversation", "target_masks"]


@dataclass(frozen=True, slots=True)
class _Pointer:
    """A visual prompt of a sample, under the number of its token."""

    number: int
    sample: Sample
    prompt: VisualPrompt

    def mask(self, size_px: tuple[int, int]) -> NDArray[np.bool_]:
        return prompt_mask(self.prompt, self.sample.regions, *size_px)


@dataclass(frozen=True, slots=True)
class _Target:
    """Regions of a sample that one `[SEG]` answers with together."""

    sample: Sample
    regions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Questions, answers, visual prompts and target masks of one row."""

    size_px: tuple[int, int]
    """(height, width) of its image."""
    turns: tuple[tuple[str, str], ...]
    sample_ids: tuple[str, ...]
    pointers: tuple[_Pointer, ...]
    targets: tuple[_Target, ...]

    @property
    def prompt_numbers(self) -> tuple[int, ...]:
        """Numbers of the prompt tokens that point at something."""
        return tuple(pointer.number for pointer in self.pointers)

    @property
    def visual_prompts(self) -> tuple[tuple[int, NDArray[np.bool_]], ...]:
        """(number of the prompt token, mask) pairs, largest first; painted anew at each call."""
        return tuple(largest_first([(pointer.number, pointer.mask(self.size_px)) for pointer in self.pointers]))


def target_masks(conversations: Sequence[Conversation]) -> list[NDArray[np.uint8]]:
    """(masks, height, width) of each conversation, one per `[SEG]` of the answers."""
    # Turns on one image share its regions; what is decoded together costs less.
    wanted = {
        (stored.height, stored.width, stored.counts): stored
        for conversation in conversations
        for target in conversation.targets
        for stored in (target.sample.regions[index].mask for index in target.regions)
    }
    decoded = dict(zip(wanted, decode_masks(list(wanted.values())), strict=True))
    found: list[NDArray[np.uint8]] = []
    for conversation in conversations:
        masks = np.zeros((len(conversation.targets), *conversation.size_px), np.bool_)
        for mask, target in zip(masks, conversation.targets, strict=True):
            for index in target.regions:
                stored = target.sample.regions[index].mask
                mask |= decoded[stored.height, stored.width, stored.counts]
        found.append(masks.view(np.uint8))
    return found


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
    pointers: list[_Pointer] = []
    targets: list[_Target] = []
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
            new = _Pointer(-1, sample, prompt)
            # One object has one prompt, however many turns point at it: painted twice, the first would be lost.
            number = next((known.number for known in pointers if _same_place(known, new, size_px)), None)
            if number is None or number in own:
                number = numbers.pop()
                pointers.append(_Pointer(number, sample, prompt))
            own.append(number)
        sample_ids.append(sample.sample_id)
        for index in turn_indices:
            turns.append(_wording(sample, index, own, style, rng))
            targets += [_Target(sample, target) for target in sample.turns[index].targets]
        if own and turn_indices and rng.random() < absent_prompt_share:
            absent = numbers.pop(int(rng.integers(len(numbers))))
            question = name_prompts(question_of(sample, turn_indices[0], rng, style), [absent] * len(own))
            turns.append((question, f"<Prompt{absent}> is not in the image."))
    return Conversation(size_px, tuple(turns), tuple(sample_ids), tuple(pointers), tuple(targets))


def _same_place(one: _Pointer, other: _Pointer, size_px: tuple[int, int]) -> bool:
    """Whether two prompts cover the same pixels; painted only where what they say doesn't tell."""
    if one.prompt.kind is other.prompt.kind is PromptKind.MASK:
        if one.prompt.region is None or other.prompt.region is None:
            return False
        return one.sample.regions[one.prompt.region].mask == other.sample.regions[other.prompt.region].mask
    return one.prompt == other.prompt or np.array_equal(one.mask(size_px), other.mask(size_px))


def _draw_samples(source: RowSource, rng: np.random.Generator) -> list[tuple[Sample, list[int]]]:
    if not source.samples:
        return []
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
