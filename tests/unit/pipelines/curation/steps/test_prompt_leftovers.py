"""Words on the outline of an object leave a caption, and what is left reads well."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.steps.prompt_leftovers import without_leftovers


@pytest.mark.parametrize(
    ("caption", "clean"),
    [
        ("The highlighted object is a black dog.", "The object is a black dog."),
        ("A highlighted apple lies there.", "An apple lies there."),
        ("An highlighted dog lies there.", "A dog lies there."),
        ("the highlighted cup", "the cup"),
        ("The two highlighted dogs run, the highlighted cat sleeps.", "The two dogs run, the cat sleeps."),
        ("The object highlighted by a yellow edge is a dog.", "The object is a dog."),
        ("The area outlined with a bright yellow contour shows a hand.", "The area shows a hand."),
        ("The object highlighted in the image is a plate.", "The object in the image is a plate."),
        ("The person highlighted wears a hat.", "The person wears a hat."),
        ("The person, highlighted in yellow, wears a hat.", "The person wears a hat."),
        ("The jug outlined in yellow is blue.", "The jug is blue."),
        ("A dog, highlighted by a yellow edge, sits.", "A dog sits."),
        ("A dog sits, highlighted by a yellow edge.", "A dog sits."),
        ("A dog, which is highlighted by a yellow contour, sits.", "A dog sits."),
        ("A dog that is highlighted is asleep.", "A dog is asleep."),
        ("Highlighted by a yellow edge, a man walks.", "A man walks."),
        ("The yellow edge surrounds a chair.", "A chair."),
        ("The object inside the yellow contour is a lamp.", "The object is a lamp."),
        ("A lamp with a yellow outline around it.", "A lamp."),
        ("The dog is highlighted by a yellow edge and sits.", "The dog sits."),
        ("The cup is highlighted and made of glass.", "The cup is made of glass."),
        ("The cup is highlighted, and is full.", "The cup is full."),
        ("The dog is highlighted by a yellow edge, showing its fur.", "The dog, showing its fur."),
        ("The dog is highlighted by a yellow edge in the image. It runs.", "The dog. It runs."),
        ("The object is highlighted by a yellow edge. It is a dog.", "It is a dog."),
        ("The dog is brown. It is highlighted.", "The dog is brown."),
        ("The dog is brown. The dog has a yellow edge.", "The dog is brown."),
        # No rule mends these sentences.
        ("The highlighted and outlined car is red. It is parked.", "It is parked."),
        ("A yellow edge is drawn here. A dog sits.", "A dog sits."),
        ("The object is highlighted.", ""),
        ("Highlighted", ""),
        # Not leftovers.
        ("The plant has yellow-edged leaves, a yellow pot.", "The plant has yellow-edged leaves, a yellow pot."),
        ("The image highlights  a dog .", "The image highlights a dog ."),
    ],
)
def test_sentences(caption: str, clean: str) -> None:
    assert without_leftovers(caption) == clean


_WORDS = st.sampled_from(
    [
        *("A", "The", "dog", "object", "yellow", "edge", "contour", "outline", "highlighted", "outlined"),
        *("is", "and", "by", "with", "in", "a", "the", ",", ".", "sits", "image"),
    ]
)


@given(st.lists(_WORDS, max_size=16).map(" ".join))
def test_no_leftover_stays_and_no_word_is_added(caption: str) -> None:
    clean = without_leftovers(caption)
    assert (
        re.search(r"highlighted|outlined in yellow\b|yellow (edge|contour|outline)s?\b", clean, re.IGNORECASE) is None
    )
    assert without_leftovers(clean) == clean
    words = set(re.findall(r"\w+", caption.lower())) | {"a", "an"}
    assert words.issuperset(re.findall(r"\w+", clean.lower()))
