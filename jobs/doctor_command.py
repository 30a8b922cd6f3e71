"""The command `sailloft doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.arguments import JsonOption, OptionalRecipeArgument, OverridesArgument
from jobs.told import tell
from storage.errors import DataError, InfrastructureError

if TYPE_CHECKING:
    from jobs.config import Recipe

__all__ = ["DOCTOR_EXAMPLES", "doctor"]

DOCTOR_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft doctor\n"
    "  sailloft doctor --workspace s3://bucket/prefix --json\n"
    "  sailloft doctor my.yaml\n"
    "  sailloft doctor pixel-sail-0.5b curation.root=s3://bucket/data"
)


def doctor(
    recipe: OptionalRecipeArgument = None,
    overrides: OverridesArgument = None,
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", metavar="URL", help="Where outputs are to go; by default the recipe's, or runs."),
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", metavar="N", min=0, help="Pictures of each source that are opened.")
    ] = 50,
    as_json: JsonOption = False,
) -> None:
    """Examines this machine and, with a recipe, its sources: what is missing, what it is for, and what to do about it.

    Ends with 0 if nothing stands in the way, also with warnings; with 4 if this machine has a problem; else with 3 if
    something of the recipe's sources is missing.
    """
    from jobs.display import open_display
    from jobs.doctor import examine, has_sources
    from jobs.doctor import told as examined
    from jobs.machine_checks import Health, examine_machine

    resolved = None if recipe is None else _load(recipe, overrides)
    place = workspace or (resolved.workspace if resolved else "runs")
    with open_display() as display:
        checks = examine_machine(place)
        sources = None
        if resolved is not None and has_sources(resolved):
            sources = examine(resolved, pictures, display.stage("doctor"))
    tell(examined(checks, sources, resolved, sys.stdout), as_json)
    if any(check.health is Health.PROBLEM for check in checks):
        raise typer.Exit(InfrastructureError.exit_code)
    if any(source.findings for source in sources or ()):
        raise typer.Exit(DataError.exit_code)


def _load(recipe: str, overrides: list[str] | None) -> Recipe:
    from jobs.config import load_recipe

    return load_recipe(recipe, overrides or [])
