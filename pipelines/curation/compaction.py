"""Small shards of many layers become large ones.

Each run on top of a parent adds a layer, whose last shard is small, and shards from which rows were taken out become
small too. When there are many of them, a run publishes several as one. Rows aren't made anew for that, but copied.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.curation.corpus_shards import shard_name
from pipelines.curation.parents import Parent
from pipelines.curation.settling import MadeShard, ShardGroup
from storage.corpus import table_to_rejects, write_rejects
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import Reject

__all__ = ["MAX_SMALL", "grouped_shards", "publish_rejects"]

MAX_SMALL = 8
"""Small shards, and small files of rejects, that are left as they are."""
_SMALL_SHARE = 0.5
"""A shard is small if it has less than this share of the pictures that it might have."""
_SMALL_REJECTS = 10_000
"""Rows of a file of rejects below which it is small."""


def grouped_shards(shards: Sequence[MadeShard], images_per_shard: int, prefix: str) -> tuple[ShardGroup, ...]:
    """What is published of shards, and under which names; most by themselves.

    Args:
        shards: of the whole corpus.
        images_per_shard: pictures that a shard may have.
        prefix: how names of the newest layer begin; empty if it is the only one, of which nothing is joined.
    """
    small = [shard for shard in shards if shard.num_pictures < _SMALL_SHARE * images_per_shard]
    if not prefix or len(small) <= MAX_SMALL:
        return tuple(ShardGroup(shard.name, (shard,)) for shard in shards)
    groups: list[list[MadeShard]] = []
    num_pictures = images_per_shard
    for shard in small:
        if num_pictures + shard.num_pictures > images_per_shard:
            groups.append([])
            num_pictures = 0
        groups[-1].append(shard)
        num_pictures += shard.num_pictures
    joined = [tuple(group) for group in groups if len(group) > 1]
    gone = {shard.name for group in joined for shard in group}
    return (
        *(ShardGroup(shard.name, (shard,)) for shard in shards if shard.name not in gone),
        *(ShardGroup(f"{prefix}joined-{number:05d}", group) for number, group in enumerate(joined)),
    )


def publish_rejects(
    parent: Parent, output: Objects, gone: frozenset[str], paths: Sequence[str], prefix: str
) -> list[str]:
    """Publishes the parent's files of rejects that belong to no shard, less the rows of files that are gone.

    Args:
        parent: has the files.
        output: the corpus's prefix.
        gone: source files of which no row stays.
        paths: keys of the files.
        prefix: how names of the newest layer begin.

    Returns:
        Keys of the files that were written.
    """
    small = [path for path in paths if (parent.files[path].rows or 0) < _SMALL_REJECTS]
    joined = small if len(small) > MAX_SMALL else []
    written: list[str] = []
    for path in paths:
        rows = [] if path in joined else _staying(parent, gone, path)
        if rows:
            written.append(write_rejects(output, shard_name(path), rows).path)
    waiting: list[Reject] = []
    for place, path in enumerate(joined, start=1):
        waiting += _staying(parent, gone, path)
        if len(waiting) >= _SMALL_REJECTS or (waiting and place == len(joined)):
            written.append(write_rejects(output, f"{prefix}source-joined-{place:05d}", waiting).path)
            waiting = []
    return written


def _staying(parent: Parent, gone: frozenset[str], path: str) -> list[Reject]:
    return [row for row in table_to_rejects(read_table(parent.objects, path)) if row.source_file not in gone]
