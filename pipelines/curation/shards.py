"""Shards: the unit of work. One task takes the pictures of a shard and all their drafts, and writes its files.

`images/<n>.parquet`, `samples/<n>.parquet` and `rejects/<n>.parquet` of one shard belong together. What is written here
isn't published yet: whether a picture may be trained on is only known when all pictures have been looked at (see
`judging`). Hence `looks/<n>.parquet`, written last: a shard that has one is done.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from pipelines.curation.config import CurationConfig
from pipelines.curation.drafts import IDENTITY_BITS, DraftFile, ImageFile, StagedDraft, read_drafts
from pipelines.curation.intake import NamedFile, read_file
from pipelines.curation.looks import Look, Name, Use, looks_file, write_looks
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

__all__ = ["CuratedImage", "ShardContext", "ShardImage", "ShardWork", "curate_images", "drafted_images", "make_shard",
           "plan_shards", "shard_files", "write_made"]  # fmt: skip

_NUM_IDENTITIES = 2**IDENTITY_BITS
_Found: TypeAlias = "str | RecordError"
_Looked: TypeAlias = "tuple[bytes | None, ProbedImage | RecordError]"
"""The bytes of a picture's file, and what it is or why it can't be decoded."""
_FOR_OTHERS = (RejectReason.DUPLICATE, RejectReason.EXPRESSION_DUPLICATE)


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
    files: tuple[tuple[ImageFile, _Found], ...]
    """Its pictures by every name that drafts know them by, and SHA-256 or why it can't be read."""


@dataclass(frozen=True, slots=True)
class ShardImage:
    """One picture and everything that is said about it.

    Several names may lead to the same bytes.
    """

    image_id: str
    names: tuple[Name, ...]
    """All names by which records know it."""
    drafts: tuple[StagedDraft, ...]
    file: ImageFile | None
    """Where its bytes are, under one of the names; None: a parent has them, or no row is left that needs them."""
    data: bytes | None = None
    """Its bytes, where a parent has them."""
    known: ProbedImage | None = None
    """What it is, where a parent knows that: then it isn't decoded again."""
    samples: tuple[Sample, ...] = ()
    """Samples that a parent has of it."""


@dataclass(frozen=True, slots=True)
class CuratedImage:
    """What came out of one picture."""

    look: Look | None
    """None: it can't be decoded."""
    record: ImageRecord | None
    """None: no sample needs it."""
    samples: tuple[Sample, ...]
    rejects: tuple[Reject, ...]


def plan_shards(
    named: Sequence[NamedFile], found: Mapping[ImageFile, _Found], images_per_shard: int, prefix: str = ""
) -> tuple[ShardWork, ...]:
    """Cuts the pictures, in order of their identity, into shards of `images_per_shard`.

    Pictures of one identity stay together, so that a shard may have more. A picture under several names of different
    identities is where the smallest of them is. The plan follows from names and content of the sources alone: not from
    their places, nor from how many tasks will run. Names of shards begin with the prefix.
    """
    homes: dict[str, int] = {}
    pictures = [(item, item.identity, found[item.file]) for item in named if item.identity is not None]
    for _, identity, digest in pictures:
        if isinstance(digest, str):
            homes[digest] = min(identity, homes.get(digest, identity))
    starts = _starts(sorted(homes.values()), images_per_shard)
    num_shards = len(starts)
    files: list[list[tuple[ImageFile, _Found]]] = [[] for _ in range(num_shards)]
    elsewhere: list[set[int]] = [set() for _ in range(num_shards)]
    for item, identity, digest in pictures:
        home = homes[digest] if isinstance(digest, str) else identity
        shard = bisect_right(starts, home) - 1
        files[shard].append((item.file, digest))
        if bisect_right(starts, identity) - 1 != shard:
            elsewhere[shard].add(identity)
    bounds = [*starts, _NUM_IDENTITIES]
    return tuple(
        ShardWork(
            name=f"{prefix}{number:05d}",
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
    """Keys of the files of a shard: images, samples, rejects, looks."""
    return (*(f"{folder}/{name}.parquet" for folder in ("images", "samples", "rejects")), looks_file(name))


def make_shard(context: ShardContext, work: ShardWork) -> None:
    """Makes one shard and writes its files, create-only; does nothing where they are all there.

    Args:
        context: of the run.
        work: its pictures.

    Raises:
        SourceError: a picture changed while the run was going on.
        InfrastructureError: a store can't be reached.
    """
    if context.made.exists(looks_file(work.name)):
        return
    rejects, images = drafted_images(context, work)
    write_made(context.made, work.name, curate_images(context, images), rejects)


def write_made(
    made: Objects,
    name: str,
    curated: Sequence[CuratedImage],
    rejects: Sequence[Reject],
    images: Sequence[ImageRecord] = (),
    samples: Sequence[Sample] = (),
    looks: Sequence[Look] = (),
) -> None:
    """Writes the files of a shard: what came out of its pictures, and whatever else stands in it."""
    write_images(made, name, [*images, *(item.record for item in curated if item.record is not None)])
    write_samples(made, name, [*samples, *(sample for item in curated for sample in item.samples)])
    write_rejects(made, name, [*rejects, *(reject for item in curated for reject in item.rejects)])
    write_looks(made, name, [*looks, *(item.look for item in curated if item.look is not None)])


def drafted_images(context: ShardContext, work: ShardWork) -> tuple[list[Reject], list[ShardImage]]:
    """Rejects of drafts whose picture can't be read, and the others by picture."""
    files = {file: digest for file, digest in work.files}
    numbers = {url: number for number, url in enumerate(context.roots)}
    root_of = [numbers[source.image_root_url] for source in context.config.sources]
    rejects: list[Reject] = []
    drafts_of: dict[str, list[StagedDraft]] = {}
    files_of: dict[str, set[ImageFile]] = {}
    for staged, (path, extent) in read_drafts(context.work, context.drafts, work.ranges):
        file = ImageFile(root_of[staged.place], path, extent)
        if file not in files:
            continue  # its bytes are those of a picture of another shard
        digest = files[file]
        if isinstance(digest, RecordError):
            rejects.append(reject_of(staged.draft, digest))
            continue
        drafts_of.setdefault(digest, []).append(staged)
        files_of.setdefault(digest, set()).add(file)
    images = [
        ShardImage(image_id=image_id, names=_names(drafts), drafts=tuple(drafts), file=min(files_of[image_id]))
        for image_id, drafts in sorted(drafts_of.items())
    ]
    return rejects, images


def _names(drafts: Sequence[StagedDraft]) -> tuple[Name, ...]:
    named = ((staged.draft.source_file, staged.draft.image) for staged in drafts)
    return tuple({Name(source_file, image.path, image.coco_id): None for source_file, image in named})


def curate_images(context: ShardContext, images: Sequence[ShardImage]) -> list[CuratedImage]:
    """Samples and rejects of each picture, and its record if any sample needs it.

    They follow from the set of what is said about it: of rows that say the same, the first by file and locator stays,
    whatever order they are read in.

    Raises:
        SourceError: a picture changed while the run was going on.
    """
    return [_curate_image(context, image, looked) for image, looked in _looked_at(context, images)]


def _looked_at(context: ShardContext, images: Sequence[ShardImage]) -> Iterator[tuple[ShardImage, _Looked]]:
    """Each picture with its bytes; the next ones are read and decoded meanwhile."""
    with decoding_quietly(), ThreadPoolExecutor(context.config.num_threads) as pool:
        yield from zip(images, pool.map(partial(_look, context), images), strict=True)


def _look(context: ShardContext, image: ShardImage) -> _Looked:
    data = image.data
    if data is None and image.file is not None:
        data = read_file(context.roots, image.file)
        if bytes_key(data) != image.image_id:
            raise SourceError(f"{image.file.path}: the file changed while it was being curated; run curate again")
    if image.known is not None:
        return data, image.known
    assert image.file is not None, "what no parent knows is in a file"
    assert data is not None, "it was read"
    try:
        return data, look_at(data, context.config.max_image_px, image.file.path, image.image_id)
    except RecordError as error:
        return data, error


def _curate_image(context: ShardContext, image: ShardImage, looked: _Looked) -> CuratedImage:
    data, probed = looked
    if isinstance(probed, RecordError):
        # Each record names the picture as it knows it, so that no other record has a say in that.
        said = probed.detail.removeprefix("" if image.file is None else image.file.path)
        errors = (
            reject_of(staged.draft, RecordError(probed.reason, f"{staged.draft.image.path}{said}"))
            for staged in image.drafts
        )
        return CuratedImage(None, None, (), tuple(errors))
    samples, rejects, withheld = _judge(image, probed, context.config)
    look = Look(
        probed=probed,
        names=image.names,
        uses=tuple({Use(item.source_file, item.family, item.task.value, item.split): None for item in samples}),
        withheld=tuple(withheld),
    )
    if not samples:
        return CuratedImage(look, None, (), (*rejects, *withheld))
    assert data is not None, "samples have a picture"
    record = ImageRecord(
        image_id=image.image_id,
        data=data,
        uri=None,
        media_type=probed.media_type,
        height=probed.height,
        width=probed.width,
        coco_id=look.coco_id,
        sources=look.sources,
        difference_hash=probed.difference_hash,
    )
    return CuratedImage(look, record, tuple(samples), (*rejects, *withheld))


def _judge(
    image: ShardImage, probed: ProbedImage, config: CurationConfig
) -> tuple[list[Sample], list[Reject], list[Reject]]:
    """Samples, rejects, and those rejects that there are for the sake of other rows."""
    made = list(image.samples)
    rejects: list[Reject] = []
    readers: dict[str, MaskReader] = {}
    for staged in image.drafts:
        source, draft = config.sources[staged.place], staged.draft
        root = source.root_url
        if root not in readers:
            readers[root] = MaskReader(probed.height, probed.width, SourceFolder(root).read, config.max_image_px)
        try:
            sample = assemble(draft, probed, readers[root])
        except RecordError as error:
            rejects.append(reject_of(draft, error))
            continue
        if draft.split in config.leakage.training_splits:
            sample = in_split(sample, source.held_out_share, source.held_out_split)
        made.append(sample)
    samples: dict[str, Sample] = {}
    withheld: list[Reject] = []
    sieve = SampleFilter(config.filters, config.leakage.training_splits, probed.height, probed.width)
    for sample in sorted(made, key=_place_in_files):
        try:
            if sample.sample_id in samples:
                raise RecordError(RejectReason.DUPLICATE, "the same record stands in its file, or in the recipe, twice")
            sieve.check(sample)
        except RecordError as error:
            (withheld if error.reason in _FOR_OTHERS else rejects).append(reject_of(sample, error))
        else:
            samples[sample.sample_id] = sample
    return list(samples.values()), rejects, withheld


def _place_in_files(sample: Sample) -> tuple[str, int, str, str]:
    """Orders samples as their records stand, where locators count: `row=9` comes before `row=10`."""
    return sample.source_file, len(sample.locator), sample.locator, sample.sample_id
