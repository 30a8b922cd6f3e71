"""Students that are tried by hand: one question at a time, timed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.predictor import Answer
from model.wordings import WordingStyle, question_of
from storage.errors import UsageError
from storage.schema import Sample, Task, Turn

__all__ = ["Answering", "Ask", "Asking", "Busy", "Tried", "TriedStudent", "question"]

_MAX_WAITING = 6
"""Questions that wait while one is answered; more would only stand in each other's way."""


class Ask(StrEnum):
    """What is wanted of the student; all but `FREE` is put in the words that it was trained on."""

    FIND = "find"
    """The mask of what the words mean."""
    DESCRIBE = "describe"
    """A description of the region."""
    NAME = "name"
    """The class of the region."""
    FREE = "free"
    """The words are the question."""
    SAMPLE = "sample"
    """What a sample of the corpus asks, in its task."""


_TASKS = {Ask.FIND: Task.REFERRING, Ask.DESCRIBE: Task.DESCRIPTION, Ask.NAME: Task.CATEGORY}


class Busy(UsageError):
    """Too many questions wait already."""


class Answering(Protocol):
    """Whoever answers; `model.predictor.Predictor` is one."""

    def predict(self, image: object, text: str, prompts: Sequence[object] = (), max_new_tokens: int = 64) -> Answer:
        """Answers one question."""
        ...


@dataclass(frozen=True, slots=True)
class TriedStudent:
    """A student with its name and the set of sentences that it was trained on."""

    name: str
    predictor: Answering
    wordings: WordingStyle


@dataclass(frozen=True, slots=True)
class Tried:
    """An answer, how long the student took for it, and how long it waited for its turn, in s."""

    answer: Answer
    took_s: float
    waited_s: float


def question(ask: Ask, words: str, style: WordingStyle) -> str:
    """What a student is asked.

    Args:
        ask: what is wanted; a sample has a question of its own.
        words: what is looked for, or the whole question.
        style: the student's set of sentences.

    Raises:
        UsageError: words are missing that it needs.
    """
    words = " ".join(words.split())
    if not words and ask in (Ask.FIND, Ask.FREE):
        raise UsageError("words: expected some, got none; write what is looked for, or choose to describe a region")
    if ask is Ask.FREE:
        return words
    fact = Sample(
        sample_id="",
        image_id=None,
        family="",
        task=_TASKS[ask],
        split="",
        source_file="",
        locator="",
        turns=(Turn(text=words),),
    )
    return question_of(fact, 0, None, style)


class Asking:
    """Puts questions to students one after another, so that two of them don't slow each other down.

    Args:
        students: who can be asked.
    """

    def __init__(self, students: Sequence[TriedStudent]) -> None:
        self.students = tuple(students)
        self._turn, self._count = threading.Lock(), threading.Lock()
        self._present = 0

    def ask(
        self,
        student: int,
        pixels: NDArray[np.uint8],
        text: str,
        regions: Sequence[NDArray[np.bool_]],
        max_new_tokens: int,
    ) -> Tried:
        """An answer, once it is this question's turn.

        Args:
            student: number of who is asked.
            pixels: the picture, see `model.pictures.as_rgb`.
            text: the question, as `Predictor.predict` takes it.
            regions: what `<region1>` and so on stand for.
            max_new_tokens: upper bound of the answer.

        Raises:
            Busy: too many wait.
            ValueError: as `Predictor.predict`.
        """
        with self._count:
            if self._present > _MAX_WAITING:
                raise Busy(f"expected at most {_MAX_WAITING} questions that wait, got one more; ask again in a while")
            self._present += 1
        try:
            came = time.monotonic()
            with self._turn:
                begun = time.monotonic()
                answer = self.students[student].predictor.predict(pixels, text, regions, max_new_tokens)
                return Tried(answer, time.monotonic() - begun, begun - came)
        finally:
            with self._count:
                self._present -= 1
