"""A corpus shard by shard, so that whoever goes through all of it holds one shard at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from storage.corpus import Corpus
from storage.manifest import FileEntry, Manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["corpus_shards", "shard_name"]

_SUFFIX = ".parquet"


def corpus_shards(objects: Objects, files: Iterable[FileEntry]) -> Iterator[tuple[str, Corpus]]:
    """Name and content of each shard that has samples or images, in order of the names.

    A picture and its samples stand in files of one name, so that each shard is a corpus by itself. The manifest needn't
    be there yet.

    Args:
        objects: the corpus's prefix.
        files: what is written there; rejects and others are passed over.
    """
    by_name: dict[str, list[FileEntry]] = {}
    for entry in files:
        if entry.path.startswith(("images/", "samples/")):
            by_name.setdefault(shard_name(entry.path), []).append(entry)
    for name, entries in sorted(by_name.items()):
        yield name, Corpus(objects, Manifest("corpus", "", SCHEMA_VERSION, {}, {}, tuple(entries)))


def shard_name(path: str) -> str:
    """Name of the shard that a file belongs to.

    >>> shard_name("samples/00012.parquet")
    '00012'
    """
    return path.partition("/")[2].removesuffix(_SUFFIX)
