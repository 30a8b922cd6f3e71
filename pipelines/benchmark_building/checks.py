"""The automatic checks of an item's texts: what they object to, with a code and in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.benchmark_building.perbench_text import choice_question, parsed_question
from pipelines.benchmark_building.records import BenchmarkTask, Code, Finding, ObjectRegion, Texts
from pipelines.benchmark_building.regions import overlaps
from pipelines.benchmark_building.relations import RELATIONS, SUPERLATIVES, relations_in, superlatives_in
from pipelines.curation.steps.texts import SEG, normalise_placeholders, region_token, single_line
from storage.keys import Json

__all__ = ["Limits", "Subject", "check", "normalised"]

_REGION = re.compile(r"<region\d+>")
_DRAWING = re.compile(
    r"\b(?:outlined?|contours?|highlighted|bounding box|marked region|masked?|segmentation|overlay)\b", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_PLAIN_WORDS = frozenset(
    (
        *("a", "an", "the", "of", "to", "in", "on", "at", "is", "are", "it", "its", "that", "which", "this", "one"),
        *("same", "picture", "image", "object", "find", "segment", "please", "only", "there", "as", "near", "and"),
        *("left", "right", "above", "below", "under", "beneath", "side"),
    )
)
"""Words of an expression that say nothing about what is meant beyond the relations that are understood."""
_SHOWS_ANSWER_IOU = 0.5
_MAX_OPTIONS = 8
"""Letters A to H, which the reader of PerBench's files knows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the checks.

    Attributes:
        min_caption_words: of a detailed caption.
        max_caption_words: likewise.
    """

    min_caption_words: int = 12
    max_caption_words: int = 150

    @classmethod
    def of(cls, recipe: Mapping[str, Json]) -> Limits:
        """The bounds that drafts were made with, from their manifest's recipe."""
        low, high = recipe.get("min_caption_words"), recipe.get("max_caption_words")
        if isinstance(low, int) and isinstance(high, int):
            return cls(low, high)
        return cls()


@dataclass(frozen=True, slots=True)
class Subject:
    """What the texts are about.

    Attributes:
        task: of the benchmark.
        prompts: regions that are pointed at.
        targets: regions that are asked for.
        others: the picture's other regions.
    """

    task: BenchmarkTask
    prompts: tuple[ObjectRegion, ...]
    targets: tuple[ObjectRegion, ...] = ()
    others: tuple[ObjectRegion, ...] = ()


def normalised(texts: Texts) -> Texts:
    """Texts as they will be read back: one line each, placeholders in their one spelling.

    >>> normalised(Texts(question=" What is\\n<Region1> ?", options=(" a  cup",))).question
    'What is <region1> ?'
    """
    return Texts(
        caption=single_line(texts.caption),
        question=normalise_placeholders(single_line(texts.question)),
        options=tuple(single_line(option) for option in texts.options),
        right=texts.right,
        answer=single_line(texts.answer),
    )


def check(subject: Subject, texts: Texts, limits: Limits) -> tuple[Finding, ...]:
    """Everything that the checks find in normalised texts, in a fixed order."""
    return tuple(Finding(code=code, detail=detail) for code, detail in _all(subject, texts, limits))


def _all(subject: Subject, texts: Texts, limits: Limits) -> Iterator[tuple[Code, str]]:
    if subject.task is BenchmarkTask.DETAILED_CAPTION:
        yield from _caption(texts.caption, limits)
    elif subject.task is BenchmarkTask.MULTIPLE_CHOICE:
        yield from _choice(texts)
    else:
        yield from _expression(subject, texts)


def _caption(caption: str, limits: Limits) -> Iterator[tuple[Code, str]]:
    words = _words(caption)
    if not words:
        yield Code.TEXT_EMPTY, "caption: expected words, got none"
    elif len(words) < limits.min_caption_words:
        yield (
            Code.CAPTION_SHORT,
            f"caption: expected at least {limits.min_caption_words} words, got {len(words)}",
        )
    elif len(words) > limits.max_caption_words:
        yield Code.CAPTION_LONG, f"caption: expected at most {limits.max_caption_words} words, got {len(words)}"
    if _REGION.search(caption) or SEG in caption:
        yield Code.PLACEHOLDERS, f"caption: expected neither <regionN> nor {SEG}, which only questions and answers have"
    yield from _drawing("caption", caption)


def _choice(texts: Texts) -> Iterator[tuple[Code, str]]:
    if not _words(_bare(texts.question)):
        yield Code.TEXT_EMPTY, "question: expected words, got none"
    if any(not _words(_bare(option)) for option in texts.options):
        yield Code.TEXT_EMPTY, "options: expected words in each, found one without"
    yield from _prompts_named("question", texts.question, 1)
    for what, text in (("question", texts.question), *(("option", option) for option in texts.options)):
        if SEG in text or (what == "option" and _REGION.search(text)):
            yield Code.PLACEHOLDERS, f"{what}: expected no {SEG if SEG in text else '<regionN>'}, found one"
    if not 2 <= len(texts.options) <= _MAX_OPTIONS:
        yield Code.OPTIONS_COUNT, f"options: expected 2 to {_MAX_OPTIONS}, got {len(texts.options)}"
    folded = [_folded(option) for option in texts.options]
    repeated = sorted({option for option in folded if folded.count(option) > 1})
    if repeated:
        yield Code.OPTIONS_REPEAT, f"options: expected different ones, {repeated[0]!r} is there twice"
    if not 0 <= texts.right < len(texts.options):
        yield (
            Code.RIGHT_OPTION,
            f"right: expected the place of one of {len(texts.options)} options, counted from 0, got {texts.right}",
        )
        return
    answer = texts.options[texts.right]
    for place, option in enumerate(texts.options):
        if place != texts.right and answer and answer in option and option != answer:
            yield Code.OPTION_HOLDS_ANSWER, f"options: the wrong one {option!r} holds the right one {answer!r}"
    if _words(answer) and _holds_words(texts.question, answer):
        yield Code.ANSWER_LEAKS, f"question: says the right option, {answer!r}"
    written = choice_question(texts.question, texts.options)
    if parsed_question(written) != (texts.question, texts.options):
        yield (
            Code.FORMAT_UNSAFE,
            "question and options: PerBench's file would be read otherwise; avoid single letters with a full stop, "
            "and commas or semicolons at the end of an option",
        )
    yield from _drawing("question", " ".join((texts.question, *texts.options)))


def _expression(subject: Subject, texts: Texts) -> Iterator[tuple[Code, str]]:
    if not _words(_bare(texts.question)):
        yield Code.TEXT_EMPTY, "expression: expected words, got none"
    yield from _prompts_named("expression", texts.question, len(subject.prompts))
    if SEG in texts.question:
        yield Code.ANSWER_LEAKS, f"expression: expected no {SEG}, which stands for what is to be found"
    num_seg = texts.answer.count(SEG)
    if num_seg != len(subject.targets):
        yield Code.PLACEHOLDERS, f"answer: expected {len(subject.targets)} {SEG}, got {num_seg}"
    unknown = [name for name in _REGION.findall(texts.answer) if name not in _tokens(len(subject.prompts))]
    if unknown:
        yield Code.PLACEHOLDERS, f"answer: {unknown[0]} is no prompt of the expression"
    if re.search(r"<(?:target|mask)\d+>", texts.question + texts.answer):
        yield Code.FORMAT_UNSAFE, "expression or answer: <targetN> and <maskN> are kept for the files; leave them out"
    for target in subject.targets:
        shown = max(overlaps(target, subject.prompts), default=0.0)
        if shown >= _SHOWS_ANSWER_IOU:
            yield Code.ANSWER_LEAKS, f"prompt: overlaps with the target by {shown:.0%}, so it shows the answer"
    yield from _drawing("expression", texts.question)
    if len(subject.targets) == 1 and _words(_bare(texts.question)):
        yield from _uniqueness(subject, texts.question)


def _prompts_named(what: str, text: str, num_prompts: int) -> Iterator[tuple[Code, str]]:
    expected, found = _tokens(num_prompts), list(dict.fromkeys(_REGION.findall(text)))
    if sorted(found) != sorted(expected):
        yield (
            Code.PLACEHOLDERS,
            f"{what}: expected it to name {', '.join(expected)} and no other region, got {', '.join(found) or 'none'}",
        )


def _drawing(what: str, text: str) -> Iterator[tuple[Code, str]]:
    found = _DRAWING.search(text)
    if found:
        yield Code.MENTIONS_DRAWING, f"{what}: speaks of {found[0]!r}, which isn't in the picture"


def _uniqueness(subject: Subject, expression: str) -> Iterator[tuple[Code, str]]:
    """Whether the expression, as far as a program understands it, fits the target alone.

    Understood are names of categories, sides of a prompt, and superlatives of size and place. Two regions that fit all
    of these are told apart by other words or not at all: with such words it's left to people.
    """
    (target,) = subject.targets
    words = [word.casefold() for word in _WORD.findall(_bare(expression))]
    rivals = [region for region in subject.others if region not in (target, *subject.prompts)]
    everything = [target, *rivals]
    named = [region for region in everything if region.category and _names(words, region.category)]
    fitting = [
        region
        for region in (named or everything)
        if all(
            RELATIONS[key].holds(region, subject.prompts[number - 1])
            for key, number in relations_in(expression)
            if number <= len(subject.prompts)
        )
    ]
    for key in superlatives_in(words):
        quantity = SUPERLATIVES[key][1]
        least = min(map(quantity, fitting), default=0.0)
        fitting = [region for region in fitting if quantity(region) == least]
    if fitting == [target] and named:
        return
    if not named or _unknown_words(words, everything):
        yield (
            Code.UNIQUENESS_UNCHECKED,
            f"expression: more than a program understands; see whether it fits one of {len(everything)} regions alone",
        )
    elif target in fitting:
        yield Code.NOT_UNIQUE, f"expression: fits {len(fitting)} regions of the picture named {target.name!r}"
    else:
        yield Code.NAMES_ANOTHER, f"expression: fits {len(fitting)} other regions, but not the target ({target.name})"


def _unknown_words(words: Iterable[str], regions: Sequence[ObjectRegion]) -> list[str]:
    known = set(_PLAIN_WORDS)
    for region in regions:
        for word in _words(region.category or ""):
            known |= {word, f"{word}s", f"{word}es"}
    return [word for word in words if word not in known and not superlatives_in([word])]


def _names(words: Sequence[str], category: str) -> bool:
    """Whether words hold a category's name, in the plural too."""
    name = _words(category)
    for start in range(len(words) - len(name) + 1):
        found = words[start : start + len(name)]
        if found[:-1] == name[:-1] and found[-1:] and found[-1] in (name[-1], f"{name[-1]}s", f"{name[-1]}es"):
            return bool(name)
    return False


def _tokens(num_prompts: int) -> list[str]:
    return [region_token(number) for number in range(1, num_prompts + 1)]


def _bare(text: str) -> str:
    """A text without what isn't words: placeholders of regions and masks."""
    return _REGION.sub(" ", text).replace(SEG, " ")


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _folded(option: str) -> str:
    return " ".join(_words(option))


def _holds_words(text: str, part: str) -> bool:
    """Whether a text holds the words of another one, whole and in their order."""
    return f" {' '.join(_words(part))} " in f" {' '.join(_words(_bare(text)))} "
