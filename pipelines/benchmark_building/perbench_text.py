"""Texts as PerBench's files have them: options behind their question, tags in place of placeholders."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.curation.families.perbench import split_options
from pipelines.curation.steps.texts import SEG, normalise_placeholders

__all__ = ["choice_question", "parsed_question", "tagged_answer", "target_tag"]


def choice_question(question: str, options: Sequence[str]) -> str:
    """A multiple-choice question with its options lettered from A.

    >>> choice_question("What is <region1>?", ("a cup", "a mug"))
    'What is <region1>? A. a cup B. a mug'
    """
    lettered = [f"{chr(ord('A') + place)}. {option}" for place, option in enumerate(options)]
    return " ".join((question, *lettered))


def parsed_question(written: str) -> tuple[str, tuple[str, ...]]:
    """Question and options as the family `perbench` reads them."""
    question, options = split_options(written)
    return normalise_placeholders(question), options


def target_tag(number: int) -> str:
    """The tag that stands for a target in the files, counted from 1.

    >>> target_tag(1)
    '<target1>'
    """
    return f"<target{number}>"


def tagged_answer(answer: str) -> str:
    """An answer with a tag in place of each `[SEG]`.

    >>> tagged_answer("It is [SEG] and [SEG].")
    'It is <target1> and <target2>.'
    """
    pieces = answer.split(SEG)
    return pieces[0] + "".join(f"{target_tag(number)}{piece}" for number, piece in enumerate(pieces[1:], 1))
