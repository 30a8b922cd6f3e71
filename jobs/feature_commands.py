"""The commands `sailloft features ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import DryRunOption, JsonOption, WorkspaceOption
from jobs.completion import codec_names
from jobs.told import tell

__all__ = ["features_app"]

features_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Looks into feature stores, and keeps them tidy."
)

ShardOption = Annotated[float, typer.Option("--shard-mib", metavar="MIB", min=0.001, help="Upper bound of a shard.")]
UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Address of a feature store, as --dry-run shows it.")]


@features_app.command(
    "stat",
    short_help="Shows what a store holds, and what it cost.",
    epilog="Example:  sailloft features stat runs/features/0123...",
)
def stat(url: UrlArgument, as_json: JsonOption = False) -> None:
    """Shows what a feature store holds: images, encoding, size, and what the encoding cost."""
    from jobs.stores import describe_features

    tell(describe_features(url), as_json)


@features_app.command(
    "verify",
    short_help="Compares every file with the manifest.",
    epilog="Example:  sailloft features verify s3://bucket/prefix/features/0123...",
)
def verify(url: UrlArgument, as_json: JsonOption = False) -> None:
    """Reads every file of a feature store and compares it with the manifest.

    Ends with 3, and names the file, if one is absent or differs.
    """
    from jobs.display import open_display
    from jobs.stores import verify_features

    with open_display() as display:
        told = verify_features(url, display.stage("verify"))
    tell(told, as_json)


@features_app.command(
    "compact",
    short_help="Copies small parts into one of full shards.",
    epilog="\b\nExamples:\n"
    "  sailloft features compact s3://bucket/prefix/features/0123... --dry-run\n"
    "  sailloft features compact runs/features/0123... --forget IMAGE_ID --forget IMAGE_ID",
)
def compact(
    url: UrlArgument,
    forget: Annotated[
        list[str] | None, typer.Option("--forget", metavar="IMAGE_ID", help="Leave this image out; may be repeated.")
    ] = None,
    shard_mib: ShardOption = 64.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copies the rows of small parts, as they are encoded, into one part of full shards.

    Each run of `teach` adds a part; many small ones cost a request each. Nothing is computed again. Readers that have
    the store open go on with what they have.
    """
    from jobs.display import open_display
    from jobs.stores import compact_features

    with open_display() as display:
        told = compact_features(url, forget or [], shard_mib, display.stage("compact"), dry_run)
    tell(told, as_json)


@features_app.command(
    "transcode",
    short_help="Stores features in a coarser encoding.",
    epilog="\b\nExamples:\n"
    "  sailloft features transcode runs/features/0123... --codec klt\n"
    "  sailloft features transcode https://host/features/0123... --codec klt-20db --workspace runs --dry-run",
)
def transcode(
    url: UrlArgument,
    codec: Annotated[
        str,
        typer.Option(
            "--codec",
            metavar="CODEC",
            help="int8, klt or klt-20db; coarser than that of the store.",
            autocompletion=codec_names,
        ),
    ],
    workspace: WorkspaceOption = "runs",
    shard_mib: ShardOption = 64.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stores features in a coarser encoding, where `teach` finds them, instead of computing them again."""
    from jobs.display import open_display
    from jobs.stores import transcode_features

    with open_display() as display:
        told = transcode_features(url, workspace, codec, shard_mib, display.stage("transcode"), dry_run)
    tell(told, as_json)


@features_app.command(
    "gc",
    short_help="Removes what nobody needs any longer.",
    epilog="\b\nExamples:\n"
    "  sailloft features gc runs/features/0123... --dry-run\n"
    "  sailloft features gc s3://bucket/prefix/features/0123... --older-than-hours 0",
)
def gc(
    url: UrlArgument,
    older_than_hours: Annotated[
        float,
        typer.Option(
            "--older-than-hours",
            metavar="HOURS",
            min=0,
            help="What is younger may belong to somebody at work and stays.",
        ),
    ] = 24.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Removes shards of runs that were given up, retired parts, leases and unfinished files."""
    from jobs.stores import tidy_features

    tell(tidy_features(url, older_than_hours, dry_run), as_json)
