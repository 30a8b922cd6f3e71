"""Reads whole sources: their files, their records, and the identity of every picture they name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipelines.curation.config import CurationConfig
from pipelines.curation.families.base import Source
from pipelines.curation.records import Draft, PanopticSegment, RecordError
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from storage.keys import bytes_key
from storage.schema import Reject

__all__ = ["ImageFile", "Intake", "files_of", "image_file", "read_sources"]


@dataclass(frozen=True, slots=True, order=True)
class ImageFile:
    """A file of pixels: the URL of the folder it is named under, its path there, and which part of the file it is."""

    root: str
    path: str
    extent: tuple[int, ...] = ()
    """Offset and size in bytes; empty: the whole file."""

    def read(self) -> bytes:
        """Its bytes; raises what `SourceFolder.read` raises."""
        return SourceFolder(self.root).read(self.path, self.extent or None)


@dataclass(slots=True)
class Intake:
    """Everything that the sources say, before any picture is decoded."""

    digests: dict[str, str] = field(default_factory=dict[str, str])
    """SHA-256 of each source file, by `<place of the source>:<name>`."""
    drafts: list[tuple[int, Draft]] = field(default_factory=list[tuple[int, Draft]])
    """Drafts in the order of their sources, each with the place of its source in the recipe."""
    rejects: list[Reject] = field(default_factory=list[Reject])
    """Records that gave no draft."""
    records_in: Counter[str] = field(default_factory=Counter[str])
    """Number of records by source file."""
    files: dict[ImageFile, str | RecordError] = field(default_factory=dict[ImageFile, "str | RecordError"])
    """SHA-256 of every picture and panoptic PNG that a draft names, or why it can't be read."""


def read_sources(config: CurationConfig, report: Callable[[int, int], None]) -> Intake:
    """Reads and decodes every source file, takes its records, and hashes the pictures they name.

    Args:
        config: what to read.
        report: told how many pictures of how many are hashed, now and then.

    Raises:
        SourceError: a file is absent, damaged or of another format.
        UnsafePickle: a pickle that wants more than plain data.
        InfrastructureError: a store can't be reached.
    """
    intake = Intake()
    for place, source in enumerate(config.sources):
        names = source.source_files()
        files = SourceFiles(SourceFolder(source.root_url), names)
        for name in dict.fromkeys(names):
            with files.open(name) as file:
                intake.digests[f"{place}:{name}"] = hashlib.file_digest(file, "sha256").hexdigest()
        for record in source.records(files):
            intake.records_in[record.source_file] += 1
            if isinstance(record, Draft):
                intake.drafts.append((place, record))
            else:
                intake.rejects.append(record)
    names = sorted({name for place, draft in intake.drafts for name in files_of(draft, config.sources[place])})
    intake.files = dict(zip(names, _hash_files(names, config.num_threads, report), strict=True))
    return intake


def image_file(draft: Draft, source: Source) -> ImageFile:
    """The picture of a draft."""
    return ImageFile(source.image_root_url, draft.image.path, draft.image.extent or ())


def files_of(draft: Draft, source: Source) -> set[ImageFile]:
    """The picture of a draft, and the panoptic PNGs that its masks are painted in."""
    painted = (region.segmentation for region in draft.regions)
    return {image_file(draft, source)} | {
        ImageFile(source.root_url, segment.path) for segment in painted if isinstance(segment, PanopticSegment)
    }


def _hash_files(
    files: list[ImageFile], num_threads: int, report: Callable[[int, int], None]
) -> Iterable[str | RecordError]:
    def digest(file: ImageFile) -> str | RecordError:
        try:
            return bytes_key(file.read())
        except RecordError as error:
            return error

    found: list[str | RecordError] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for number, result in enumerate(pool.map(digest, files), start=1):
            found.append(result)
            if number % 1000 == 0 or number == len(files):
                report(number, len(files))
    return found
