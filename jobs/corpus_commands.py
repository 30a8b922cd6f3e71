"""The commands `sailloft corpus ...`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["corpus_app"]

corpus_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Looks into corpora, and exports them for other programs."
)

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Address of a corpus, as --dry-run shows it.")]


class ExportFormat(Enum):
    """Layouts that a corpus is exported in."""

    COCO = "coco"
    HF = "hf"


@corpus_app.command("show", epilog="Example:  sailloft corpus show runs/curate/0123...")
def show(
    url: UrlArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Shows what a corpus holds: samples by family, task and split, records by source file, rejects by reason."""
    from jobs.corpora import corpus_json, describe_corpus

    typer.echo(corpus_json(url) if as_json else describe_corpus(url))


@corpus_app.command(
    "export",
    epilog="\b\nExamples:\n"
    "  sailloft corpus export runs/curate/0123... --format coco --to exported --split val\n"
    "  sailloft corpus export s3://bucket/prefix/curate/0123... --format hf --to exported --family refcoco",
)
def export(
    url: UrlArgument,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="COCO JSON with pictures, or Parquet for the library datasets.")
    ],
    output: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to make; it must not hold anything.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="SPLIT", help="Only this split; may be repeated.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", metavar="FAMILY", help="Only this family; may be repeated.")
    ] = None,
) -> None:
    """Writes a corpus in a layout that other programs read.

    The folder appears at the end and at once: whatever interrupts the export leaves nothing behind.
    """
    from jobs.corpora import export_corpus
    from jobs.display import open_display

    with open_display() as display:
        summary = export_corpus(url, form.value, output, split, family, display.stage("export"))
    typer.echo(summary)
