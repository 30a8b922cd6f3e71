"""Runs a recipe: stages, the record of the run, and the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import yaml

from jobs.config import Recipe
from jobs.corpora import since_parent
from jobs.display import Display
from jobs.flow import Located, Outcome, State, Timings, run_stages
from jobs.run_watch import RunWatch
from jobs.session import one_session
from jobs.stages import plan_stages
from jobs.told import Told
from pipelines.evaluation.score_sheet import SHEET_NAME
from pipelines.quantities import seconds_text
from pipelines.report.page import REPORT_NAME
from storage.errors import UsageError
from storage.keys import Json
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.stage_notes import STAGE_NOTES

__all__ = ["RunResult", "describe_plan", "open_workspace", "run_recipe"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did."""

    outcomes: tuple[Outcome, ...]
    folder: str
    """URL of the run's record, or of the newest one that tells of the same outputs."""
    report: str | None
    """Path or URL of the report; None if the run ended before it."""
    news: str | None = None
    """How a corpus that the run made differs from its parent."""

    @property
    def num_ran(self) -> int:
        """Stages that did work."""
        return sum(outcome.state is State.RAN for outcome in self.outcomes)

    def score_sheets(self) -> list[str]:
        """The table of the evaluation that the run made or found; none if it ended before it."""
        urls = [outcome.url for outcome in self.outcomes if outcome.name == "evaluate"]
        return [Objects.open(url).read(SHEET_NAME).decode() for url in urls]

    def told(self) -> Told:
        """What was done and where to look."""
        stages: list[Json] = [outcome.as_json() for outcome in self.outcomes]
        return Told(
            self.summary(),
            {
                "num_ran": self.num_ran,
                "stages": stages,
                "record": self.folder,
                "report": self.report,
                "since_parent": self.news,
            },
        )

    def told_with_scores(self) -> Told:
        """What was done, and the scores of the evaluation that was made or found."""
        told, rows = self.told(), list[Json]()
        for outcome in self.outcomes:
            manifest = read_manifest(Objects.open(outcome.url)) if outcome.name == "evaluate" else None
            rows += [] if manifest is None else cast("list[Json]", manifest.facts.get("scores", []))
        return Told("\n".join([told.text, "", *self.score_sheets()]), {**told.data, "scores": rows})

    def summary(self) -> str:
        """The same for people."""
        seconds = sum(outcome.seconds or 0 for outcome in self.outcomes if outcome.state is State.RAN)
        done = f"{self.num_ran} of {len(self.outcomes)} stages ran in {seconds_text(seconds)}"
        lines = [done if self.num_ran else f"all {len(self.outcomes)} stages present, nothing to do"]
        if self.news is not None:
            lines.append(self.news)
        if self.report is None:
            lines.append(f"{self.outcomes[-1].name}: {self.outcomes[-1].url}")
        else:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)


def run_recipe(
    recipe: Recipe,
    display: Display,
    until: str | None = None,
    verbose: bool = False,
    only: Sequence[str] | None = None,
) -> RunResult:
    """Makes whatever of a recipe is missing, then its report.

    What happens is recorded below `runs/`, see `storage.run_records`. A run that finds everything present writes
    nothing, unless the newest record of the recipe tells of other outputs.

    Args:
        recipe: what to run.
        display: where progress is shown.
        until: the last command of interest, such as `teach`; None: all, with the report.
        verbose: shows Ray's own messages.
        only: commands that may do work, in the order of the flow; what they read of others has to be there. None: all.

    Raises:
        UsageError: the recipe's workspace or roots can't be used, or a command of `only` lacks its inputs.
        SailloftError: whatever a stage raises.
    """
    workspace = open_workspace(recipe)
    timings = Timings(workspace.child(STAGE_NOTES))
    stages = plan_stages(recipe, timings, until if only is None else only[-1])
    watch = RunWatch(workspace, recipe)
    with watch.watching():
        with one_session(recipe.cluster, verbose, watch.on_ray) as session:
            outcomes, outputs = run_stages(stages, display, timings, session, watch, only)
        folder = watch.finish()
    report = f"{outputs['report'].objects.url}/{REPORT_NAME}" if "report" in outputs else None
    return RunResult(tuple(outcomes), folder, report, _news(outcomes, outputs))


def _news(outcomes: Sequence[Outcome], outputs: dict[str, Located]) -> str | None:
    if any(outcome.name == "curate" and outcome.state is State.RAN for outcome in outcomes):
        manifest = read_manifest(outputs["curate"].objects)
        return None if manifest is None else since_parent(manifest)
    return None


def open_workspace(recipe: Recipe) -> Objects:
    """The workspace of a recipe.

    Raises:
        UsageError: it is in memory, where Ray's workers can't reach it.
    """
    if recipe.workspace.startswith("memory:"):
        raise UsageError(f"workspace {recipe.workspace!r}: Ray's workers can't reach memory; give a folder or a bucket")
    return Objects.open(recipe.workspace)


def describe_plan(recipe: Recipe, until: str | None = None) -> Told:
    """The resolved recipe, and of every stage its address and whether the output is there; runs nothing."""
    workspace = open_workspace(recipe)
    timings = Timings(workspace.child(STAGE_NOTES))
    stages = plan_stages(recipe, timings, until)
    tree = recipe.model_dump(mode="json")
    lines = [yaml.safe_dump(tree, sort_keys=False, width=100).rstrip(), ""]
    outputs: dict[str, Located] = {}
    rows: list[Json] = []
    for stage in stages:
        located = stage.locate(outputs, None) if all(name in outputs for name in stage.inputs) else None
        if located is None:
            lines.append(f"{stage.name:<18}  {'missing':<8}  (its address follows from outputs or files not read yet)")
            rows.append({"name": stage.name, "state": "missing", "key": None, "url": None})
            continue
        outputs[stage.name] = located
        state = State.PRESENT.value if stage.complete(outputs, located) else "missing"
        lines.append(f"{stage.name:<18}  {state:<8}  {located.objects.url}")
        rows.append({"name": stage.name, "state": state, "key": located.key, "url": located.objects.url})
    known = [seconds for located in outputs.values() if (seconds := timings.read(located.key)[0]) is not None]
    if known:
        lines.append(f"{'':<18}  what is present took {seconds_text(sum(known))}")
    return Told("\n".join(lines), {"dry_run": True, "recipe": tree, "stages": rows})
