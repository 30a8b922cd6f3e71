"""The reference has every command, every field of recipes and every public name, each with what is said of it."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from typing import Any

import typer

import sailloft
from docs.generation import doctests
from docs.generation.commands import commands_page
from docs.generation.doctests import fenced
from docs.generation.python_names import MODULES, python_page
from docs.generation.recipe_fields import recipe_page
from jobs.cli import app
from jobs.config import Recipe
from pipelines.curation.registry import known_kinds
from pipelines.training.config import TrainingConfig
from teachers.registry import TEACHERS


def _names(command: Any, name: str) -> Iterator[str]:
    yield name
    for child, one in getattr(command, "commands", {}).items():
        if not one.hidden:
            yield from _names(one, f"{name} {child}")


def _section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    return re.split(r"^#+ .*\n", page.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_command_but_hidden_ones_has_a_section() -> None:
    headings = re.findall(r"^#+ (sailloft.*)$", commands_page(), re.MULTILINE)
    assert headings == list(_names(typer.main.get_command(app), "sailloft"))
    assert len(headings) > 30


def test_bars_in_code_are_bars() -> None:
    assert "| `--log-format <human|json>` | " in commands_page()
    assert "\\|" not in "".join(recipe_page().split("`")[1::2])


def test_a_command_shows_usage_arguments_options_and_examples() -> None:
    section = _section(commands_page(), "sailloft predict")
    assert "sailloft predict [OPTIONS] CHECKPOINT IMAGE TEXT\n" in section
    assert "| `--box x0,y0,x1,y1` | A region: a box, in pixels. |" in section
    assert "&lt;region1> is the first region given" in section
    assert "\nsailloft predict CHECKPOINT scene.png 'the red ring' --to masked.png\n" in section


def test_examples_between_bars_are_lines() -> None:
    lines = _section(commands_page(), "sailloft teach").splitlines()
    assert lines[-4:-1] == ["sailloft teach my.yaml --dry-run", "sailloft teach my.yaml --verify 100", "```"]


def test_every_field_is_described_with_type_and_default() -> None:
    page = recipe_page()
    rows = re.findall(r"^\| `(\w+)`( ○)? \| (.*) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} >= {*Recipe.model_fields, *TrainingConfig.model_fields}
    assert [name for name, _, kind, _, what in rows if not kind or not what] == []
    training = _section(page, "training")
    assert "| `num_workers` ○ | whole number, > 0 | `1` | " in training
    assert "| `mixture` | [list of mappings](#trainingmixture) | " in training
    assert "| `batch_rows` | whole number, > 0 | " in training


def test_every_kind_has_a_section_with_its_own_fields() -> None:
    page = recipe_page()
    for kind in known_kinds():
        assert f"\n#### curation.sources: {kind}\n" in page
    for kind in TEACHERS:
        assert f"\n### teachers: {kind}\n" in page
    assert "| `rows` | list of text | " in _section(page, "curation.sources: generic")
    assert "`held_out_share`" in _section(page, "curation.sources")
    assert "`held_out_share`" not in _section(page, "curation.sources: generic")


def test_links_to_sections_have_one() -> None:
    page = recipe_page()
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    anchors = [re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(anchors)


def test_every_public_name_is_shown_where_it_lives() -> None:
    page = python_page("sailloft")
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\[([\w.]+)\] \| .+ \|$", page, re.MULTILINE))
    assert set(rows) == set(sailloft.__all__) - {"PACKAGES", "check_packages", "main"}
    shown = {module for modules in MODULES.values() for module in modules}
    assert {name.rpartition(".")[0] for name in rows.values()} <= shown
    assert "::: storage.corpus\n" in python_page("storage")


def test_examples_in_docstrings_are_fenced() -> None:
    assert doctest.testmod(doctests).failed == 0
    text = "Adds.\n\n>>> 1\n1\n>>> 2\n2\n\nMore.\n\n>>> 3\n3"
    assert fenced(text) == "Adds.\n\n```pycon\n>>> 1\n1\n>>> 2\n2\n```\n\nMore.\n\n```pycon\n>>> 3\n3\n```"
    assert fenced("Nothing to see.") == "Nothing to see."
