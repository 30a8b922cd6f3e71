"""What is handed in: the command, an id from the recipe's address, and what is noted of it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from jobs.config import load_recipe
from jobs.submission.order import COMMANDS, Order
from storage.errors import UsageError

WORKSPACE = "workspace=s3://bucket/prefix"


def order(*overrides: str, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "command": "run", "stages": None, "after": (), "variables": {}, "runtime_env": {}, "code": None,
    }  # fmt: skip
    return Order(load_recipe("smoke", [WORKSPACE, *overrides]), **{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "entrypoint"),
    [
        ({}, "exec python -m jobs run recipe.yaml"),
        ({"command": "retrain"}, "exec python -m jobs retrain recipe.yaml"),
        ({"stages": ("scenes", "curate")}, "exec python -m jobs run recipe.yaml --stages scenes,curate"),
        (
            {"after": ("a-1", "b-2")},
            "python -m jobs jobs wait a-1 && python -m jobs jobs wait b-2 && exec python -m jobs run recipe.yaml",
        ),
    ],
)
def test_the_command(changes: dict[str, Any], entrypoint: str) -> None:
    assert order(**changes).entrypoint == entrypoint


def test_the_series_is_the_recipes_address() -> None:
    plain = order().series
    assert plain.startswith("smoke-")
    runs = ("features.num_actors=7", "cluster.address=auto", "costs.cpu_hour=3", "training.num_workers=2")
    for same in (order(runs[0]), order(runs[1]), order(runs[3]), order(after=("a-1",)), order(variables={"A": "b"})):
        assert same.series == plain
    others = {
        order("training.num_steps=9").series,
        order("name=other").series,
        order("workspace=s3://bucket/elsewhere").series,
        order("curation.root=s3://bucket/data").series,
        order("curation.sources.0.root=s3://bucket/data").series,
        order(command="retrain").series,
        order(stages=("train",)).series,
    }
    assert len(others | {plain}) == 8


def test_settings_tell_apart_what_the_series_does_not() -> None:
    keys = {
        order().settings_key,
        order("features.num_actors=7").settings_key,
        order(after=("a-1",)).settings_key,
        order(variables={"A": "b"}).settings_key,
        order(runtime_env={"pip": ["timm"]}).settings_key,
    }
    assert len(keys) == 5
    assert order(variables={"A": "c"}).settings_key == order(variables={"A": "b"}).settings_key


def test_ids_count_the_attempts() -> None:
    one = order()
    assert one.job_id([]) == f"{one.series}-1"
    ids = [f"{one.series}-1", f"{one.series}-10", "other-11", f"{one.series}-x", f"{one.series}0-40"]
    assert one.attempts(ids) == {ids[0]: 1, ids[1]: 10}
    assert one.job_id(ids) == f"{one.series}-11"


def test_the_recipe_travels_without_where_it_runs() -> None:
    assert order("cluster.address=ray://mine").tree["cluster"] == {}


def test_variables_go_above_those_of_the_file_and_a_stop_is_given_time() -> None:
    one = order(variables={"A": "mine", "B": "2"}, runtime_env={"pip": ["timm"], "env_vars": {"A": "file", "C": "3"}})
    environment = one.job_runtime_env("/tmp/folder")
    assert environment == {
        "pip": ["timm"],
        "working_dir": "/tmp/folder",
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "A": "mine", "B": "2", "C": "3"},
    }


def test_notes_hold_no_values_of_variables() -> None:
    noted = order(variables={"HF_TOKEN": "hidden"}, stages=("train",), after=("a-1",)).metadata("0.1")
    assert "hidden" not in str(noted)
    assert (noted["stages"], noted["after"], noted["recipe"]) == ("train", "a-1", "smoke")
    assert all(isinstance(value, str) for value in noted.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "predict"}, f"expected one of {', '.join(COMMANDS)}"),
        ({"command": "retrain", "stages": ("train",)}, "--stages: expected beside the command run, got retrain"),
        ({"after": ("a; rm -rf /",)}, "expected an id such as"),
        ({"after": ("$(reboot)",)}, "expected an id such as"),
    ],
)
def test_orders_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        order(**changes)


def test_the_command_is_one_that_a_shell_reads_as_it_stands() -> None:
    words = shlex.split(order(after=("a-1",), stages=("train",)).entrypoint)
    assert words == [
        "python", "-m", "jobs", "jobs", "wait", "a-1", "&&",
        "exec", "python", "-m", "jobs", "run", "recipe.yaml", "--stages", "train",
    ]  # fmt: skip
