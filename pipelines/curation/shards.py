"""Shards: the unit of work. One task takes the pictures of a shard and all their drafts, and writes its files.

`images/<n>.parquet`, `samples/<n>.parquet` and `rejects/<n>.parquet` of one shard belong together. What is written here
isn't published yet: whether a picture may be trained on is only known when all pictures have been looked at (see
`judging`). Hence `looks/<n>.parquet`, written last: a shard that has one is done.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.config import CurationConfig
from pipelines.curation.drafts import IDENTITY_BITS, DraftFile, ImageFile, StagedDraft, read_drafts
from pipelines.curation.intake import NamedFile, read_file
from pipelines.curation.records import RecordError
from pipelines.curation.steps.assemble import assemble, reject_of
from pipelines.curation.steps.filters import SampleFilter, in_split
from pipelines.curation.steps.images import ProbedImage, decoding_quietly, look_at
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.regions import MaskReader
from storage.corpus import write_images, write_rejects, write_samples
from storage.errors import SourceError
from storage.keys import bytes_key
from storage.objects import Objects
from storage.schema import ImageRecord, Reject, RejectReason, Sample

__all__ = ["LOOKS_SCHEMA", "ShardContext", "ShardImage", "ShardWork", "make_shard", "plan_shards",
           "shard_files"]  # fmt: skip

_NUM_IDENTITIES = 2**IDENTITY_BITS
_Found: TypeAlias = "str | RecordError"
_Looked: TypeAlias = "tuple[bytes, ProbedImage | RecordError]"
"""The bytes of a picture's file, and what it is or why it can't be decoded."""

LOOKS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("coco_id", pa.int64()),
        pa.field("difference_hash", pa.int64(), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),
    ]
)
"""What `judging` needs to know of a picture."""


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What all shards of a run share."""

    config: CurationConfig
    """With a root in every source."""
    roots: tuple[str, ...]
    """That number the files of pixels."""
    work: Objects
    """Where drafts lie."""
    made: Objects
    """Where shards are written."""
    drafts: tuple[DraftFile, ...]


@dataclass(frozen=True, slots=True)
class ShardWork:
    """The input of one task."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    """Identities of its pictures, ends excluded."""
    files: tuple[tuple[ImageFile, int | None, _Found], ...]
    """Its pictures by every name that drafts know them by, with COCO id, and SHA-256 or why it can't be read."""


@dataclass(frozen=True, slots=True)
class ShardImage:
    """One picture and everything that is said about it.

    Several names may lead to the same bytes; `file` is one of them, `sources` are all.
    """

    image_id: str
    file: ImageFile
    sources: tuple[str, ...]
    coco_id: int | None
    drafts: tuple[StagedDraft, ...]


def plan_shards(
    named: Sequence[NamedFile], found: Mapping[ImageFile, _Found], images_per_shard: int
) -> tuple[ShardWork, ...]:
    """Cuts the pictures, in order of their identity, into shards of `images_per_shard`.

    Pictures of one identity stay together, so that a shard may have more. A picture under several names of different
    identities is where the smallest of them is. The plan follows from names and content of the sources alone: not from
    their places, nor from how many tasks will run.
    """
    homes: dict[str, int] = {}
    pictures = [(item, item.identity, found[item.file]) for item in named if item.identity is not None]
    for _, identity, digest in pictures:
        if isinstance(digest, str):
            homes[digest] = min(identity, homes.get(digest, identity))
    starts = _starts(sorted(homes.values()), images_per_shard)
    num_shards = len(starts)
    files: list[list[tuple[ImageFile, int | None, _Found]]] = [[] for _ in range(num_shards)]
    elsewhere: list[set[int]] = [set() for _ in range(num_shards)]
    for item, identity, digest in pictures:
        home = homes[digest] if isinstance(digest, str) else identity
        shard = bisect_right(starts, home) - 1
        files[shard].append((item.file, item.coco_id, digest))
        if bisect_right(starts, identity) - 1 != shard:
            elsewhere[shard].add(identity)
    bounds = [*starts, _NUM_IDENTITIES]
    return tuple(
        ShardWork(
            name=f"{number:05d}",
            ranges=((bounds[number], bounds[number + 1]), *((item, item + 1) for item in sorted(elsewhere[number]))),
            files=tuple(files[number]),
        )
        for number in range(num_shards)
        if files[number]
    )


def _starts(homes: Sequence[int], images_per_shard: int) -> list[int]:
    """The smallest identity of each shard; the first shard begins at 0.

    >>> _starts([3, 5, 5, 5, 9], 2), _starts([], 2)
    ([0, 9], [0])
    """
    starts = [0]
    num_images = 0
    for place, home in enumerate(homes):
        if num_images >= images_per_shard and home != homes[place - 1]:
            starts.append(home)
            num_images = 0
        num_images += 1
    return starts


def shard_files(name: str) -> tuple[str, ...]:
    """Keys of the three files of a shard that are published."""
    return tuple(f"{folder}/{name}.parquet" for folder in ("images", "samples", "rejects"))


def make_shard(context: ShardContext, work: ShardWork) -> None:
    """Makes one shard and writes its files, create-only; does nothing where they are all there.

    Args:
        context: of the run.
        work: its pictures.

    Raises:
        SourceError: a picture changed while the run was going on.
        InfrastructureError: a store can't be reached.
    """
    looks_file = f"looks/{work.name}.parquet"
    if context.made.exists(looks_file):
        return
    images: list[ImageRecord] = []
    samples: list[Sample] = []
    rejects: list[Reject] = []
    looks: list[dict[str, object]] = []
    unread, pictures = _pictures(context, work)
    rejects += unread
    for image, looked in _looked_at(context, pictures):
        record, probed, found, refused = _curate_image(context, image, looked)
        samples += found
        rejects += refused
        if record is not None and probed is not None:
            images.append(record)
            looks.append(
                {
                    "image_id": record.image_id,
                    "coco_id": record.coco_id,
                    "difference_hash": record.difference_hash,
                    "thumbnail": probed.thumbnail,
                }
            )
    write_images(context.made, work.name, images)
    write_samples(context.made, work.name, samples)
    write_rejects(context.made, work.name, rejects)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(looks, schema=LOOKS_SCHEMA), sink, compression="zstd")
    context.made.create(looks_file, sink.getvalue())


def _pictures(context: ShardContext, work: ShardWork) -> tuple[list[Reject], list[ShardImage]]:
    """Rejects of drafts whose picture can't be read, and the others by picture."""
    files = {file: (coco_id, digest) for file, coco_id, digest in work.files}
    numbers = {url: number for number, url in enumerate(context.roots)}
    root_of = [numbers[source.image_root_url] for source in context.config.sources]
    rejects: list[Reject] = []
    drafts_of: dict[str, list[StagedDraft]] = {}
    names_of: dict[str, set[ImageFile]] = {}
    for staged, (path, extent) in read_drafts(context.work, context.drafts, work.ranges):
        file = ImageFile(root_of[staged.place], path, extent)
        if file not in files:
            continue  # its bytes are those of a picture of another shard
        _, digest = files[file]
        if isinstance(digest, RecordError):
            rejects.append(reject_of(staged.draft, digest))
            continue
        drafts_of.setdefault(digest, []).append(staged)
        names_of.setdefault(digest, set()).add(file)
    images = [
        ShardImage(
            image_id=image_id,
            file=min(names_of[image_id]),
            sources=tuple(sorted({file.path for file in names_of[image_id]})),
            coco_id=min((n for n in (files[file][0] for file in names_of[image_id]) if n is not None), default=None),
            drafts=tuple(drafts),
        )
        for image_id, drafts in sorted(drafts_of.items())
    ]
    return rejects, images


def _looked_at(context: ShardContext, images: Sequence[ShardImage]) -> Iterator[tuple[ShardImage, _Looked]]:
    """Each picture with its bytes; the next ones are read and decoded meanwhile."""
    with decoding_quietly(), ThreadPoolExecutor(context.config.num_threads) as pool:
        yield from zip(images, pool.map(partial(_look, context), images), strict=True)


def _look(context: ShardContext, image: ShardImage) -> _Looked:
    data = read_file(context.roots, image.file)
    if bytes_key(data) != image.image_id:
        raise SourceError(f"{image.file.path}: the file changed while it was being curated; run curate again")
    try:
        return data, look_at(data, context.config.max_image_px, image.file.path, image.image_id)
    except RecordError as error:
        return data, error


def _curate_image(
    context: ShardContext, image: ShardImage, looked: _Looked
) -> tuple[ImageRecord | None, ProbedImage | None, list[Sample], list[Reject]]:
    """Samples and rejects of one picture, and its record if any sample needs it."""
    data, probed = looked
    if isinstance(probed, RecordError):
        return None, None, [], [reject_of(staged.draft, probed) for staged in image.drafts]
    samples, rejects = _judge(image, probed, context.config)
    if not samples:
        return None, None, samples, rejects
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
    return record, probed, samples, rejects


def _judge(image: ShardImage, probed: ProbedImage, config: CurationConfig) -> tuple[list[Sample], list[Reject]]:
    samples: dict[str, Sample] = {}
    rejects: list[Reject] = []
    readers: dict[str, MaskReader] = {}
    sieve = SampleFilter(config.filters, config.leakage.training_splits, probed.height, probed.width)
    for staged in image.drafts:
        source, draft = config.sources[staged.place], staged.draft
        root = source.root_url
        if root not in readers:
            readers[root] = MaskReader(probed.height, probed.width, SourceFolder(root).read, config.max_image_px)
        try:
            sample = assemble(draft, probed, readers[root])
            if draft.split in config.leakage.training_splits:
                sample = in_split(sample, source.held_out_share, source.held_out_split)
            if sample.sample_id in samples:
                raise RecordError(RejectReason.DUPLICATE, "the same record stands in its file, or in the recipe, twice")
            sieve.check(sample)
        except RecordError as error:
            rejects.append(reject_of(draft, error))
        else:
            samples[sample.sample_id] = sample
    return list(samples.values()), rejects
