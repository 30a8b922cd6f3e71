"""The files of a shard: how they are called, and how they are written.

`images/<n>.parquet`, `samples/<n>.parquet`, `rejects/<n>.parquet` and `looks/<n>.parquet` of one shard belong together.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.curation.looks import Look, looks_file, write_looks
from storage.corpus import table_file_entry, write_images, write_rejects, write_samples
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.schema import ImageRecord, Reject, Sample

__all__ = ["shard_files", "write_shard", "written_files"]


def shard_files(name: str) -> tuple[str, ...]:
    """Keys of the files of a shard: images, samples, rejects, looks."""
    return (*(f"{folder}/{name}.parquet" for folder in ("images", "samples", "rejects")), looks_file(name))


def write_shard(
    objects: Objects,
    name: str,
    images: Iterable[ImageRecord],
    samples: Iterable[Sample],
    rejects: Iterable[Reject],
    looks: Iterable[Look],
) -> tuple[FileEntry, ...]:
    """Writes the files of a shard, create-only, the looks last: a shard that has them is whole.

    Raises:
        ManifestConflict: a file of other content stands there.
        InfrastructureError: the store can't be reached.
    """
    return (
        write_images(objects, name, images),
        write_samples(objects, name, samples),
        write_rejects(objects, name, rejects),
        write_looks(objects, name, looks),
    )


def written_files(objects: Objects, name: str) -> tuple[FileEntry, ...] | None:
    """The files of a shard that an earlier run wrote; None: they aren't all there.

    Raises:
        CorruptObject: one is no Parquet file.
        InfrastructureError: the store can't be reached.
    """
    if not objects.exists(looks_file(name)):
        return None
    return tuple(table_file_entry(objects, path) for path in shard_files(name))
