"""Files of a corpus on their way to its manifest: how they come to their place, and what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from storage.corpus import table_file_entry
from storage.errors import ManifestConflict
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import RejectReason

__all__ = ["ShardCounts", "describe_files", "publish_file"]


@dataclass(slots=True)
class ShardCounts:
    """What files hold, as it is added up into the manifest."""

    files: list[FileEntry] = field(default_factory=list[FileEntry])
    """The files."""
    images: int = 0
    """Number of pictures."""
    samples: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])
    """Samples by (family, task, split)."""
    samples_of: Counter[str] = field(default_factory=Counter[str])
    """Samples by source file."""
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Rejects by (source file, reason)."""
    leaks: Counter[str] = field(default_factory=Counter[str])
    """Training samples on evaluation pictures that were taken out, by family."""
    leaking_images: Counter[str] = field(default_factory=Counter[str])
    """The pictures they were on, by family."""

    def add(self, other: ShardCounts) -> None:
        """Adds what other files hold."""
        self.files += other.files
        self.images += other.images
        self.samples.update(other.samples)
        self.samples_of.update(other.samples_of)
        self.rejects.update(other.rejects)
        self.leaks.update(other.leaks)
        self.leaking_images.update(other.leaking_images)


def publish_file(output: Objects, source: Objects, path: str, source_path: str | None = None) -> None:
    """Makes a file of the corpus a copy of one that was made for it.

    Raises:
        ManifestConflict: a file of other content stands there.
    """
    if not output.copy(path, source, source_path or path) and output.read(path) != source.read(source_path or path):
        raise ManifestConflict(
            f"{output.url}/{path}: expected the file that an interrupted run wrote, found another; delete the "
            "unfinished corpus and run curate again"
        )


def describe_files(
    output: Objects, paths: Iterable[str], known: Mapping[str, FileEntry] = MappingProxyType({})
) -> ShardCounts:
    """Reads back what written files hold; those of which the manifest entry is known aren't hashed again.

    Raises:
        CorruptObject: a file is no Parquet file.
    """
    counts = ShardCounts()
    for path in paths:
        entry = known.get(path) or table_file_entry(output, path)
        counts.files.append(entry)
        if path.startswith("images/"):
            counts.images += entry.rows or 0
        elif path.startswith("samples/"):
            rows = list(_rows(output, path, "family", "task", "split", "source_file"))
            counts.samples.update((family, task, split) for family, task, split, _ in rows)
            counts.samples_of.update(source_file for _, _, _, source_file in rows)
        elif path.startswith("looks/"):
            for (withheld,) in cast("Iterable[tuple[list[dict[str, str]]]]", _rows(output, path, "withheld")):
                families = Counter(item["family"] for item in withheld if item["reason"] == RejectReason.LEAKAGE)
                counts.leaks.update(families)
                counts.leaking_images.update(families.keys())
        else:
            counts.rejects.update((file, reason) for file, reason in _rows(output, path, "source_file", "reason"))
    return counts


def _rows(objects: Objects, path: str, *names: str) -> Iterator[tuple[str, ...]]:
    table = read_table(objects, path, names)
    return zip(*(cast("list[str]", table[name].to_pylist()) for name in names), strict=True)
