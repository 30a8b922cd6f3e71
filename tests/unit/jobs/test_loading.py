"""Recipe files: parents, overrides, and messages that name the field and the nearest known name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from jobs.loading import apply_override, merge, packaged_recipes, read_recipe_tree, validate_recipe
from storage.errors import UsageError
from storage.recipe import RecipeModel


class Small(RecipeModel):
    kind: Literal["small"] = "small"
    num_cells: int = Field(4, gt=0)


class Large(RecipeModel):
    kind: Literal["large"] = "large"
    num_rooms: int = 2


class Inner(RecipeModel):
    num_steps: int
    learning_rate: float = 1e-3


class Root(RecipeModel):
    name: str
    training: Inner
    parts: tuple[Annotated[Small | Large, Field(discriminator="kind")], ...] = ()
    extra: Inner | None = None


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_child_overrides_parent_and_lists_are_replaced(tmp_path: Path) -> None:
    write(
        tmp_path, "parent.yaml", "name: parent\ntraining: {num_steps: 3, learning_rate: 0.1}\nparts: [{kind: small}]\n"
    )
    child = write(tmp_path, "child.yaml", "extends: parent.yaml\ntraining: {num_steps: 5}\nparts: [{kind: large}]\n")
    assert read_recipe_tree(child) == {
        "name": "parent",
        "training": {"num_steps": 5, "learning_rate": 0.1},
        "parts": [{"kind": "large"}],
    }


def test_a_packaged_recipe_can_be_the_parent(tmp_path: Path) -> None:
    child = write(tmp_path, "child.yaml", "extends: smoke\nname: mine\n")
    parent = read_recipe_tree("smoke")
    assert read_recipe_tree(child) == {**parent, "name": "mine"}


def test_a_change_of_kind_replaces_the_whole_mapping() -> None:
    parent: dict[str, object] = {"part": {"kind": "small", "num_cells": 3}}
    assert merge(parent, {"part": {"kind": "large"}}) == {"part": {"kind": "large"}}
    assert merge(parent, {"part": {"kind": "small", "x": 1}}) == {"part": {"kind": "small", "num_cells": 3, "x": 1}}
    assert parent == {"part": {"kind": "small", "num_cells": 3}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.num_steps=7", {"training": {"num_steps": 7}, "parts": [{"kind": "small"}]}),
        ("parts.0.num_cells=9", {"training": {"num_steps": 3}, "parts": [{"kind": "small", "num_cells": 9}]}),
        ("parts=[]", {"training": {"num_steps": 3}, "parts": []}),
        (
            "training={learning_rate: 2.5}",
            {"training": {"num_steps": 3, "learning_rate": 2.5}, "parts": [{"kind": "small"}]},
        ),
        ("name=a=b", {"training": {"num_steps": 3}, "parts": [{"kind": "small"}], "name": "a=b"}),
        ("extra=null", {"training": {"num_steps": 3}, "parts": [{"kind": "small"}], "extra": None}),
    ],
)
def test_overrides(override: str, expected: dict[str, object]) -> None:
    tree: dict[str, object] = {"training": {"num_steps": 3}, "parts": [{"kind": "small"}]}
    assert apply_override(tree, override) == expected
    assert tree == {"training": {"num_steps": 3}, "parts": [{"kind": "small"}]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training", "expected field=value"),
        (".num_steps=3", "expected field=value"),
        ("parts.1.num_cells=3", "'1' is no index of this list; known: 0 to 0"),
        ("parts.first=3", "'first' is no index of this list"),
        ("training.num_steps.deep=3", "'deep' is looked for inside 3, which has no fields"),
        ("name=[1", "the value isn't valid YAML"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_override({"training": {"num_steps": 3}, "parts": [{"kind": "small"}]}, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: self.yaml", "goes in a circle"),
        ("extends: [a, b]", "takes one path or packaged name"),
        ("extends: smok", "no recipe 'smok'.*did you mean smoke"),
        ("- 1", "expected a mapping of settings, got list"),
        ("name: [", "isn't valid YAML"),
        ("name: a\nname: b", "key 'name' is given twice"),
        ("name: !!python/object/apply:os.getcwd []", "isn't valid YAML: could not determine a constructor"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_recipe_tree(write(tmp_path, "self.yaml", text))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'dem'; did you mean demo\? .*demo-real"):
        read_recipe_tree("dem")


def test_a_recipe_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary.yaml can't be read"):
        read_recipe_tree(str(path))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"training": {"num_stepz": 3, "num_steps": 1}}, r"training\.num_stepz: no such .*did you mean num_steps\?"),
        ({"training": {}}, r"training\.num_steps: this field is required"),
        ({"training": {"num_steps": "many"}}, r"training\.num_steps: expected a valid integer.*, got 'many'"),
        ({"parts": [{"kind": "smal"}]}, r"parts\.0: kind 'smal' is unknown; known: small, large; did you mean small\?"),
        ({"parts": [{}]}, r"parts\.0: `kind` is required; known: small, large"),
        (
            {"parts": [{"kind": "small", "num_cell": 3}]},
            r"parts\.0\.num_cell: no such .*known: kind, num_cells; did you mean num_cells\?",
        ),
        ({"parts": [{"kind": "small", "num_cells": 0}]}, r"parts\.0\.num_cells: expected greater than 0, got 0"),
        (
            {"extra": {"num_steps": 1, "learning": 2}},
            r"extra\.learning: no such field .*did you mean learning_rate",
        ),
    ],
)
def test_messages_name_the_field(tree: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate_recipe(Root, {"name": "x", "training": {"num_steps": 1}, **tree}, "mine.yaml")


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"(?s)recipe mine: 2 problems.*name: this field is required.*training: this"):
        validate_recipe(Root, {}, "mine")


def test_packaged_recipes_are_named_by_file() -> None:
    assert {"demo", "demo-all-tasks", "demo-real", "smoke"} <= set(packaged_recipes())


def test_aliases_that_multiply_are_refused_at_once(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    recipe = write(tmp_path, "bomb.yaml", "\n".join(levels))
    with pytest.raises(UsageError, match=r"bomb\.yaml isn't valid YAML: .*more than 100,000 values; write out"):
        read_recipe_tree(recipe)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}"])
def test_an_alias_inside_its_own_anchor_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="stands inside its own anchor"):
        read_recipe_tree(write(tmp_path, "circle.yaml", text))


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is nested too deeply"):
        read_recipe_tree(write(tmp_path, "deep.yaml", "a: " + "[" * 100_000))


def test_aliases_as_people_write_them_are_read(tmp_path: Path) -> None:
    recipe = write(tmp_path, "plain.yaml", "base: &base {x: 1, y: 2}\nfirst: *base\nsecond: {<<: *base, y: 3}\n")
    assert read_recipe_tree(recipe) == {"base": {"x": 1, "y": 2}, "first": {"x": 1, "y": 2}, "second": {"x": 1, "y": 3}}


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch hit']", "!!python/name:os.system", "!x y"])
def test_a_tag_builds_nothing(tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write(tmp_path, "tagged.yaml", f"name: {tag}")
    with pytest.raises(UsageError, match="could not determine a constructor"):
        read_recipe_tree(recipe)
    with pytest.raises(UsageError, match="could not determine a constructor"):
        apply_override({}, f"name={tag}")
    assert not (tmp_path / "hit").exists()
