"""The commands `sailloft benchmark ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.arguments import DryRunOption, JsonOption, NewFolderOption
from jobs.completion import recipe_names
from jobs.told import tell

__all__ = ["benchmark_app"]

benchmark_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    short_help="Makes a benchmark of your own pictures.",
    help="Makes a benchmark in PerBench's format from your own pictures: drafts, a review in the browser, an export.",
)

ReviewersOption = Annotated[
    int, typer.Option("--reviewers", metavar="N", min=1, help="People who decide on each item.")
]


@benchmark_app.command(
    "build",
    short_help="Drafts items on regions of a corpus, and checks them.",
    epilog="\b\nExamples:\n"
    "  sailloft benchmark build runs/curate/0123... num_per_task=20\n"
    "  sailloft benchmark build my.yaml families='[coco_panoptic]' splits='[val]'\n"
    "  sailloft benchmark build s3://bucket/curate/0123... --settings my-benchmark.yaml --to s3://bucket/drafts\n"
    "  sailloft benchmark build runs/curate/0123... captioner='{kind: endpoint, url: https://host/v1, model: NAME}'",
)
def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|CORPUS",
            help="A recipe, which is curated first, or address of a corpus.",
            autocompletion=recipe_names,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIELD=VALUE", help="Settings of the builder such as num_per_task=100; the value is YAML."
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", metavar="FILE", help="Settings of the builder, as YAML.")
    ] = None,
    output: Annotated[
        str, typer.Option("--to", metavar="URL", help="Below this the drafts go, to an address made of what went in.")
    ] = "runs/benchmarks",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Drafts items on regions of a corpus, and checks them.

    Items that a check objects to are kept with the reason and counted. An interrupted build continues; what a captioner
    has answered isn't asked again.
    """
    from jobs.benchmarks import build_benchmark, corpus_url, describe_build
    from jobs.display import open_display

    if dry_run:
        tell(describe_build(source, settings, overrides or [], output), as_json)
        return
    with open_display() as display:
        url = corpus_url(source, display)
        told = build_benchmark(url, settings, overrides or [], output, display.stage("benchmark"))
    tell(told, as_json)


@benchmark_app.command(
    "show",
    short_help="Shows drafts, and how far their review is.",
    epilog="Example:  sailloft benchmark show runs/benchmarks/0123... --json",
)
def show(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of drafts, as `build` printed it.")],
    reviewers: ReviewersOption = 2,
    as_json: JsonOption = False,
) -> None:
    """Shows drafts by task, what the checks object to, how far the review is, and how far reviewers agree."""
    from jobs.benchmarks import benchmark_json, describe_benchmark

    typer.echo(benchmark_json(url, reviewers) if as_json else describe_benchmark(url, reviewers))


@benchmark_app.command(
    "export",
    short_help="Writes what the review accepted as PerBench's files.",
    epilog="\b\nExamples:\n"
    "  sailloft benchmark export runs/benchmarks/0123... --to my-benchmark\n"
    "  sailloft benchmark export runs/benchmarks/0123... --to my-benchmark --num-per-task 100 --reviewers 1",
)
def export(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of drafts, as `build` printed it.")],
    output: NewFolderOption,
    num_per_task: Annotated[
        int, typer.Option("--num-per-task", metavar="N", min=1, help="Items of each task, at most.")
    ] = 500,
    reviewers: ReviewersOption = 2,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Writes what the review accepted as PerBench's three files, with pictures and a README.

    The folder appears at the end and at once: whatever interrupts the export leaves nothing behind.
    """
    from jobs.benchmarks import export_reviewed
    from jobs.display import open_display

    with open_display() as display:
        told = export_reviewed(url, output, num_per_task, reviewers, display.stage("export"), dry_run)
    tell(told, as_json)
