"""Shards: the unit of work. One task takes the pictures of a shard and all their drafts, and writes its files.

What is written here isn't published yet: whether a picture may be trained on is only known when all pictures have been
looked at (see `judging`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pipelines.curation.config import CurationConfig
from pipelines.curation.drafts import IDENTITY_BITS, DraftFile, ImageFile, StagedDraft, read_drafts
from pipelines.curation.intake import NamedFile
from pipelines.curation.looking import Looked, LookingAhead
from pipelines.curation.looks import Look, Name, Use
from pipelines.curation.records import RecordError
from pipelines.curation.shard_files import write_shard, written_files
from pipelines.curation.steps.assemble import assemble, reject_of
from pipelines.curation.steps.filters import SampleFilter, in_split
from pipelines.curation.steps.images import ProbedImage
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.regions import MaskReader
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.schema import ImageRecord, Reject, RejectReason, Sample

__all__ = ["CuratedImage", "ShardContext", "ShardImage", "ShardWork", "curate_images", "drafted_images",
           "looking_ahead", "make_shard", "plan_shards", "write_made"]  # fmt: skip

_NUM_IDENTITIES = 2**IDENTITY_BITS
_Found: TypeAlias = "str | RecordError"
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

    @property
    def unread(self) -> ImageFile | None:
        """Where its bytes have to be read from; None: they are here, or nobody needs them."""
        return self.file if self.data is None else None


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


def make_shard(context: ShardContext, work: ShardWork) -> tuple[FileEntry, ...]:
    """Makes one shard and writes its files, create-only; where they are all there nothing is made.

    Args:
        context: of the run.
        work: its pictures.

    Returns:
        Manifest entries of the files.

    Raises:
        SourceError: a picture changed while the run was going on.
        InfrastructureError: a store can't be reached.
    """
    written = written_files(context.made, work.name)
    if written is not None:
        return written
    with looking_ahead(context) as ahead:
        ahead.begin({digest: file for file, digest in reversed(work.files) if isinstance(digest, str)})
        rejects, images = drafted_images(context, work)
        curated = curate_images(context, images, ahead)
    return write_made(context.made, work.name, curated, rejects)


def write_made(
    made: Objects,
    name: str,
    curated: Sequence[CuratedImage],
    rejects: Sequence[Reject],
    images: Sequence[ImageRecord] = (),
    samples: Sequence[Sample] = (),
    looks: Sequence[Look] = (),
) -> tuple[FileEntry, ...]:
    """Writes the files of a shard: what came out of its pictures, and whatever else stands in it."""
    return write_shard(
        made,
        name,
        images=[*images, *(item.record for item in curated if item.record is not None)],
        samples=[*samples, *(sample for item in curated for sample in item.samples)],
        rejects=[*rejects, *(reject for item in curated for reject in item.rejects)],
        looks=[*looks, *(item.look for item in curated if item.look is not None)],
    )


def drafted_images(context: ShardContext, work: ShardWork) -> tuple[list[Reject], list[ShardImage]]:
    """Rejects of drafts whose picture can't be read, and the others by picture."""
    files = {file: digest for file, digest in work.files}
    numbers = {url: number for number, url in enumerate(context.roots)}
    root_of = [numbers[source.image_root_url] for source in context.config.sources]
    rejects: list[Reject] = []
    drafts_of: dict[str, list[StagedDraft]] = {}
    files_of: dict[str, set[ImageFile]] = {}
    for staged in read_drafts(context.work, context.drafts, work.ranges):
        image = staged.draft.image
        file = ImageFile(root_of[staged.place], image.path, image.extent or ())
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


def curate_images(context: ShardContext, images: Sequence[ShardImage], ahead: LookingAhead) -> list[CuratedImage]:
    """Samples and rejects of each picture, and its record if any sample needs it.

    They follow from the set of what is said about it: of rows that say the same, the first by file and locator stays,
    whatever order they are read in.

    Args:
        context: of the run.
        images: what to curate.
        ahead: has begun with all pictures that are unread.

    Raises:
        SourceError: a picture changed while the run was going on.
    """
    looked = (None if image.unread is None else ahead.take(image.image_id) for image in images)
    return [_curate_image(context, image, found) for image, found in zip(images, looked, strict=True)]


def looking_ahead(context: ShardContext) -> LookingAhead:
    """Threads that read and decode pictures of the run's sources."""
    return LookingAhead(context.roots, context.config.num_threads, context.config.max_image_px)


def _curate_image(context: ShardContext, image: ShardImage, looked: Looked | None) -> CuratedImage:
    data, probed = (image.data, None) if looked is None else looked
    probed = image.known or probed
    assert probed is not None, "what no parent knows is in a file"
    if isinstance(probed, RecordError):
        # Each record names the picture as it knows it, so that no other record has a say in that.
        errors = (
            reject_of(staged.draft, RecordError(probed.reason, f"{staged.draft.image.path}{probed.detail}"))
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
