"""The commands `sailloft registry ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import DryRunOption, JsonOption, WorkspaceOption
from jobs.completion import registry_names
from jobs.told import tell

__all__ = ["registry_app"]

registry_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Says which student is the champion and why, and changes it."
)

RegistryArgument = Annotated[
    str,
    typer.Argument(
        metavar="REGISTRY",
        help="Address of a registry, as `retrain` prints it, or its name, which is looked up in the workspace.",
        autocompletion=registry_names,
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; is kept.")]


@registry_app.command(
    "show",
    short_help="Shows champion, challenger, versions and history.",
    epilog="Examples:  sailloft registry show runs/demo/registry/demo   |   "
    "sailloft registry show demo --workspace s3://bucket/prefix --json",
)
def show(registry: RegistryArgument, workspace: WorkspaceOption = "runs", as_json: JsonOption = False) -> None:
    """Shows champion and challenger, all versions with what they were made of, and what happened and why."""
    from jobs.registries import describe_registry, find_registry, registry_json

    found = find_registry(registry, workspace)
    typer.echo(registry_json(found) if as_json else describe_registry(found))


@registry_app.command(
    "promote",
    short_help="Makes a version the champion.",
    epilog="\b\nExamples:\n"
    "  sailloft registry promote runs/demo/registry/demo 3 --dry-run\n"
    "  sailloft registry promote runs/demo/registry/demo 3 --reason 'looked at by Ada'",
)
def promote(
    registry: RegistryArgument,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version, as `show` lists it.")],
    workspace: WorkspaceOption = "runs",
    reason: ReasonOption = "by hand",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Makes a version the champion, whatever its scores; the next `retrain` starts from it."""
    from jobs.registries import find_registry, promote_version

    tell(promote_version(find_registry(registry, workspace), version, reason, dry_run), as_json)


@registry_app.command(
    "rollback",
    short_help="Makes the former champion the champion again.",
    epilog="Example:  sailloft registry rollback runs/demo/registry/demo --reason 'wrong on night scenes'",
)
def rollback(
    registry: RegistryArgument,
    workspace: WorkspaceOption = "runs",
    reason: ReasonOption = "by hand",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Makes the version the champion again that was it before the one of now was promoted.

    Nothing is deleted, and nothing is trained again until data or recipe change.
    """
    from jobs.registries import find_registry, roll_back

    tell(roll_back(find_registry(registry, workspace), reason, dry_run), as_json)


@registry_app.command(
    "mirror",
    short_help="Tells MLflow's model registry what it lacks.",
    epilog="Example:  sailloft registry mirror runs/demo/registry/demo --to http://host:5000",
)
def mirror(
    registry: RegistryArgument,
    workspace: WorkspaceOption = "runs",
    to: Annotated[
        str | None, typer.Option("--to", metavar="URI", help="Server or store of MLflow; else MLFLOW_TRACKING_URI.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Registered model; else the registry's name.")
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tells MLflow's model registry of versions, aliases and reasons, as far as it lacks them."""
    from jobs.registries import find_registry
    from jobs.registries import mirror as tell_mlflow
    from pipelines.retraining.config import MlflowRegistryConfig

    config = MlflowRegistryConfig(tracking_uri=to, model=model)
    tell(tell_mlflow(find_registry(registry, workspace), config, dry_run), as_json)
