"""What `sailloft doctor` says of a machine and of the sources of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO, cast

import typer

from jobs.colour import wants_colour
from jobs.machine_checks import Check, Health
from jobs.told import Told
from pipelines.curation.examination import SourceExamination, examine_sources
from pipelines.curation.families.base import NOT_STATED
from pipelines.progress import Progress
from storage.keys import Json

if TYPE_CHECKING:
    from jobs.config import Recipe

__all__ = ["examination_text", "examine", "has_sources", "machine_text", "told"]

_COLOURS = {Health.OK: "green", Health.WARNING: "yellow", Health.PROBLEM: "red", Health.OPTIONAL: "bright_black"}
_NO_BROWSER = "a browser isn't needed: reports are single files, and `sailloft view` is for the browser that you have"


def has_sources(recipe: Recipe) -> bool:
    """Whether a recipe reads source files; else it draws its own."""
    return recipe.scenes is None or recipe.curation.root is not None


def examine(recipe: Recipe, num_pictures: int, progress: Progress) -> tuple[SourceExamination, ...]:
    """Looks at the sources of a recipe.

    Raises:
        UsageError: a source has no root.
    """
    return examine_sources(recipe.curation, num_pictures, progress)


def told(
    checks: Sequence[Check], sources: Sequence[SourceExamination] | None, recipe: Recipe | None, stream: TextIO
) -> Told:
    """All that was seen.

    Args:
        checks: of the machine.
        sources: of the recipe; None: it reads none, or none was given.
        recipe: that was given, if any.
        stream: that the text goes to, which decides on colour.
    """
    lines = machine_text(checks, wants_colour(stream))
    if recipe is not None:
        lines += ["", f"recipe {recipe.name}", *_recipe_lines(recipe, sources)]
    rows = [cast("Json", asdict(source)) for source in sources or ()]
    data: dict[str, Json] = {
        "worst": _worst(checks).value,
        "machine": [cast("Json", {**asdict(check), "health": check.health.value}) for check in checks],
        "recipe": None if recipe is None else recipe.name,
        "sources": None if sources is None else rows,
    }
    return Told("\n".join(lines), data)


def machine_text(checks: Sequence[Check], coloured: bool = False) -> list[str]:
    """A line for each thing that was looked at, with the remedy below it, and what that comes to."""
    width = max(len(check.name) for check in checks)
    lines: list[str] = []
    for check in checks:
        health = f"{check.health:<8}"
        shown = typer.style(health, fg=_COLOURS[check.health]) if coloured else health
        lines.append(f"{shown}  {check.name:<{width}}  {check.found}")
        if check.remedy is not None:
            lines.append(f"{'':<{width + 12}}{check.remedy}")
    return [*lines, "", _NO_BROWSER, _conclusion(checks)]


def _worst(checks: Sequence[Check]) -> Health:
    found = {check.health for check in checks}
    return next((health for health in (Health.PROBLEM, Health.WARNING) if health in found), Health.OK)


def _conclusion(checks: Sequence[Check]) -> str:
    worst = _worst(checks)
    if worst is Health.PROBLEM:
        return "this machine has a problem that will stop commands; begin with the first one above"
    if worst is Health.WARNING:
        return "this machine will do; mind the warnings before large runs. Begin with `sailloft demo`"
    return "this machine is fit; begin with `sailloft demo`"


def _recipe_lines(recipe: Recipe, sources: Sequence[SourceExamination] | None) -> list[str]:
    if sources is None:
        return ["ok       draws its own scenes: there are no sources that could be missing"]
    return [examination_text(sources)]


def examination_text(found: Sequence[SourceExamination]) -> str:
    """What was seen, in lines: a line per source, and what is missing with the expected layout below it."""
    lines: list[str] = []
    for source in found:
        seen = f"{len(source.files)} source files, {source.num_records} records read"
        pictures = f"{source.num_pictures - source.num_missing} of {source.num_pictures} pictures there"
        state = "MISSING" if source.findings else "ok"
        lines.append(f"{state:8} sources[{source.place}] {source.kind}: {seen}, {pictures}")
        for reason, number in sorted(source.rejects.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"           {number} of the records read give no sample: {reason}")
        for finding in source.findings:
            lines.append(f"           {finding.name}: {finding.problem}")
            lines.append(f"             {finding.remedy}")
        if source.findings:
            expected = ", ".join(source.files) or "a folder of files"
            lines.append(f"           expected under {source.root}: {expected}")
            published = source.published
            if published.url != NOT_STATED:
                lines.append(
                    f"           published at {published.url} (licence: {published.licence}; size: {published.size})"
                )
    return "\n".join(lines)
