from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jobs import study as module
from jobs.config import Recipe
from jobs.display import PlainDisplay
from jobs.flow import Outcome, State
from jobs.runner import RunResult
from jobs.study import Study, load_study, packaged_studies, run_study
from jobs.study_table import Measured, StudyResult, mean_interval
from pipelines.evaluation.records import Score, Variant
from storage.errors import UsageError
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

STUDY = {
    "name": "tiny",
    "question": "Does a start help?",
    "recipe": "smoke",
    "changes": {"training": {"learning_rate": 0.5, "num_steps": 2}},
    "seeds": [3, 5],
    "baseline": "none",
    "runs": [
        {"name": "start", "scored": False, "changes": {"training": {"num_steps": 7}}},
        {"name": "none"},
        {"name": "started", "starts_from": "start"},
    ],
    "metrics": [{"label": "cIoU"}, {"label": "swapped", "variant": "swapped"}],
}


def _study(**changes: object) -> Study:
    return Study.model_validate({**STUDY, **changes})


def _score(value: float, variant: Variant = Variant.STANDARD, family: str | None = None) -> Score:
    return Score(
        benchmark="referring",
        variant=variant,
        family=family,
        task=None,
        split=None,
        metric="cIoU",
        value=value,
        low=value - 0.1,
        high=value + 0.2,
        num_samples=10,
        num_images=5,
    )


def _result(values: dict[str, list[float]]) -> StudyResult:
    measured = [
        Measured(run, seed, 2, {"cIoU": _score(value)}, 1.0)
        for run, own in values.items()
        for seed, value in enumerate(own)
    ]
    return StudyResult("tiny", "Does it?", next(iter(values)), ("cIoU",), tuple(measured))


def test_intervals_are_those_of_students_t() -> None:
    values = [0.41, 0.44, 0.52]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert str(mean_interval([0.41])) == "0.410"


def test_differences_are_paired_by_seed() -> None:
    """Both runs vary by seed far more than they differ, and differ by the same in each."""
    result = _result({"plain": [0.2, 0.4, 0.6], "more": [0.25, 0.45, 0.65]})
    difference = result.difference("more", "cIoU")
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.05, 0.05, 0.05))
    assert result.estimate("more", "cIoU").low < 0
    text = "\n".join(result.markdown())
    assert "| plain | 0.400 (-0.097 to 0.897) |  |" in text
    assert "| more | 0.450 (-0.047 to 0.947) | 0.050 (0.050 to 0.050) |" in text
    assert "- cIoU, more: 0.250, 0.450, 0.650" in text


def test_a_single_seed_has_the_interval_over_pictures() -> None:
    text = "\n".join(_result({"plain": [0.4], "more": [0.5]}).markdown())
    assert "| more | 0.500 (0.400 to 0.700) | 0.100 |" in text
    assert "say nothing of how far another seed would lie" in text


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


def test_what_a_run_changes_wins() -> None:
    study = _study()
    start, none, _ = study.runs
    assert study.recipe_of(start, 0, None, ["training.num_steps=3"]).training.num_steps == 7
    assert study.recipe_of(none, 0, None, ["training.num_steps=3"]).training.num_steps == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "start"}, "baseline: expected the name of a run that is scored, got 'start'"),
        ({"runs": [{"name": "a", "starts_from": "b"}, {"name": "b"}]}, "expected a run further up, got 'b'"),
        ({"runs": [{"name": "none"}, {"name": "none"}]}, "expected each once, got none, none"),
    ],
)
def test_wrong_studies_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _study(**changes)


def test_unknown_studies_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no study 'ablations': expected a YAML file or one of ablation, pretraining"):
        load_study("ablations")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, Recipe]]:
    """Runs that were asked for; instead of them, evaluations of made-up scores are published."""
    runs: list[tuple[str | None, Recipe]] = []

    def pretend(recipe: Recipe, display: object, until: str | None, verbose: bool) -> RunResult:
        training = recipe.training
        runs.append((until, recipe))
        place = Objects.open(tmp_path / f"evaluate/{len(runs)}")
        value = training.seed / 10 + (0.05 if training.init else 0.0)
        scores = [_score(value), _score(0.9, family="refcoco"), _score(0.01, Variant.SWAPPED)]
        facts = [
            {name: getattr(score, name) for name in Score.__slots__} | {"variant": score.variant.value}
            for score in scores
        ]
        publish(place, Manifest("evaluation", str(len(runs)), SCHEMA_VERSION, {}, {}, (), {"scores": facts}))
        key = f"{training.seed}-{training.num_steps}-{training.init}"
        outcomes = (
            Outcome("train", key, f"trained/{key}", State.RAN, 2.0, 1),
            Outcome("evaluate", key, place.url, State.RAN, 1.0, 1),
        )
        return RunResult(outcomes, "", None)

    monkeypatch.setattr(module, "run_recipe", pretend)
    return runs


def test_runs_start_from_the_student_of_the_same_seed(tmp_path: Path, asked: list[tuple[str | None, Recipe]]) -> None:
    with (tmp_path / "log").open("w") as log:
        result = run_study(_study(), [f"workspace={tmp_path}/runs"], PlainDisplay(log))
    assert [until for until, _ in asked] == ["train", "evaluate", "evaluate"] * 2
    inits = [recipe.training.init for _, recipe in asked]
    assert inits == [None, None, "trained/3-7-None", None, None, "trained/5-7-None"]
    assert {recipe.training.learning_rate for _, recipe in asked} == {0.5}
    assert result.runs() == ["none", "started"]
    assert result.values("started", "cIoU") == pytest.approx([0.35, 0.55])
    assert result.values("started", "swapped") == [0.01, 0.01]
    (folder,) = (tmp_path / "runs/studies").iterdir()
    record = json.loads((folder / "study.json").read_text())
    assert record["study"]["name"] == "tiny"
    assert [row["seconds"] for row in record["measured"]] == [2.0] * 6
    assert "| started |" in (folder / "table.md").read_text()


def test_a_score_that_was_not_taken_is_named(tmp_path: Path, asked: list[tuple[str | None, Recipe]]) -> None:
    study = _study(metrics=[{"label": "words", "benchmark": "description", "metric": "attribute_accuracy"}])
    with (
        (tmp_path / "log").open("w") as log,
        pytest.raises(UsageError, match=r"expected a score description attribute_accuracy standard .* referring cIoU"),
    ):
        run_study(study, [f"workspace={tmp_path}/runs"], PlainDisplay(log))
    assert len(asked) == 2
