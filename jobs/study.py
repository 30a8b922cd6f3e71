"""`sailloft study`: the same recipe with one thing changed at a time, over several seeds, as a table with intervals.

Runs are ordinary runs: each stage lies under its content address, so that a study which was interrupted goes on, two
studies share what they have in common, and a study that is complete only prints its table again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from jobs.config import Recipe
from jobs.display import Display
from jobs.loading import apply_override, merge, read_recipe_tree, read_yaml, validate_recipe
from jobs.runner import open_workspace, run_recipe
from jobs.study_table import Measured, StudyResult
from pipelines.evaluation.records import Score, Variant
from pipelines.report.scores import score_rows
from storage.errors import InfrastructureError, UsageError
from storage.keys import Json, content_key
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.recipe import RecipeModel

__all__ = ["STUDIES_FOLDER", "Study", "StudyMetric", "StudyRun", "load_study", "packaged_studies", "run_study"]

STUDIES_FOLDER = Path(__file__).parent / "studies"
"""Folder of the studies that come with the package."""

_KEY_DIGITS = 16

Tree = dict[str, object]


class StudyRun(RecipeModel):
    """One way to run the recipe."""

    name: str = Field(pattern=r"^[a-z0-9+][a-z0-9._+-]*$", max_length=48)
    """What the table calls it."""
    changes: Tree = Field(default_factory=dict)
    """Settings that are laid over the recipe, as in a recipe that extends it."""
    starts_from: str | None = None
    """Name of the run whose student, with the same seed, this one starts from; it stands further up. Null: the
    recipe's own `training.init`."""
    scored: bool = True
    """Whether it is evaluated and stands in the table; false for stages that others start from."""


class StudyMetric(RecipeModel):
    """A column of the table."""

    label: str
    """Its heading."""
    benchmark: str = "referring"
    """Name of the benchmark."""
    metric: str = "cIoU"
    """Name of the score."""
    variant: Variant = Variant.STANDARD
    """Variant whose score is taken."""


class Study(RecipeModel):
    """A question, the runs that answer it, and what is measured."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=48)
    """Short name."""
    question: str
    """What the study asks, in a sentence."""
    recipe: str
    """Packaged recipe or path that all runs have in common."""
    changes: Tree = Field(default_factory=dict)
    """Settings that are laid over it in all runs."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Values of `training.seed`; each run is made once with each."""
    baseline: str
    """Run that the others are compared with, seed by seed."""
    runs: tuple[StudyRun, ...] = Field(min_length=1)
    """In the order in which they are made."""
    metrics: tuple[StudyMetric, ...] = Field(min_length=1)
    """What is measured."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [run.name for run in self.runs]
        if len(set(names)) < len(names) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"runs and seeds: expected each once, got {', '.join(names)} and {list(self.seeds)}")
        for place, run in enumerate(self.runs):
            if run.starts_from is not None and run.starts_from not in names[:place]:
                raise ValueError(f"runs.{place}.starts_from: expected a run further up, got {run.starts_from!r}")
        if self.baseline not in [run.name for run in self.runs if run.scored]:
            raise ValueError(f"baseline: expected the name of a run that is scored, got {self.baseline!r}")
        return self

    def recipe_of(self, run: StudyRun, seed: int, init: str | None, overrides: Sequence[str]) -> Recipe:
        """The recipe of one run.

        Args:
            run: which.
            seed: of its training.
            init: URL of the checkpoint it starts from, if another run made it.
            overrides: `FIELD=VALUE` for all runs; what a run changes itself stays changed.

        Raises:
            UsageError: the recipe can't be read, or a field is wrong.
        """
        tree = merge(read_recipe_tree(self.recipe), self.changes)
        for override in overrides:
            tree = apply_override(tree, override)
        tree = merge(tree, run.changes)
        training: Tree = {"seed": seed} if init is None else {"seed": seed, "init": init}
        return validate_recipe(Recipe, merge(tree, {"training": training}), f"{self.recipe} of study {self.name}")


def packaged_studies() -> dict[str, Path]:
    """Studies that come with the package: name to file."""
    return {path.stem: path for path in sorted(STUDIES_FOLDER.glob("*.yaml"))}


def load_study(study: str) -> Study:
    """Reads a study.

    Args:
        study: name of a packaged one, or path of a YAML file.

    Raises:
        UsageError: it can't be read or has a wrong field; the message names each one.
    """
    packaged = packaged_studies()
    path = packaged.get(study, Path(study))
    if not path.is_file():
        raise UsageError(f"no study {study!r}: expected a YAML file or one of {', '.join(packaged)}")
    return validate_recipe(Study, read_yaml(path), study)


def run_study(study: Study, overrides: Sequence[str], display: Display, verbose: bool = False) -> StudyResult:
    """Makes whatever runs of a study are missing, and its table beside their outputs.

    Args:
        study: what to run.
        overrides: `FIELD=VALUE` for the recipe of all runs.
        display: where progress is shown.
        verbose: shows Ray's own messages.

    Raises:
        UsageError: a recipe of the study can't be used, or measures another thing than the study asks for.
        SailloftError: whatever a stage raises.
    """
    measured: list[Measured] = []
    keys: dict[str, Json] = {}
    workspace: Objects | None = None
    for seed in study.seeds:
        checkpoints: dict[str, str] = {}
        for run in study.runs:
            init = None if run.starts_from is None else checkpoints[run.starts_from]
            recipe = study.recipe_of(run, seed, init, overrides)
            workspace = open_workspace(recipe)
            display.note("study", f"{run.name}, seed {seed}")
            result = run_recipe(recipe, display, "evaluate" if run.scored else "train", verbose)
            urls = {outcome.name: outcome.url for outcome in result.outcomes}
            seconds = {outcome.name: outcome.seconds for outcome in result.outcomes}
            checkpoints[run.name] = urls["train"]
            keys[f"{run.name}/{seed}"] = {outcome.name: outcome.key for outcome in result.outcomes}
            scores = _scores(study, urls["evaluate"]) if run.scored else {}
            measured.append(Measured(run.name, seed, recipe.training.num_steps, scores, seconds["train"]))
    assert workspace is not None, "a study has runs"
    result = StudyResult(
        name=study.name,
        question=study.question,
        baseline=study.baseline,
        metrics=tuple(metric.label for metric in study.metrics),
        measured=tuple(measured),
    )
    folder = workspace.child(f"studies/{study.name}-{content_key(keys)[:_KEY_DIGITS]}")
    record = {"study": study.model_dump(mode="json"), "overrides": list(overrides), "keys": keys, **result.to_json()}
    folder.put("study.json", json.dumps(record, indent=1).encode())
    folder.put("table.md", "\n".join(result.markdown()).encode() + b"\n")
    return result


def _scores(study: Study, url: str) -> Mapping[str, Score]:
    """The study's scores among those of an evaluation, by their labels."""
    manifest = read_manifest(Objects.open(url))
    if manifest is None:
        raise InfrastructureError(f"{url}: the evaluation is gone; run the same command again")
    rows = [row for row in score_rows([manifest]) if row.overall]
    found: dict[str, Score] = {}
    for metric in study.metrics:
        wanted = (metric.benchmark, metric.metric, metric.variant)
        own = [row for row in rows if (row.benchmark, row.metric, row.variant) == wanted]
        if not own:
            have = sorted({f"{row.benchmark} {row.metric} {row.variant.value}" for row in rows})
            raise UsageError(
                f"study {study.name}: expected a score {' '.join(wanted)} of {url}, got {', '.join(have)}; add the "
                "benchmark to the study's recipe"
            )
        found[metric.label] = own[0]
    return found
