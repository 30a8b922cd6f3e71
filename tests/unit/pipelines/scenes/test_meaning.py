"""What phrases and places denote, on a scene laid out by hand."""

from __future__ import annotations

import pytest

from pipelines.scenes.meaning import Phrase, SceneMeaning, numbers
from pipelines.scenes.world import Scene, SceneObject


def _object(shape: str, colour: str, x: float, y: float) -> SceneObject:
    return SceneObject(shape=shape, colour=colour, texture="plain", size="small", x=x, y=y)


@pytest.fixture
def meaning() -> SceneMeaning:
    """0: red circle left; 1: blue circle in the middle; 2: red star right, low; 3: blue star right of it by a hair."""
    return SceneMeaning(
        Scene(
            "train",
            0,
            (
                _object("circle", "red", 0.2, 0.2),
                _object("circle", "blue", 0.5, 0.2),
                _object("star", "red", 0.8, 0.8),
                _object("star", "blue", 0.85, 0.4),
            ),
        )
    )


def test_phrases_are_intersections_of_their_words(meaning: SceneMeaning) -> None:
    assert list(numbers(meaning.phrase(Phrase(colour="red")))) == [0, 2]
    assert list(numbers(meaning.phrase(Phrase(colour="red", shape="star")))) == [2]
    assert meaning.phrase(Phrase(colour="green")) == 0
    assert meaning.phrase(Phrase()) == 0b1111


def test_outermost_needs_a_clear_lead(meaning: SceneMeaning) -> None:
    assert meaning.outermost("left", 0b1111) == 0b0001
    assert meaning.outermost("right", 0b1111) is None
    assert meaning.outermost("right", 0b0111) == 0b0100
    assert meaning.outermost("above", 0b0011) is None
    assert meaning.outermost("below", 0) is None
    assert meaning.first_towards("right") == 0b1000


def test_sides_leave_the_middle_undecided(meaning: SceneMeaning) -> None:
    assert meaning.on_side("left", 0b0011) is None
    assert meaning.on_side("left", 0b0101) == 0b0001
    assert meaning.on_side("below", 0b0110) == 0b0100


def test_beside_needs_a_clear_distance(meaning: SceneMeaning) -> None:
    assert meaning.beside("left", 2, 0b0011) == 0b0011
    assert meaning.beside("right", 2, 0b1111) is None
    assert meaning.beside("above", 1, 0b0001) == 0
    assert meaning.beside("below", 0, 0b1111) == 0b1100
