"""Phrases of captions: what is marked says what the source says, and nothing is marked twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.records import DraftRegion, RecordError
from pipelines.curation.steps.grounding import Phrase, find_phrases, ground, without_quotes
from pipelines.curation.testing import polygon_of
from storage.schema import RejectReason

_CAPTION = "A man  in red greets a man."
_REGIONS = tuple(DraftRegion(segmentation=polygon_of((0, 0, 9, 9)), source_id=str(number)) for number in range(4))


def _phrase(number: int, start: int, end: int, *regions: DraftRegion) -> Phrase:
    return Phrase(f"refs[{number}]", start, end, regions or (_REGIONS[number],))


def test_phrases_are_marked_in_the_order_of_the_caption() -> None:
    last, first = _phrase(0, 20, 26), _phrase(1, 0, 13, _REGIONS[1], _REGIONS[2])
    found, refused = ground(_CAPTION, [last, first])
    assert found.text == "<p>A man in red</p> [SEG] greets <p>a man</p> [SEG]."
    assert found.regions == (_REGIONS[1], _REGIONS[2], _REGIONS[0])
    assert found.targets == ((0, 1), (2,))
    assert refused == []


def test_equal_spans_are_one_phrase() -> None:
    found, refused = ground(_CAPTION, [_phrase(0, 2, 5), _phrase(1, 1, 6)])
    assert found.text == "A <p>man</p> [SEG] in red greets a man."
    assert found.targets == ((0, 1),)
    assert refused == []


def test_a_region_that_is_mentioned_twice_stands_once() -> None:
    phrases = [_phrase(0, 0, 5), _phrase(0, 20, 26), _phrase(0, 20, 26), _phrase(1, 20, 26)]
    found, refused = ground(_CAPTION, phrases)
    assert found.regions == (_REGIONS[0], _REGIONS[1])
    assert found.targets == ((0,), (0, 1))
    assert refused == []


def test_of_overlapping_phrases_the_first_and_the_longest_stay() -> None:
    phrases = [_phrase(0, 10, 13), _phrase(1, 0, 5), _phrase(2, 0, 13), _phrase(3, 10, 20)]
    found, refused = ground(_CAPTION, phrases)
    assert found.text == "<p>A man in red</p> [SEG] greets a man."
    assert found.regions == (_REGIONS[2],)
    assert [(where, error.reason) for where, error in refused] == [
        (f"refs[{number}]", RejectReason.FILTERED) for number in (1, 3, 0)
    ]
    assert refused[0][1].detail == "span: [0, 5] overlaps the phrase before it, which ends at 13"


@pytest.mark.parametrize(
    ("start", "end", "reason", "detail"),
    [
        (-1, 4, RejectReason.FIELD_INVALID, r"span: \[-1, 4\]: expected within the 27 characters of the caption"),
        (20, 28, RejectReason.FIELD_INVALID, "expected within the 27 characters"),
        (5, 5, RejectReason.FIELD_INVALID, "expected within"),
        (9, 2, RejectReason.FIELD_INVALID, "expected within"),
        (5, 7, RejectReason.TEXT_EMPTY, r"span: \[5, 7\]: expected words, got '  '"),
        (26, 27, RejectReason.TEXT_EMPTY, r"expected words, got '\.'"),
        (3, 5, RejectReason.FIELD_INVALID, "expected whole words, got 'an'"),
        (0, 4, RejectReason.FIELD_INVALID, "expected whole words, got 'A ma'"),
    ],
)
def test_spans_that_are_no_phrase(start: int, end: int, reason: RejectReason, detail: str) -> None:
    found, refused = ground(_CAPTION, [_phrase(0, start, end), _phrase(1, 20, 26)])
    assert found.text == "A man in red greets <p>a man</p> [SEG]."
    assert found.regions == (_REGIONS[1],)
    ((where, error),) = refused
    assert (where, error.reason) == ("refs[0]", reason)
    assert re.search(detail, error.detail)


@pytest.mark.parametrize("caption", ["A <p>man", "It is [SEG].", "man</p>"])
def test_captions_that_hold_marks_already(caption: str) -> None:
    with pytest.raises(RecordError, match=r"placeholder_mismatch: caption: .* stands in it already"):
        ground(caption, [])


def test_a_caption_without_words() -> None:
    with pytest.raises(RecordError, match="text_empty: caption: expected words"):
        ground(" . ", [])


_SPANS = st.lists(st.tuples(st.integers(-2, 30), st.integers(-2, 30)), max_size=8)


@given(st.text("ab .,'é", max_size=28), _SPANS)
def test_every_phrase_is_marked_or_refused(caption: str, spans: list[tuple[int, int]]) -> None:
    regions = [DraftRegion(segmentation=polygon_of((0, 0, 9, 9))) for _ in spans]
    phrases = [Phrase(str(number), *span, (regions[number],)) for number, span in enumerate(spans)]
    if not any(character.isalnum() for character in caption):
        with pytest.raises(RecordError, match="text_empty: caption: expected words"):
            ground(caption, phrases)
        return
    found, refused = ground(caption, phrases)
    assert len(found.regions) + len(refused) == len(phrases)
    assert [place for target in found.targets for place in target] == list(range(len(found.regions)))
    assert found.text.count("[SEG]") == len(found.targets) == len(re.findall(r"<p>[^<>]+</p> \[SEG\]", found.text))
    assert re.sub(r"<p>|</p> \[SEG\]", "", found.text) == " ".join(caption.split())


@pytest.mark.parametrize(
    ("caption", "phrases", "found"),
    [
        ("A Cup, and a cup.", ["cup"], ["Cup"]),
        ("A woman and a man.", ["man", "woman"], ["man", "woman"]),
        ("A man in red, a man.", ["a man in red", "a man"], ["A man in red", "a man"]),
        ("A man in red.", ["man in red", "man"], ["man in red", None]),
        ("A red  cup\nhere", ["red cup here"], ["red  cup\nhere"]),
        ("Two cups (left)", ["cups (left)"], ["cups (left)"]),
        ("a cup", ["", "a cup", "A  CUP", "cup."], [None, "a cup", "a cup", None]),
        ("Die Straße", ["die straße"], ["Die Straße"]),
    ],
)
def test_phrases_are_found_by_their_words(caption: str, phrases: list[str], found: list[str | None]) -> None:
    spans = find_phrases(caption, phrases)
    assert [None if span is None else caption[slice(*span)] for span in spans] == found


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ('"A cup."', "A cup."),
        (' "A sign says "stop" to us." ', 'A sign says "stop" to us.'),
        ('""Stop" it says."', '"Stop" it says.'),
        ('"Stop" and "go"', '"Stop" and "go"'),
        ('It says "stop"', 'It says "stop"'),
        ('"', '"'),
        (" a cup ", " a cup "),
    ],
)
def test_quotes_around_a_text(text: str, bare: str) -> None:
    assert without_quotes(text) == bare
