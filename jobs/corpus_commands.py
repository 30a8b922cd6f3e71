"""The commands `sailloft corpus ...`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from jobs.arguments import DryRunOption, JsonOption, NewFolderOption
from jobs.told import tell

__all__ = ["corpus_app"]

corpus_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Looks into corpora, and exports them for other programs."
)

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Address of a corpus, as --dry-run shows it.")]


class ExportFormat(Enum):
    """Layouts that a corpus is exported in."""

    COCO = "coco"
    FIFTYONE = "fiftyone"
    HF = "hf"


@corpus_app.command(
    "show",
    short_help="Shows what a corpus holds.",
    epilog="Examples:  sailloft corpus show runs/curate/0123...   |   sailloft corpus show runs/curate/0123... --json",
)
def show(
    url: UrlArgument,
    as_json: JsonOption = False,
) -> None:
    """Shows what a corpus holds: samples by family, task and split, records by source file, rejects by reason."""
    from jobs.corpora import corpus_json, describe_corpus

    typer.echo(corpus_json(url) if as_json else describe_corpus(url))


@corpus_app.command(
    "export",
    short_help="Writes a corpus in a layout that other programs read.",
    epilog="\b\nExamples:\n"
    "  sailloft corpus export runs/curate/0123... --format coco --to exported --split val\n"
    "  sailloft corpus export s3://bucket/prefix/curate/0123... --format hf --to exported --family refcoco",
)
def export(
    url: UrlArgument,
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="COCO JSON with pictures, the same as FiftyOne imports it, or Parquet for the library datasets.",
        ),
    ],
    output: NewFolderOption,
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="SPLIT", help="Only this split; may be repeated.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", metavar="FAMILY", help="Only this family; may be repeated.")
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Writes a corpus in a layout that other programs read.

    The folder appears at the end and at once: whatever interrupts the export leaves nothing behind.
    """
    from jobs.corpora import export_corpus
    from jobs.display import open_display

    with open_display() as display:
        told = export_corpus(url, form.value, output, split, family, display.stage("export"), dry_run)
    tell(told, as_json)
