"""`sailloft study`: makes the runs of a study, or those that are asked for, and gathers what all finished ones gave.

Runs are ordinary runs: each stage lies under its content address, so that a study which was interrupted goes on, two
studies share what they have in common, and a study that is complete only prints its table again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from jobs.config import Recipe
from jobs.display import Display
from jobs.flow import Located, Timings
from jobs.runner import open_workspace, run_recipe
from jobs.stages import plan_stages
from jobs.study import Study, StudyRun
from jobs.study_charts import study_charts
from jobs.study_report import markdown
from jobs.study_table import Measured, StudyResult
from pipelines.evaluation.records import Score
from pipelines.progress import NullProgress
from pipelines.report.scores import score_rows
from pipelines.training.notes import VALIDATION, read_notes, training_logs
from storage.errors import UsageError
from storage.keys import Json, content_key
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.stage_notes import STAGE_NOTES

__all__ = ["finished_study", "run_study", "study_folder"]

_KEY_DIGITS = 16
_CURVE = "cIoU"
"""Validation score whose curve is kept."""


def run_study(
    study: Study,
    overrides: Sequence[str],
    display: Display,
    verbose: bool = False,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> StudyResult:
    """Makes whatever runs of a study are missing, then gathers all that are finished.

    Args:
        study: what to run.
        overrides: `FIELD=VALUE` for the recipe of all runs.
        display: where progress is shown.
        verbose: shows Ray's own messages.
        only: names of the runs to make, with those that they start from; empty: all.
        seeds: of the study's seeds those to make; empty: all.

    Raises:
        UsageError: a recipe of the study can't be used or measures another thing than the study asks for, or a run or
            seed that the study hasn't.
        SailloftError: whatever a stage raises.
    """
    chosen = study.by_seed(only, seeds)
    once = {run.name: (run, seed) for seed, runs in chosen for run in runs}
    for run, seed in once.values():  # what is wrong with any recipe is told before the first run is made
        study.recipe_of(run, seed, None, overrides)
    for seed, runs in chosen:
        checkpoints: dict[str, str] = {}
        for run in runs:
            init = None if run.starts_from is None else checkpoints[run.starts_from]
            recipe = study.recipe_of(run, seed, init, overrides)
            display.note("study", f"{run.name}, seed {seed}")
            result = run_recipe(recipe, display, "evaluate" if run.scored else "train", verbose)
            checkpoints[run.name] = next(outcome.url for outcome in result.outcomes if outcome.name == "train")
    return finished_study(study, overrides)


def finished_study(study: Study, overrides: Sequence[str]) -> StudyResult:
    """Gathers what the finished runs of a study gave, and writes table and charts; makes no run.

    Args:
        study: which.
        overrides: `FIELD=VALUE`, as they were given to the runs.

    Raises:
        UsageError: a recipe of the study can't be used, or measures another thing than the study asks for.
    """
    measured: list[Measured] = []
    for seed, runs in study.by_seed():
        checkpoints: dict[str, str | None] = {}
        for run in runs:
            init = None if run.starts_from is None else checkpoints[run.starts_from]
            if run.starts_from is not None and init is None:
                checkpoints[run.name] = None
                continue
            recipe = study.recipe_of(run, seed, init, overrides)
            outputs = _outputs(recipe)
            checkpoints[run.name] = outputs["train"].objects.url if "train" in outputs else None
            if ("evaluate" if run.scored else "train") in outputs:
                measured.append(_measured(study, run, seed, recipe, outputs))
    result = StudyResult(
        name=study.name,
        question=study.question,
        baseline=study.baseline,
        metrics=tuple(metric.label for metric in study.metrics),
        runs=tuple(run.name for run in study.runs if run.scored),
        planned=tuple((run.name, seed) for run in study.runs if run.scored for seed in study.seeds_of(run)),
        measured=tuple(measured),
    )
    _write(study, overrides, result)
    return result


def study_folder(study: Study, overrides: Sequence[str]) -> Objects:
    """Prefix of a study's table and charts: the same for all pieces in which it is run."""
    key = content_key({"study": study.model_dump(mode="json"), "overrides": list(overrides)})
    workspace = open_workspace(study.recipe_of(study.runs[0], study.seeds[0], None, overrides))
    return workspace.child(f"studies/{study.name}-{key[:_KEY_DIGITS]}")


def _outputs(recipe: Recipe) -> dict[str, Located]:
    """Outputs of a recipe that are there, by stage; users' own sources are read for it, as for a run."""
    found: dict[str, Located] = {}
    for stage in plan_stages(recipe, Timings(open_workspace(recipe).child(STAGE_NOTES)), "evaluate"):
        located = stage.locate(found, NullProgress()) if all(name in found for name in stage.inputs) else None
        if located is not None and stage.complete(found, located):
            found[stage.name] = located
    return found


def _measured(study: Study, run: StudyRun, seed: int, recipe: Recipe, outputs: Mapping[str, Located]) -> Measured:
    workspace, trained = open_workspace(recipe), outputs["train"]
    notes = read_notes(training_logs(workspace, trained.key), VALIDATION)
    return Measured(
        run=run.name,
        seed=seed,
        num_steps=recipe.training.num_steps,
        scores=_scores(study, outputs["evaluate"].objects) if run.scored else {},
        seconds=Timings(workspace.child(STAGE_NOTES)).read(trained.key)[0],
        curve=tuple((int(row["step"]), row[_CURVE]) for row in notes if _CURVE in row),
        keys={name: located.key for name, located in outputs.items()},
    )


def _scores(study: Study, evaluated: Objects) -> Mapping[str, Score]:
    """The study's scores among those of an evaluation, by their labels."""
    manifest = read_manifest(evaluated)
    assert manifest is not None, "the evaluation is complete"
    rows = [row for row in score_rows([manifest]) if row.overall]
    found: dict[str, Score] = {}
    for metric in study.metrics:
        wanted = (metric.benchmark, metric.metric, metric.variant)
        own = [row for row in rows if (row.benchmark, row.metric, row.variant) == wanted]
        if not own:
            have = sorted({f"{row.benchmark} {row.metric} {row.variant.value}" for row in rows})
            raise UsageError(
                f"study {study.name}: expected a score {' '.join(wanted)} of {evaluated.url}, got {', '.join(have)}; "
                "add the benchmark to the study's recipe"
            )
        found[metric.label] = own[0]
    return found


def _write(study: Study, overrides: Sequence[str], result: StudyResult) -> None:
    folder = study_folder(study, overrides)
    record: dict[str, Json] = {"study": study.model_dump(mode="json"), "overrides": list(overrides)}
    folder.put("study.json", json.dumps(record | result.to_json(), indent=1).encode())
    folder.put("table.md", "\n".join(markdown(study, result)).encode() + b"\n")
    for name, chart in study_charts(study, result).items():
        folder.put(name, chart.encode())
