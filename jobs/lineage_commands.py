"""The commands `sailloft lineage` and `sailloft forget`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import DryRunOption, JsonOption, WorkspaceOption
from jobs.told import say, tell

__all__ = ["FORGET_EXAMPLES", "LINEAGE_EXAMPLES", "forget", "lineage"]

LINEAGE_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft lineage runs/demo/train/0123...\n"
    "  sailloft lineage 4a5df8ac --workspace runs/demo\n"
    "  sailloft lineage photo.jpg --workspace s3://bucket/prefix --json"
)

FORGET_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft forget photo.jpg --workspace runs/demo --dry-run\n"
    "  sailloft forget 0123... --workspace s3://bucket/prefix --reason 'request 17'"
)


def lineage(
    asked: Annotated[
        str,
        typer.Argument(
            metavar="ID_OR_URL",
            help="Address of an output, or its first digits; SHA-256 of an image's file, or the file.",
        ),
    ],
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", metavar="URL", help="Where recipes keep their outputs; of a URL, where it lies."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Shows what an output was made of and what was made of it; or which outputs saw an image.

    Without --workspace, digits and files are looked up in `runs`.
    """
    from jobs.lineage import lineage_json, lineage_of
    from jobs.lineage_display import lineage_text

    found = lineage_of(asked, workspace)
    say(lineage_json(found) if as_json else lineage_text(found))


def forget(
    image: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE_ID...", help="SHA-256 of the image's file, or the file; several at once are fine."
        ),
    ],
    workspace: WorkspaceOption = "runs",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the record.")] = "on request",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Removes an image from all corpora and feature stores of a workspace, with a record.

    Corpora that have it are retired, and others without it take their place; its features leave all parts; curation
    leaves it out from now on. Checkpoints that saw it are listed: weights can't forget. An interrupted removal is
    continued by the same command. Run no other command on the workspace meanwhile.
    """
    from jobs.display import open_display
    from jobs.forget import describe_forgetting, forget_images

    if dry_run:
        tell(describe_forgetting(image, workspace), as_json)
        return
    with open_display() as display:
        told = forget_images(image, workspace, reason, display.stage("forget"))
    tell(told, as_json)
