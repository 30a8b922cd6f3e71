"""Publishes shards: what the verdicts leave of each, and what all files hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import cast

from pipelines.curation.judging import UNMASKED_TASKS, Verdicts
from pipelines.curation.looks import VERDICTS, Look, looks_file, looks_of_shard, write_looks
from pipelines.curation.records import RecordError
from pipelines.curation.shards import shard_files
from pipelines.curation.steps.assemble import reject_of
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
    made: Objects,
    output: Objects,
    verdicts: Verdicts,
    training_splits: Collection[str],
    name: str,
    known: Mapping[str, FileEntry] = MappingProxyType({}),
) -> ShardCounts:
    """Writes the files of a shard to where they are published, less what the verdicts take out.

    Args:
        made: where the shard was made, or the corpus that it was published in.
        output: the corpus's prefix.
        verdicts: on all pictures.
        training_splits: splits that the verdicts are about.
        name: of the shard.
        known: manifest entries of its files, where they were published.

    Returns:
        What the written files hold.

    Raises:
        ManifestConflict: a file of other content stands there.
        InfrastructureError: a store can't be reached.
    """
    images_file, samples_file, rejects_file, _ = shard_files(name)
    if all(
        (row["leaking"], row["duplicate"]) == verdicts.of(row["image_id"])
        for row in _columns(made, looks_file(name), "image_id", "leaking", "duplicate")
    ):
        for file in shard_files(name):
            publish_file(output, made, file)
        return describe_files(output, shard_files(name), known)
    looks = {look.image_id: look for look in looks_of_shard(made, name)}
    withheld = {image_id: _judged_anew(look, verdicts) for image_id, look in looks.items()}
    rejects = _replaced(table_to_rejects(read_table(made, rejects_file)), looks.values(), withheld)
    samples: list[Sample] = []
    for sample in table_to_samples(read_table(made, samples_file)):
        verdict = _verdict(sample, verdicts) if sample.split in training_splits else None
        if verdict is None:
            samples.append(sample)
            continue
        rejects.append(reject_of(sample, verdict))
        withheld[sample.image_id or ""].append(rejects[-1])
    needed = {sample.image_id for sample in samples}
    images = table_to_images(read_table(made, images_file))
    write_images(output, name, [image for image in images if image.image_id in needed])
    write_samples(output, name, samples)
    write_rejects(output, name, rejects)
    write_looks(
        output,
        name,
        [
            replace(
                look,
                withheld=tuple(withheld[image_id]),
                leaking=verdicts.of(image_id)[0],
                duplicate=verdicts.of(image_id)[1],
            )
            for image_id, look in looks.items()
        ],
    )
    return describe_files(output, shard_files(name))


def _verdict(sample: Sample, verdicts: Verdicts) -> RecordError | None:
    """Why a training sample goes, if it does."""
    leaking, duplicate = verdicts.of(sample.image_id or "")
    if leaking is not None:
        return RecordError(RejectReason.LEAKAGE, leaking)
    if duplicate is not None and sample.task in UNMASKED_TASKS:
        return RecordError(RejectReason.IMAGE_DUPLICATE, duplicate)
    return None


def _judged_anew(look: Look, verdicts: Verdicts) -> list[Reject]:
    """Withheld rows of a picture, with what is said of it now where an earlier verdict took them out."""
    leaking, duplicate = verdicts.of(look.image_id)
    rows: list[Reject] = []
    for row in look.withheld:
        if row.reason in VERDICTS and leaking is not None:
            row = replace(row, reason=RejectReason.LEAKAGE, detail=leaking)
        elif row.reason in VERDICTS:
            assert duplicate is not None, "rows that come back are read again"
            row = replace(row, detail=duplicate)
        rows.append(row)
    return rows


def _replaced(
    rejects: Iterable[Reject], looks: Iterable[Look], withheld: Mapping[str, Sequence[Reject]]
) -> list[Reject]:
    """The rejects with those of each picture replaced, one for one, by others."""
    left = Counter(rejects)
    for look in looks:
        left.subtract(look.withheld)
        left.update(withheld[look.image_id])
    return list(left.elements())


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
            for row in _columns(output, path, "family", "task", "split", "source_file"):
                counts.samples[row["family"], row["task"], row["split"]] += 1
                counts.samples_of[row["source_file"]] += 1
        elif path.startswith("looks/"):
            for row in cast("list[Mapping[str, list[dict[str, str]]]]", _columns(output, path, "withheld")):
                families = Counter(item["family"] for item in row["withheld"] if item["reason"] == RejectReason.LEAKAGE)
                counts.leaks.update(families)
                counts.leaking_images.update(families.keys())
        else:
            for row in _columns(output, path, "source_file", "reason"):
                counts.rejects[row["source_file"], row["reason"]] += 1
    return counts


def _columns(objects: Objects, path: str, *names: str) -> list[Mapping[str, str]]:
    return cast("list[Mapping[str, str]]", read_table(objects, path, names).to_pylist())
