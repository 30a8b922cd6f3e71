"""The template captioner: right, dull, and the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.benchmark_building.captioners.template import TemplateCaptioner, colour_name
from pipelines.benchmark_building.checks import Limits, Subject, check
from pipelines.benchmark_building.records import BenchmarkTask


def test_a_caption_tells_category_colour_place_and_neighbours(ask_for) -> None:
    request = ask_for(BenchmarkTask.DETAILED_CAPTION, "dog")
    assert TemplateCaptioner().draft(request).caption == (
        "A medium-sized, mostly brown dog in the centre of the picture, taller than it is wide, covering about 11 "
        "percent of it. There is below it a table and to its right a cup."
    ).replace("medium-sized", "large")


def test_a_choice_has_one_right_option(ask_for) -> None:
    request = ask_for(BenchmarkTask.MULTIPLE_CHOICE, "dog")
    texts = TemplateCaptioner().draft(request)
    assert texts == TemplateCaptioner().draft(request)
    assert sorted(texts.options) == ["cup", "dog", "table"]
    assert texts.options[texts.right] == "dog"
    assert check(Subject(request.task, request.prompts), texts, Limits()) == ()


def test_a_region_without_a_category_is_asked_for_its_place(ask_for) -> None:
    request = ask_for(BenchmarkTask.MULTIPLE_CHOICE, "table")
    picture = request.candidate.picture
    bare = tuple(replace(region, category=None) for region in picture.regions)
    request = replace(request, candidate=replace(request.candidate, picture=replace(picture, regions=bare)))
    texts = TemplateCaptioner().draft(request)
    assert texts.question == "In which part of the picture is <region1>?"
    assert texts.options[texts.right] == "bottom centre"


@pytest.mark.parametrize(
    ("category", "expected"),
    [("table", "the table in the same picture as <region1>"), ("cup", "the cup to the left of <region1>")],
)
def test_an_expression_is_as_plain_as_it_may_be(ask_for, category: str, expected: str) -> None:
    request = ask_for(BenchmarkTask.VISUAL_TEXT_REFERRING, category)
    if category == "cup":  # whichever of both comes first in the picture's order
        x0 = request.subject.box_xyxy_px[0]
        expected = expected if x0 < 60 else "the cup to the right of <region1>"
    assert TemplateCaptioner().draft(request).question == expected


@pytest.mark.parametrize(("rgb", "name"), [((250, 250, 250), "white"), ((200, 30, 30), "red"), ((0, 0, 0), "black")])
def test_colours_have_names(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_name(np.full((5, 3), rgb, np.uint8)) == name
