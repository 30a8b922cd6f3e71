"""The commands `sailloft runs ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption
from jobs.told import document

__all__ = ["runs_app"]

runs_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Shows what is recorded of runs, those that were killed too."
)


@runs_app.command(
    "list",
    short_help="Lists the runs of a workspace, the newest last.",
    epilog="Examples:  sailloft runs list runs/demo   |   sailloft runs list s3://bucket/prefix --last 5 --json",
)
def list_runs(
    url: Annotated[str, typer.Argument(metavar="URL", help="Workspace of the runs.")],
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="Only the newest ones.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Lists the runs of a workspace, the newest last: state, stages, time, costs."""
    from jobs.run_listing import newest_runs, runs_text, summary_json

    found = newest_runs(url, last)
    typer.echo(document([summary_json(run) for run in found]) if as_json else runs_text(found, url))


@runs_app.command(
    "show",
    short_help="Shows what happened in a run.",
    epilog="\b\nExamples:\n"
    "  sailloft runs show runs/demo\n"
    "  sailloft runs show s3://bucket/prefix/runs/demo-20260501T115913042-4be2a1 --json",
)
def show_run(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="A run as `list` shows it, or a workspace: its newest run.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Shows what happened in a run: stages, warnings, costs, how it ended; where it ran and by which code."""
    from jobs.run_listing import find_run, run_json, run_text

    found = find_run(url)
    typer.echo(document(run_json(found)) if as_json else run_text(found))
