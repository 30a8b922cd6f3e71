"""Shards: the unit of work. One task takes the pictures of a shard and all their drafts, and writes three files.

`images/<n>.parquet`, `samples/<n>.parquet` and `rejects/<n>.parquet` of one shard belong together; a
shard whose three files are there is done, and what it holds is read back from them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import pyarrow.parquet as pq

from pipelines.curation.config import CurationConfig
from pipelines.curation.intake import ImageFile, Intake, image_file
from pipelines.curation.records import Draft, RecordError
from pipelines.curation.steps.assemble import assemble, reject_of
from pipelines.curation.steps.images import ProbedImage, probe
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.regions import MaskReader
from storage.corpus import table_file_entry, write_images, write_rejects, write_samples
from storage.errors import SourceError
from storage.keys import bytes_key
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.schema import ImageRecord, Reject, RejectReason, Sample

__all__ = [
    "Plan",
    "ShardCounts",
    "ShardImage",
    "ShardWork",
    "describe_files",
    "plan_shards",
    "run_shard",
    "shard_files",
]

_FOLDERS = ("images", "samples", "rejects")


@dataclass(frozen=True, slots=True)
class ShardImage:
    """One picture and everything that is said about it.

    Several names may lead to the same bytes; `file` is one of them, `sources` are all.
    """

    image_id: str
    file: ImageFile
    sources: tuple[str, ...]
    coco_id: int | None
    drafts: tuple[tuple[int, Draft], ...]
    """Drafts, each with the place of its source in the recipe."""


@dataclass(frozen=True, slots=True)
class ShardWork:
    """The input of one task."""

    name: str
    images: tuple[ShardImage, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards of a run, and the rejects that belong to none because their picture can't be read."""

    shards: tuple[ShardWork, ...]
    rejects: tuple[Reject, ...]


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

    def add(self, other: ShardCounts) -> None:
        """Adds what other files hold."""
        self.files += other.files
        self.images += other.images
        self.samples.update(other.samples)
        self.samples_of.update(other.samples_of)
        self.rejects.update(other.rejects)


def plan_shards(config: CurationConfig, intake: Intake) -> Plan:
    """Groups drafts by the bytes of their picture and cuts the pictures, in order of their id, into shards.

    The plan follows from the content of the sources alone: not from their places, nor from how many
    tasks will run.
    """
    rejects: list[Reject] = []
    drafts_of: dict[str, list[tuple[int, Draft]]] = {}
    names_of: dict[str, set[ImageFile]] = {}
    for place, draft in intake.drafts:
        file = image_file(draft, config.sources[place])
        image_id = intake.files[file]
        if isinstance(image_id, RecordError):
            rejects.append(reject_of(draft, image_id))
            continue
        drafts_of.setdefault(image_id, []).append((place, draft))
        names_of.setdefault(image_id, set()).add(file)
    images = [
        ShardImage(
            image_id=image_id,
            file=min(names_of[image_id]),
            sources=tuple(sorted({file.path for file in names_of[image_id]})),
            coco_id=min((d.image.coco_id for _, d in drafts if d.image.coco_id is not None), default=None),
            drafts=tuple(drafts),
        )
        for image_id, drafts in sorted(drafts_of.items())
    ]
    step = config.images_per_shard
    shards = tuple(
        ShardWork(name=f"{number:05d}", images=tuple(images[start : start + step]))
        for number, start in enumerate(range(0, len(images), step))
    )
    return Plan(shards=shards, rejects=tuple(rejects))


def shard_files(name: str) -> tuple[str, ...]:
    """Keys of the three files of a shard."""
    return tuple(f"{folder}/{name}.parquet" for folder in _FOLDERS)


def run_shard(work: ShardWork, config: CurationConfig, output: Objects) -> ShardCounts:
    """Makes one shard and writes its files, create-only.

    Args:
        work: pictures and drafts.
        config: of the whole run.
        output: the corpus's prefix.

    Returns:
        What the written files hold.

    Raises:
        SourceError: a picture changed while the run was going on.
        InfrastructureError: a store can't be reached.
    """
    images: list[ImageRecord] = []
    samples: list[Sample] = []
    rejects: list[Reject] = []
    for image in work.images:
        record, found, refused = curate_image(image, config)
        images += [record] if record is not None else []
        samples += found
        rejects += refused
    write_images(output, work.name, images)
    write_samples(output, work.name, samples)
    write_rejects(output, work.name, rejects)
    return describe_files(output, shard_files(work.name))


def curate_image(image: ShardImage, config: CurationConfig) -> tuple[ImageRecord | None, list[Sample], list[Reject]]:
    """Samples and rejects of one picture, and its record if any sample needs it."""
    data = image.file.read()
    if bytes_key(data) != image.image_id:
        raise SourceError(f"{image.file.path}: the file changed while it was being curated; run curate again")
    try:
        probed = probe(data, config.max_image_px, image.file.path)
    except RecordError as error:
        return None, [], [reject_of(draft, error) for _, draft in image.drafts]
    samples, rejects = _judge(image, probed, config)
    if not samples:
        return None, samples, rejects
    record = ImageRecord(
        image_id=image.image_id,
        data=data,
        uri=None,
        media_type=probed.media_type,
        height=probed.height,
        width=probed.width,
        coco_id=image.coco_id,
        sources=image.sources,
        difference_hash=probed.difference_hash,
    )
    return record, samples, rejects


def _judge(image: ShardImage, probed: ProbedImage, config: CurationConfig) -> tuple[list[Sample], list[Reject]]:
    samples: dict[str, Sample] = {}
    rejects: list[Reject] = []
    readers: dict[str, MaskReader] = {}
    for place, draft in image.drafts:
        root = config.sources[place].root_url
        if root not in readers:
            readers[root] = MaskReader(probed.height, probed.width, SourceFolder(root).read, config.max_image_px)
        try:
            sample = assemble(draft, probed, readers[root])
            if sample.sample_id in samples:
                raise RecordError(RejectReason.DUPLICATE, "the same record stands in its file, or in the recipe, twice")
        except RecordError as error:
            rejects.append(reject_of(draft, error))
        else:
            samples[sample.sample_id] = sample
    return list(samples.values()), rejects


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


def _columns(output: Objects, path: str, *names: str) -> list[Mapping[str, str]]:
    table = pq.read_table(io.BytesIO(output.read(path)), columns=list(names))
    return cast("list[Mapping[str, str]]", table.to_pylist())
