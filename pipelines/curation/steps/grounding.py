"""Captions whose phrases have masks: `<p>phrase</p> [SEG]`, from spans of characters or from the phrases' words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.curation.records import DraftRegion, RecordError
from pipelines.curation.steps.fields import shown
from pipelines.curation.steps.texts import SEG, required_text, single_line
from storage.schema import RejectReason

__all__ = ["GroundedText", "Phrase", "RefusedPhrase", "find_phrases", "ground", "without_quotes"]

_OPEN, _CLOSE = "<p>", "</p>"

RefusedPhrase = tuple[str, RecordError]
"""Where a phrase stands in its record, and why it isn't in the text."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a caption and what it means."""

    where: str
    """Its place in the record, for reports: `refs[1]`."""
    start: int
    """First character in the caption as the source writes it."""
    end: int
    """The character after the last one."""
    regions: tuple[DraftRegion, ...]
    """Their union is its mask."""


@dataclass(frozen=True, slots=True)
class GroundedText:
    """A caption with its phrases marked, and the regions of each `[SEG]`."""

    text: str
    regions: tuple[DraftRegion, ...]
    targets: tuple[tuple[int, ...], ...]


def ground(caption: str, phrases: Sequence[Phrase]) -> tuple[GroundedText, list[RefusedPhrase]]:
    """Marks phrases in a caption, in the order in which they stand there.

    White space at the ends of a span is no part of it. Spans that are equal are one phrase with the masks of all.
    Phrases can't be nested: of spans that overlap the one that begins first stays, and of those that begin together
    the longest; the others are refused. So are spans that don't lie in the caption, hold no words, or end within
    a word. A refused phrase stays in the text, without a mask.

    Args:
        caption: as the source writes it; spans count its characters.
        phrases: in any order.

    Raises:
        RecordError: the caption has no words, or holds what marks phrases and masks.
    """
    required_text(caption, "caption")
    marks = [mark for mark in (_OPEN, _CLOSE, SEG) if mark in caption]
    if marks:
        raise RecordError(RejectReason.PLACEHOLDER_MISMATCH, f"caption: {marks[0]} stands in it already")
    spans: dict[tuple[int, int], list[Phrase]] = {}
    refused: list[RefusedPhrase] = []
    for phrase in phrases:
        try:
            spans.setdefault(_span(caption, phrase), []).append(phrase)
        except RecordError as error:
            refused.append((phrase.where, error))
    pieces: list[str] = []
    places: dict[int, int] = {}  # a region that is mentioned again is the same object, and stands once
    regions: list[DraftRegion] = []
    targets: list[tuple[int, ...]] = []
    done = 0
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        members = spans[start, end]
        if start < done:
            detail = f"span: [{start}, {end}] overlaps the phrase before it, which ends at {done}"
            refused += [(phrase.where, RecordError(RejectReason.FILTERED, detail)) for phrase in members]
            continue
        pieces += [caption[done:start], f"{_OPEN}{caption[start:end]}{_CLOSE} {SEG}"]
        own = {id(region): region for phrase in members for region in phrase.regions}
        for key, region in own.items():
            if key not in places:
                places[key] = len(regions)
                regions.append(region)
        targets.append(tuple(places[key] for key in own))
        done = end
    text = single_line("".join([*pieces, caption[done:]]))
    return GroundedText(text, tuple(regions), tuple(targets)), refused


def _span(caption: str, phrase: Phrase) -> tuple[int, int]:
    """The span of a phrase without the white space at its ends."""
    start, end = phrase.start, phrase.end
    said = f"span: [{start}, {end}]"
    if not 0 <= start < end <= len(caption):
        raise RecordError(
            RejectReason.FIELD_INVALID, f"{said}: expected within the {len(caption)} characters of the caption"
        )
    words = caption[start:end]
    start, end = start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
    required_text(words, said)
    for place in (start, end):
        if 0 < place < len(caption) and caption[place - 1].isalnum() and caption[place].isalnum():
            raise RecordError(RejectReason.FIELD_INVALID, f"{said}: expected whole words, got {shown(words)}")
    return start, end


def find_phrases(caption: str, phrases: Sequence[str]) -> list[tuple[int, int] | None]:
    """Where phrases stand in a caption, whatever their case, as whole words.

    The longest phrase is placed first, each at the first place that no other has taken: "man" isn't looked for
    within "man in red". Phrases with the same words share a place.

    Returns:
        The span of each phrase; None where it has no place.

    >>> find_phrases("A man in red greets a man.", ["man", "Man in red", "woman"])
    [(22, 25), (2, 12), None]
    """
    spans: dict[str, tuple[int, int] | None] = {}
    by_words = [single_line(phrase).lower() for phrase in phrases]
    for words in sorted(set(by_words), key=lambda words: (-len(words), words)):
        taken = [span for span in spans.values() if span is not None]
        pattern = r"\s+".join(re.escape(word) for word in words.split())
        found = re.finditer(rf"(?<!\w){pattern}(?!\w)", caption, re.IGNORECASE) if pattern else ()
        free = (match.span() for match in found if all(match.end() <= s or match.start() >= e for s, e in taken))
        spans[words] = next(free, None)
    return [spans[words] for words in by_words]


def without_quotes(text: str) -> str:
    """A text less the double quotes that it is wrapped in; quotes that belong to it stay.

    >>> without_quotes('"A cup."'), without_quotes('"Stop" and "go"'), without_quotes('It says "stop"')
    ('A cup.', '"Stop" and "go"', 'It says "stop"')
    """
    bare = text.strip()
    if len(bare) < 2 or not bare.startswith('"') or not bare.endswith('"'):
        return text
    inside = bare[1:-1]
    first = inside.find('"')
    # The next quote closes the first one where it stands right behind a word.
    return text if first > 0 and not inside[first - 1].isspace() else inside.strip()
