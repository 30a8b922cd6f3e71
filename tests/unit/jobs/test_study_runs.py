"""Which runs a study makes, in which pieces, and what it writes of those that are finished."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs import study_runs as module
from jobs.cli import app
from jobs.config import Recipe
from jobs.display import PlainDisplay
from jobs.flow import Located, Outcome, State
from jobs.runner import RunResult
from jobs.study import Study
from jobs.study_runs import finished_study, run_study, study_folder
from jobs.study_table import StudyResult
from pipelines.evaluation.records import Score, Variant
from pipelines.training.notes import VALIDATION, training_logs
from storage.errors import UsageError
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION
from tests.small_studies import small_score, small_study


@dataclass
class Pretended:
    """Runs that were asked for; instead of them, outputs with made-up scores are written."""

    folder: Path
    asked: list[tuple[str, Recipe]] = field(default_factory=list)

    def run(self, recipe: Recipe, display: object, until: str, verbose: bool) -> RunResult:
        self.asked.append((until, recipe))
        located = self._located(recipe)
        publish(located["train"].objects, Manifest("training", located["train"].key, SCHEMA_VERSION, {}, {}, (), {}))
        curve = [{"step": step, "cIoU": step / 10 + recipe.training.seed / 100} for step in (1, 2)]
        logs = training_logs(Objects.open(recipe.workspace), located["train"].key)
        logs.put(VALIDATION, "".join(json.dumps(row) + "\n" for row in curve).encode())
        if until == "evaluate":
            value = recipe.training.seed / 10 + (0.05 if recipe.training.init else 0.0)
            scores = [small_score(value), small_score(0.9, family="refcoco"), small_score(0.01, Variant.SWAPPED)]
            facts = [
                {name: getattr(score, name) for name in Score.__slots__} | {"variant": score.variant.value}
                for score in scores
            ]
            manifest = Manifest("evaluation", located["evaluate"].key, SCHEMA_VERSION, {}, {}, (), {"scores": facts})
            publish(located["evaluate"].objects, manifest)
        outcomes = [Outcome(name, own.key, own.objects.url, State.RAN, 2.0, 1) for name, own in located.items()]
        return RunResult(tuple(outcomes), "", None)

    def outputs(self, recipe: Recipe) -> dict[str, Located]:
        return {name: own for name, own in self._located(recipe).items() if own.complete}

    def _located(self, recipe: Recipe) -> dict[str, Located]:
        training = recipe.training
        key = f"{training.seed}-{training.num_steps}-{Path(training.init or 'none').name}"
        return {name: Located(key, Objects.open(str(self.folder / name / key))) for name in ("train", "evaluate")}

    def study(self, study: Study, **options: object) -> StudyResult:
        with (self.folder / "log").open("w") as log:
            return run_study(study, self.overrides, PlainDisplay(log), **options)

    @property
    def overrides(self) -> list[str]:
        return [f"workspace={self.folder}/runs"]


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    found = Pretended(tmp_path)
    monkeypatch.setattr(module, "run_recipe", found.run)
    monkeypatch.setattr(module, "_outputs", found.outputs)
    return found


def test_runs_start_from_the_student_of_the_same_seed(pretended: Pretended) -> None:
    result = pretended.study(small_study(steps_to=["none"]))
    assert [until for until, _ in pretended.asked] == ["train", "evaluate", "evaluate"] * 2
    inits = [Path(recipe.training.init or "none").name for _, recipe in pretended.asked]
    assert inits == ["none", "none", "3-7-none", "none", "none", "5-7-none"]
    assert {recipe.training.learning_rate for _, recipe in pretended.asked} == {0.5}
    assert result.finished_runs() == ["none", "started"]
    assert result.values("started", "cIoU") == pytest.approx({3: 0.35, 5: 0.55})
    assert result.values("started", "swapped") == {3: 0.01, 5: 0.01}
    assert result.steps_to("started", "none") == {3: 2.0, 5: 2.0}
    folder = Path(study_folder(small_study(steps_to=["none"]), pretended.overrides).url)
    record = json.loads((folder / "study.json").read_text())
    assert record["study"]["name"] == "tiny"
    assert record["missing"] == []
    assert len(record["measured"]) == 6
    assert record["measured"][1]["validation_cIoU"] == [[1, 0.13], [2, 0.23]]
    assert "| started | 2 |" in (folder / "table.md").read_text()
    assert (folder / "curves-all.svg").read_text().startswith("<svg")
    assert "started" in (folder / "scores-all.svg").read_text()


def test_a_study_is_made_in_pieces(pretended: Pretended) -> None:
    """All pieces have one folder, and each shows what is finished by then."""
    study = small_study()
    first = pretended.study(study, only=["started"], seeds=[5])
    assert [(until, recipe.training.seed) for until, recipe in pretended.asked] == [("train", 5), ("evaluate", 5)]
    assert first.missing == (("none", 3), ("none", 5), ("started", 3))
    second = pretended.study(study, only=["none"])
    assert second.missing == (("started", 3),)
    assert finished_study(study, pretended.overrides) == second
    assert len(pretended.asked) == 4
    (folder,) = (pretended.folder / "runs/studies").iterdir()
    assert "3 of 4 runs are finished. Missing: started: seed 3." in (folder / "table.md").read_text()


def test_more_seeds_of_one_run_are_counted_with_it_alone(pretended: Pretended) -> None:
    study = small_study(
        runs=[{"name": "none"}, {"name": "longer", "more_seeds": [7], "changes": {"training": {"num_steps": 3}}}]
    )
    result = pretended.study(study, seeds=[5, 7])
    assert [(recipe.training.seed, recipe.training.num_steps) for _, recipe in pretended.asked] == [
        (5, 2),
        (5, 3),
        (7, 3),
    ]
    assert result.missing == (("none", 3), ("longer", 3))
    assert result.values("longer", "cIoU") == pytest.approx({5: 0.5, 7: 0.7})
    difference = result.difference("longer", "cIoU")
    assert difference is not None
    assert difference.value == 0.0  # of the seeds of both


def test_nothing_finished_is_no_error(pretended: Pretended) -> None:
    assert finished_study(small_study(), pretended.overrides).finished_runs() == []
    assert pretended.asked == []


def test_seeds_that_the_study_has_not_are_refused(pretended: Pretended) -> None:
    with pytest.raises(UsageError, match=r"--seeds: expected seeds of study tiny \[3, 5\], got 4"):
        pretended.study(small_study(), seeds=[4])
    assert pretended.asked == []


def test_a_score_that_was_not_taken_is_named(pretended: Pretended) -> None:
    study = small_study(metrics=[{"label": "words", "benchmark": "referring", "metric": "attribute_accuracy"}])
    with pytest.raises(UsageError, match=r"expected a score referring attribute_accuracy standard .* referring cIoU"):
        pretended.study(study)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"benchmark": "description"}, r"metrics.0.benchmark: expected one of the recipe's \(referring\), got 'descri"),
        ({"variant": "moved"}, r"metrics.0.variant: expected one that referring asks in \(.*\), got 'moved'; add it"),
    ],
)
def test_a_score_that_no_run_would_give_is_named_before_the_first(
    pretended: Pretended, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pretended.study(small_study(metrics=[{"label": "words", **fields}]))
    assert pretended.asked == []


def _told(pretended: Pretended, *options: str) -> str:
    """What the command says of the study, whose file and workspace are those of the test."""
    path = pretended.folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(small_study().model_dump(mode="json")))
    result = CliRunner().invoke(app, ["study", str(path), *pretended.overrides, *options])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_command_makes_pieces_and_shows_what_is_finished(pretended: Pretended) -> None:
    piece = _told(pretended, "--only", "none", "--seeds", "3")
    assert "1 of 4 runs are finished. Missing: none: seed 5; started: seed 3, 5." in piece
    assert len(pretended.asked) == 1
    shown = _told(pretended, "--finished")
    assert shown.splitlines()[-1].startswith(f"table and charts: {pretended.folder}/runs/studies/tiny-")
    assert "| none | 1 | 0.300 (0.200 to 0.500) |" in shown
    assert len(pretended.asked) == 1


def test_what_is_finished_is_not_asked_for_in_pieces(pretended: Pretended) -> None:
    with pytest.raises(UsageError, match="--finished: expected no --only, --seeds or --dry-run beside it"):
        _told(pretended, "--finished", "--seeds", "3")
