"""The commands on a recipe: what makes outputs, stage by stage, and what compares or forecasts them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.arguments import DryRunOption, JsonOption, OverridesArgument, RecipeArgument, SeedOption, StagesOption
from jobs.completion import recipe_names
from jobs.told import Told, say, tell

if TYPE_CHECKING:
    from jobs.config import Recipe
    from jobs.runner import RunResult

__all__ = [
    "COMPARE_EXAMPLES",
    "CURATE_EXAMPLES",
    "DEMO_EXAMPLES",
    "EVALUATE_EXAMPLES",
    "PLAN_EXAMPLES",
    "RETRAIN_EXAMPLES",
    "RUN_EXAMPLES",
    "TEACH_EXAMPLES",
    "TRAIN_EXAMPLES",
    "compare",
    "curate",
    "demo",
    "evaluate",
    "plan",
    "retrain",
    "run",
    "teach",
    "train",
]

logger = logging.getLogger(__name__)

DEMO_EXAMPLES = "Examples:  sailloft demo   |   sailloft demo --real DIR   |   sailloft demo --recipe demo-all-tasks"
RUN_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft run my.yaml training.num_steps=500 workspace=s3://bucket/prefix --dry-run\n"
    "  sailloft run my.yaml --stages train,evaluate --json"
)
CURATE_EXAMPLES = "Examples:  sailloft curate my.yaml --dry-run   |   sailloft curate my.yaml --json"
TEACH_EXAMPLES = "Examples:  sailloft teach my.yaml --dry-run   |   sailloft teach my.yaml --verify 100"
TRAIN_EXAMPLES = "Examples:  sailloft train my.yaml --dry-run   |   sailloft train my.yaml training.seed=1"
EVALUATE_EXAMPLES = (
    "Examples:  sailloft evaluate my.yaml   |   sailloft evaluate my.yaml evaluation.suite=perbench --json"
)
COMPARE_EXAMPLES = "Example:  sailloft compare runs/a/evaluate/KEY runs/b/evaluate/KEY"
PLAN_EXAMPLES = "Examples:  sailloft plan my.yaml   |   sailloft plan my.yaml features.num_actors=64 --probe 64"
RETRAIN_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft retrain my.yaml\n"
    "  sailloft retrain my.yaml retrain.min_gain=0.005 workspace=s3://bucket/prefix --json\n"
    "  sailloft retrain my.yaml --dry-run"
)


def demo(
    overrides: OverridesArgument = None,
    real: Annotated[
        Path | None, typer.Option("--real", metavar="DIR", help="Use photographs: a folder in RefCOCO layout.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="Another recipe than demo or demo-real.",
            autocompletion=recipe_names,
        ),
    ] = None,
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", metavar="URL", help="Where outputs go; by default where the recipe says."),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs the whole flow on this machine and ends with a page of pictures, report.html, and what to try next."""
    from jobs.demo import demo_overrides, next_steps, program_name

    name = recipe or ("demo-real" if real else "demo")
    resolved = _load(name, [*demo_overrides(real, workspace), *(overrides or [])])
    result = _run(resolved, None, dry_run, as_json)
    if result is not None and not as_json:
        say(next_steps(name, result, program_name()))


def run(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    stages: StagesOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs every stage of a recipe whose output is missing, and writes the report.

    With --stages nothing else is made: what a stage reads has to be there, or the run ends with 2 before it.
    """
    from jobs.stages import parse_commands

    _run(_load(recipe, overrides), None, dry_run, as_json, None if stages is None else parse_commands(stages))


def curate(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Makes the corpus of a recipe (and its scenes, if it has any)."""
    _run(_load(recipe, overrides), "curate", dry_run, as_json)


def teach(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    verify: Annotated[
        int | None,
        typer.Option("--verify", metavar="N", min=1, help="Recompute N stored images of each teacher and compare."),
    ] = None,
    seed: SeedOption = 0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Makes the teachers' features, and what has to be there before.

    With --verify nothing is made: N images, drawn by --seed, are computed again and compared with what is stored.
    """
    resolved = _load(recipe, overrides)
    if verify is None or dry_run:
        _run(resolved, "teach", dry_run, as_json)
        return
    from jobs.verify import verify_recipe

    tell(verify_recipe(resolved, verify, seed, verbose=logger.isEnabledFor(logging.INFO)), as_json)


def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Trains the student, after making what has to be there before."""
    _run(_load(recipe, overrides), "train", dry_run, as_json)


def evaluate(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Scores the trained student and shows the table, after making what has to be there before.

    Published scores stand beside one's own, marked as such; the table lies in the output as .md and .csv too.
    """
    resolved = _load(recipe, overrides)
    if dry_run:
        _run(resolved, "evaluate", dry_run, as_json)
    else:
        tell(_made(resolved, "evaluate").told_with_scores(), as_json)


def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="Folder or URL of an evaluation: evaluate/<key>.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another one, on the same questions.")],
    as_json: JsonOption = False,
) -> None:
    """Compares two checkpoints on the same questions: differences of all scores, with paired intervals."""
    from jobs.compare import compare as differences_of
    from jobs.compare import differences_json, differences_text

    found = differences_of(first, second)
    say(differences_json(found) if as_json else differences_text(found, first, second))


def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    probe: Annotated[
        int, typer.Option("--probe", metavar="N", min=0, help="Measure each teacher on N images, on the cluster.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Shows what would run, and forecasts bytes, requests, hours and price of features, tokens and hours of training.

    Nothing is executed but the probe, which removes what it writes.
    """
    from jobs.plan import plan_recipe

    found = plan_recipe(_load(recipe, overrides), probe, verbose=logger.isEnabledFor(logging.INFO))
    tell(Told("\n".join(found.lines()), found.to_json()), as_json)


def retrain(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Trains a student again on what is new; the better one becomes the champion.

    Curates what is new, computes the features that are missing, trains from the champion, and scores both on the same
    samples. The new one is promoted if it is better beyond noise and no guarded score falls, else it is kept as
    challenger, with reasons; both end with 0. With nothing new nothing runs. One at a time: a second one ends with 4.
    """
    from jobs.display import open_display
    from jobs.retrain import describe_retrain
    from jobs.retrain import retrain as train_again

    resolved = _load(recipe, overrides)
    if dry_run:
        tell(describe_retrain(resolved), as_json)
        return
    with open_display() as display:
        result = train_again(resolved, display, verbose=logger.isEnabledFor(logging.INFO))
    tell(Told(result.summary(), result.to_json()), as_json)


def _load(recipe: str, overrides: list[str] | None) -> Recipe:
    from jobs.config import load_recipe

    return load_recipe(recipe, overrides or [])


def _run(
    recipe: Recipe, until: str | None, dry_run: bool, as_json: bool, only: Sequence[str] | None = None
) -> RunResult | None:
    """Runs, tells and returns what was done; or, on a dry run, tells what would be."""
    if dry_run:
        from jobs.runner import describe_plan

        tell(describe_plan(recipe, until if only is None else only[-1]), as_json)
        return None
    result = _made(recipe, until, only)
    tell(result.told(), as_json)
    return result


def _made(recipe: Recipe, until: str | None, only: Sequence[str] | None = None) -> RunResult:
    from jobs.display import open_display
    from jobs.runner import run_recipe

    with open_display() as display:
        return run_recipe(recipe, display, until, verbose=logger.isEnabledFor(logging.INFO), only=only)
