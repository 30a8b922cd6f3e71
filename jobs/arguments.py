"""Arguments and options that several commands share, so that what means the same is called the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.completion import recipe_names, stage_lists

__all__ = [
    "DeviceOption",
    "DryRunOption",
    "JsonOption",
    "NewFolderOption",
    "OptionalRecipeArgument",
    "OverridesArgument",
    "RecipeArgument",
    "SeedOption",
    "StagesOption",
    "WorkspaceOption",
]

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Path of a YAML file, or a packaged recipe such as demo.", autocompletion=recipe_names
    ),
]
OptionalRecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE", help="Path of a YAML file, or a packaged recipe such as demo.", autocompletion=recipe_names
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FIELD=VALUE",
        help="Overrides such as training.num_steps=500; the value is YAML, a number steps into a list.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be made or changed, and where; change nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")]
StagesOption = Annotated[
    str | None,
    typer.Option(
        "--stages",
        metavar="A,B,...",
        help="Only these of curate, teach, train, evaluate, report, each after what it reads; all by default.",
        autocompletion=stage_lists,
    ),
]
NewFolderOption = Annotated[
    Path, typer.Option("--to", metavar="DIR", help="Folder to make; it must not hold anything.")
]
WorkspaceOption = Annotated[str, typer.Option("--workspace", metavar="URL", help="Where recipes keep their outputs.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="DEVICE", help="Where it runs, such as cpu or cuda.")]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of what is drawn at random.")]
