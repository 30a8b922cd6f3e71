"""What a study is: its file, its recipes, its choices."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.study import load_study, packaged_studies, parse_names, parse_seeds
from storage.errors import UsageError
from tests.small_studies import small_study


@pytest.mark.parametrize("name", packaged_studies())
def test_packaged_studies_have_recipes_that_resolve(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    for run in study.runs:
        recipe = study.recipe_of(run, 1, "students/x" if run.starts_from else None, [])
        assert recipe.training.seed == 1
        assert (recipe.training.init == "students/x") == (run.starts_from is not None)
        benchmarks = {benchmark.name or benchmark.kind for benchmark in recipe.evaluation.benchmarks}
        assert {metric.benchmark for metric in study.metrics} <= benchmarks
        if study.steps_to:
            assert recipe.training.validation is not None


def test_the_ablation_changes_one_thing_at_a_time() -> None:
    study = load_study("ablation")
    recipes = {run.name: study.recipe_of(run, 0, None, []) for run in study.runs}
    students = {name: recipe.student for name, recipe in recipes.items()}
    assert (students["plain"].upsampling, students["plain"].visual_prompt) == ("none", "pooled")
    assert students["+upsampling"] == students["plain"].model_copy(update={"upsampling": "learned"})
    assert students["+injection"] == students["+upsampling"].model_copy(update={"visual_prompt": "injected"})
    teachers = {name: {teacher.kind for teacher in recipe.teachers} for name, recipe in recipes.items()}
    weights = {name: recipe.training.losses.distillation for name, recipe in recipes.items()}
    for name, kinds in teachers.items():
        assert {kind for kind, weight in weights[name].items() if weight} == kinds
        if name not in ("plain", "+upsampling"):
            assert students[name] == students["+injection"]
    assert teachers["+injection"] == set()
    assert (teachers["+mask2former"], teachers["+sam2"]) == ({"mask2former"}, {"sam2"})
    assert {recipes[name].features.codec for name in ("raw16", "int8", "both", "klt-20db")} == {
        "raw16",
        "int8",
        "klt",
        "klt-20db",
    }
    assert recipes["online"].training.teacher_mode == "online"
    both = [name for name, kinds in teachers.items() if len(kinds) == 2]
    assert both == ["both", "raw16", "int8", "klt-20db", "online"]
    assert len(study.seeds) >= 3


def test_what_a_run_changes_wins() -> None:
    study = small_study()
    start, none, _ = study.runs
    assert study.recipe_of(start, 0, None, ["training.num_steps=3"]).training.num_steps == 7
    assert study.recipe_of(none, 0, None, ["training.num_steps=3"]).training.num_steps == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "start"}, "baseline: expected the name of a run that is scored, got 'start'"),
        ({"steps_to": ["start"]}, "steps_to.0: expected the name of a run that is scored, got 'start'"),
        ({"runs": [{"name": "a", "starts_from": "b"}, {"name": "b"}]}, "expected a run further up, got 'b'"),
        ({"runs": [{"name": "none", "more_seeds": [4, 5]}]}, r"seeds of none: expected each once, got \[3, 5, 4, 5\]"),
        (
            {"runs": [{"name": "none"}, {"name": "b", "starts_from": "none", "more_seeds": [4]}]},
            "runs.1.more_seeds: expected seeds of none, got 4",
        ),
        (
            {"runs": [{"name": "none"}, {"name": "none"}]},
            "runs.1.name: expected another than of a run further up, got 'none'",
        ),
        (
            {"claims": [{"text": "x", "run": "started", "than": "other", "expects": "more"}]},
            "claims.0.than: expected the name of a run that is scored, got 'other'",
        ),
        (
            {"claims": [{"text": "x", "run": "started", "than": "none", "expects": "more", "metric": "IoU"}]},
            "claims.0.metric: expected the label of a metric, got 'IoU'",
        ),
        (
            {"claims": [{"text": "x", "run": "started", "than": "none", "expects": "within", "metric": "cIoU"}]},
            "margin: expected one with `within`, `not_less` and `not_more` alone, got None",
        ),
        (
            {"charts": [{"name": "x", "title": "x", "runs": ["nobody"]}]},
            "charts.0.runs: expected the name of a run that is scored, got 'nobody'",
        ),
    ],
)
def test_wrong_studies_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_study(**changes)


def test_unknown_studies_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no study 'ablations'; did you mean ablation\? expected a YAML"):
        load_study("ablations")


def test_chosen_runs_bring_what_they_start_from() -> None:
    study = small_study()

    def names(only: list[str]) -> list[str]:
        first, second = ([run.name for run in runs] for _, runs in study.by_seed(only))
        assert first == second
        return first

    assert names([]) == ["start", "none", "started"]
    assert names(["started"]) == ["start", "started"]
    assert names(["none"]) == ["none"]
    with pytest.raises(
        UsageError, match=r"--only: expected runs of study tiny \(start, none, started\), got 'finished'"
    ):
        study.by_seed(["finished"])


def test_a_run_may_have_more_seeds_than_the_others() -> None:
    study = small_study(runs=[{"name": "none"}, {"name": "other", "more_seeds": [7, 9]}])

    def made(**chosen: list[Any]) -> list[tuple[int, str]]:
        return [(seed, run.name) for seed, runs in study.by_seed(**chosen) for run in runs]

    both = [(3, "none"), (3, "other"), (5, "none"), (5, "other")]
    assert made() == [*both, (7, "other"), (9, "other")]
    assert made(seeds=[9, 3]) == [(9, "other"), (3, "none"), (3, "other")]
    assert made(only=["none"], seeds=[3, 9]) == [(3, "none")]
    with pytest.raises(UsageError, match=r"--seeds: expected seeds of study tiny \[3, 5, 7, 9\], got 4"):
        study.by_seed(seeds=[4])


def test_seeds_are_whole_numbers() -> None:
    with pytest.raises(UsageError, match="--seeds: expected whole numbers with commas between, got '0,one'"):
        parse_seeds("0,one")
    with pytest.raises(UsageError, match="--only and --seeds: expected some with commas between, got ','"):
        parse_names(",")
