"""Runs a recipe: stages, the record of the run, and the report."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import yaml

from jobs.config import Recipe
from jobs.corpora import since_parent
from jobs.display import Display, format_seconds
from jobs.flow import Located, Outcome, State, Timings, run_stages
from jobs.session import ray_session
from jobs.stages import plan_stages
from pipelines.evaluation.score_sheet import SHEET_NAME
from pipelines.report.page import REPORT_NAME
from storage.errors import UsageError
from storage.keys import Json, content_key
from storage.manifest import read_manifest
from storage.objects import Objects

__all__ = ["RunResult", "describe_plan", "run_recipe"]

logger = logging.getLogger(__name__)

RECORD_NAME = "record.json"
_RECORD_VERSION = 1
_KEY_DIGITS = 16
"""Digits of a run's key in its folder's name: enough to tell the runs of one workspace apart."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did."""

    outcomes: tuple[Outcome, ...]
    folder: str
    """URL of the run's record and report."""
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

    def summary(self) -> str:
        """Lines for the user: what was done and where to look."""
        seconds = sum(outcome.seconds or 0 for outcome in self.outcomes if outcome.state is State.RAN)
        done = f"{self.num_ran} of {len(self.outcomes)} stages ran in {format_seconds(seconds)}"
        lines = [done if self.num_ran else f"all {len(self.outcomes)} stages present, nothing to do"]
        if self.news is not None:
            lines.append(self.news)
        if self.report is None:
            lines.append(f"{self.outcomes[-1].name}: {self.outcomes[-1].url}")
        else:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)


def run_recipe(recipe: Recipe, display: Display, until: str | None = None, verbose: bool = False) -> RunResult:
    """Makes whatever of a recipe is missing, then its report.

    A run that finds everything present writes nothing.

    Args:
        recipe: what to run.
        display: where progress is shown.
        until: the last command of interest, such as `teach`; None: all, with the report.
        verbose: shows Ray's own messages.

    Raises:
        UsageError: the recipe's workspace or roots can't be used.
        SailloftError: whatever a stage raises.
    """
    workspace = open_workspace(recipe)
    timings = Timings(workspace.child("runs/times"))
    stages = plan_stages(recipe, timings, until)

    def session() -> AbstractContextManager[None]:
        return ray_session(recipe.cluster, verbose)

    outcomes, outputs = run_stages(stages, display, timings, session)
    folder = workspace.child(f"runs/{recipe.name}-{run_key(outputs)[:_KEY_DIGITS]}")
    news = any(outcome.state is State.RAN for outcome in outcomes)
    if news or not folder.exists(RECORD_NAME):
        folder.put(RECORD_NAME, json.dumps(_record(recipe, outcomes), indent=1).encode())
    report = f"{outputs['report'].objects.url}/{REPORT_NAME}" if "report" in outputs else None
    return RunResult(tuple(outcomes), folder.url, report, _news(outcomes, outputs))


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


def run_key(outputs: dict[str, Located]) -> str:
    """Content key of a run: those of all its outputs."""
    keys: dict[str, Json] = {name: located.key for name, located in outputs.items()}
    return content_key(keys)


def describe_plan(recipe: Recipe, until: str | None = None) -> str:
    """The resolved recipe, and of every stage its address and whether the output is there; runs nothing."""
    workspace = open_workspace(recipe)
    timings = Timings(workspace.child("runs/times"))
    stages = plan_stages(recipe, timings, until)
    lines = [yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100).rstrip(), ""]
    outputs: dict[str, Located] = {}
    for stage in stages:
        located = stage.locate(outputs, None) if all(name in outputs for name in stage.inputs) else None
        if located is None:
            lines.append(f"{stage.name:<18}  {'missing':<8}  (its address follows from outputs or files not read yet)")
            continue
        outputs[stage.name] = located
        state = State.PRESENT if stage.complete(outputs, located) else "missing"
        lines.append(f"{stage.name:<18}  {state:<8}  {located.objects.url}")
    known = [seconds for located in outputs.values() if (seconds := timings.read(located.key)[0]) is not None]
    if known:
        lines.append(f"{'':<18}  what is present took {format_seconds(sum(known))}")
    return "\n".join(lines)


def _record(recipe: Recipe, outcomes: Sequence[Outcome]) -> dict[str, Json]:
    stages: list[Json] = [outcome.as_json() for outcome in outcomes]
    return {
        "version": _RECORD_VERSION,
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "stages": stages,
    }
