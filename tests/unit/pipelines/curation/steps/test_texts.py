"""Expressions, category names and placeholders in their normal forms."""

from __future__ import annotations

import doctest

import pytest

from pipelines.curation.families import perbench
from pipelines.curation.records import RecordError
from pipelines.curation.steps import fields, grounding, images, paths, prompt_leftovers, texts
from pipelines.curation.steps.texts import (
    category_phrase,
    expression,
    normalise_placeholders,
    region_numbers,
    renumber_regions,
    single_line,
)


@pytest.mark.parametrize("module", [texts, images, paths, fields, perbench, grounding, prompt_leftovers])
def test_examples_in_docstrings(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Lady w/ back to us.", "lady w/ back to us"),
        ("12", "12"),
        ("the man\n in blue . ", "the man in blue"),
        ("e.g. a cup..", "e.g. a cup."),
        ("Straße", "straße"),
        ("\ufeffcup\x07", "cup"),
        ("右边的杯子", "右边的杯子"),
    ],
)
def test_expressions(raw: str, text: str) -> None:
    assert expression(raw) == text


@pytest.mark.parametrize("raw", ["", ".", " \t\n", "?!", "\x00"])
def test_expressions_without_words(raw: str) -> None:
    with pytest.raises(RecordError, match="text_empty: expression: expected words, got "):
        expression(raw)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("<region1>: a", "<region1>: a"),
        ("<Region 12>", "<region12>"),
        ("regon3 and region04", "<region3> and <region4>"),
        ("region 3, a region of 4", "region 3, a region of 4"),
        ("<regoin2>", "<regoin2>"),
        ("subregion5", "subregion5"),
    ],
)
def test_placeholder_variants(given: str, normal: str) -> None:
    assert normalise_placeholders(given) == normal


def test_placeholders_are_replaced_at_once() -> None:
    text = "<region1> <region2> <region12> <region1>"
    assert region_numbers(text) == [1, 2, 12]
    assert renumber_regions(text, {1: 2, 2: 1, 12: 3}) == "<region2> <region1> <region3> <region2>"


def test_coco_panoptic_names_stay_distinct() -> None:
    names = ["window-blind", "window-other", "wall-brick", "wall-other-merged", "tree-merged", "door-stuff", "person"]
    phrases = [category_phrase(name) for name in names]
    assert phrases == ["window blind", "window", "wall brick", "wall", "tree", "door", "person"]


def test_single_line() -> None:
    assert single_line("a\r\nb\u200bc\x85d") == "a b c d"
