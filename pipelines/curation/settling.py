"""Publishes shards: what the verdicts leave of each, and what all files hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from pipelines.curation.judging import UNMASKED_TASKS, Verdicts
from pipelines.curation.shards import shard_files
from storage.corpus import (
    table_file_entry,
    table_to_images,
    table_to_rejects,
    table_to_samples,
    write_images,
    write_rejects,
    write_samples,
)
from storage.errors import ManifestConflict
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import Reject, RejectReason, Sample

__all__ = ["ShardCounts", "describe_files", "publish_file", "settle_shard"]


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


def settle_shard(
    made: Objects, output: Objects, verdicts: Verdicts, training_splits: Collection[str], name: str
) -> ShardCounts:
    """Writes the files of a shard to where they are published, less what the verdicts take out.

    Args:
        made: where the shard was made.
        output: the corpus's prefix.
        verdicts: on all pictures.
        training_splits: splits that the verdicts are about.
        name: of the shard.

    Returns:
        What the written files hold.

    Raises:
        ManifestConflict: a file of other content stands there.
        InfrastructureError: a store can't be reached.
    """
    images_file, samples_file, rejects_file = shard_files(name)
    judged = {row["image_id"] for row in _columns(made, images_file, "image_id")}
    judged &= verdicts.leaking.keys() | verdicts.duplicates.keys()
    if not judged:
        for file in shard_files(name):
            publish_file(output, made, file)
        return describe_files(output, shard_files(name))
    samples: list[Sample] = []
    rejects = table_to_rejects(read_table(made, rejects_file))
    leaks: set[tuple[str, str]] = set()
    counts = ShardCounts()
    for sample in table_to_samples(read_table(made, samples_file)):
        image_id = sample.image_id or ""
        detail = verdicts.leaking.get(image_id)
        reason = RejectReason.LEAKAGE
        if detail is None and sample.task in UNMASKED_TASKS:
            detail, reason = verdicts.duplicates.get(image_id), RejectReason.IMAGE_DUPLICATE
        if detail is None or sample.split not in training_splits:
            samples.append(sample)
            continue
        rejects.append(
            Reject(
                family=sample.family,
                source_file=sample.source_file,
                locator=sample.locator,
                reason=reason,
                detail=detail,
            )
        )
        if reason is RejectReason.LEAKAGE:
            counts.leaks[sample.family] += 1
            leaks.add((sample.family, image_id))
    counts.leaking_images.update(family for family, _ in leaks)
    needed = {sample.image_id for sample in samples}
    images = table_to_images(read_table(made, images_file))
    write_images(output, name, [image for image in images if image.image_id in needed])
    write_samples(output, name, samples)
    write_rejects(output, name, rejects)
    counts.add(describe_files(output, shard_files(name)))
    return counts


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


def describe_files(output: Objects, paths: Iterable[str]) -> ShardCounts:
    """Reads back what written files hold.

    Raises:
        CorruptObject: a file is no Parquet file.
    """
    counts = ShardCounts()
    for path in paths:
        entry = table_file_entry(output, path)
        counts.files.append(entry)
        if path.startswith("images/"):
            counts.images += entry.rows or 0
        elif path.startswith("samples/"):
            for row in _columns(output, path, "family", "task", "split", "source_file"):
                counts.samples[row["family"], row["task"], row["split"]] += 1
                counts.samples_of[row["source_file"]] += 1
        else:
            for row in _columns(output, path, "source_file", "reason"):
                counts.rejects[row["source_file"], row["reason"]] += 1
    return counts


def _columns(objects: Objects, path: str, *names: str) -> list[Mapping[str, str]]:
    return cast("list[Mapping[str, str]]", read_table(objects, path, names).to_pylist())
