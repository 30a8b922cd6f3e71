"""The commands `sailloft features ...`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["features_app"]

features_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Looks into feature stores, and keeps them tidy."
)

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Address of a feature store, as --dry-run shows it.")]


@features_app.command("stat", epilog="Example:  sailloft features stat runs/features/0123...")
def stat(url: UrlArgument) -> None:
    """Shows what a feature store holds: images, encoding, size, and what the encoding cost."""
    from jobs.stores import describe_features

    typer.echo(describe_features(url))


@features_app.command("verify", epilog="Example:  sailloft features verify s3://bucket/prefix/features/0123...")
def verify(url: UrlArgument) -> None:
    """Reads every file of a feature store and compares it with the manifest."""
    from jobs.display import open_display
    from jobs.stores import verify_features

    with open_display() as display:
        summary = verify_features(url, display.stage("verify"))
    typer.echo(summary)


@features_app.command(
    "compact",
    epilog="\b\nExamples:\n"
    "  sailloft features compact s3://bucket/prefix/features/0123...\n"
    "  sailloft features compact runs/features/0123... --forget IMAGE_ID --forget IMAGE_ID",
)
def compact(
    url: UrlArgument,
    forget: Annotated[
        list[str] | None, typer.Option("--forget", metavar="IMAGE_ID", help="Leave this image out; may be repeated.")
    ] = None,
    shard_mib: Annotated[float, typer.Option("--shard-mib", min=0.001, help="Upper bound of a shard.")] = 64.0,
) -> None:
    """Copies the rows of small parts, as they are encoded, into one part of full shards.

    Each run of `teach` adds a part; many small ones cost a request each. Nothing is computed again. Readers that have
    the store open go on with what they have.
    """
    from jobs.display import open_display
    from jobs.stores import compact_features

    with open_display() as display:
        summary = compact_features(url, forget or [], shard_mib, display.stage("compact"))
    typer.echo(summary)


@features_app.command(
    "transcode",
    epilog="\b\nExamples:\n"
    "  sailloft features transcode runs/features/0123... runs --codec klt\n"
    "  sailloft features transcode https://host/features/0123... runs --codec klt-20db",
)
def transcode(
    url: UrlArgument,
    workspace: Annotated[str, typer.Argument(metavar="WORKSPACE", help="Where recipes keep their outputs.")],
    codec: Annotated[str, typer.Option("--codec", help="int8, klt or klt-20db; coarser than that of the store.")],
    shard_mib: Annotated[float, typer.Option("--shard-mib", min=0.001, help="Upper bound of a shard.")] = 64.0,
) -> None:
    """Stores features in a coarser encoding, where `teach` finds them, instead of computing them again."""
    from jobs.display import open_display
    from jobs.stores import transcode_features

    with open_display() as display:
        summary = transcode_features(url, workspace, codec, shard_mib, display.stage("transcode"))
    typer.echo(summary)


@features_app.command(
    "gc",
    epilog="\b\nExamples:\n"
    "  sailloft features gc runs/features/0123... --dry-run\n"
    "  sailloft features gc s3://bucket/prefix/features/0123... --older-than-hours 0",
)
def gc(
    url: UrlArgument,
    older_than_hours: Annotated[
        float,
        typer.Option("--older-than-hours", min=0, help="What is younger may belong to somebody at work and stays."),
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Removes shards of runs that were given up, retired parts, leases and unfinished files."""
    from jobs.stores import tidy_features

    typer.echo(tidy_features(url, older_than_hours, dry_run))
