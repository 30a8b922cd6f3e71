"""Looks at sources before a run: which files and pictures are missing, and where they may be instead.

Source files are looked up, their first records read, and the pictures of these opened; nothing is written.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pipelines.curation.config import CurationConfig
from pipelines.curation.families.base import Published, Source
from pipelines.curation.records import Draft, RecordError
from pipelines.curation.steps.archives import is_archive
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.progress import Progress
from storage.errors import SourceError
from storage.schema import RejectReason

__all__ = ["Finding", "SourceExamination", "examine_sources"]

_NAMES_LISTED = 200_000
"""Names of a folder that are searched for something like a missing one."""
_RECORDS_PER_PICTURE = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing or wrong."""

    name: str
    """A file, or a folder of pictures."""
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SourceExamination:
    """What was seen of one source."""

    place: int
    """In the recipe."""
    kind: str
    files: tuple[str, ...]
    """Names that are expected under the root."""
    root: str
    num_records: int
    """Records that were read."""
    num_pictures: int
    """Pictures that these name and that were opened."""
    num_missing: int
    """Of them those that aren't there, or can't be opened."""
    rejects: dict[str, int]
    """Records that give no sample, by reason."""
    findings: tuple[Finding, ...]
    published: Published


def examine_sources(config: CurationConfig, num_pictures: int, progress: Progress) -> tuple[SourceExamination, ...]:
    """Looks at every source.

    Args:
        config: names the sources.
        num_pictures: of each source that are opened.
        progress: told of sources.

    Raises:
        UsageError: a source has no root.
        InfrastructureError: a store can't be reached.
    """
    found: list[SourceExamination] = []
    sources = config.with_roots().sources
    for place, source in enumerate(sources):
        progress.update(place, len(sources), unit="sources")
        found.append(_examine(place, source, num_pictures))
    progress.update(len(sources), len(sources), unit="sources")
    return tuple(found)


def _examine(place: int, source: Source, num_pictures: int) -> SourceExamination:
    folder = SourceFolder(source.root_url)
    names = tuple(dict.fromkeys(source.source_files()))
    findings = list(_missing_files(folder, names))
    rejects: Counter[str] = Counter()
    num_records = 0
    pictures: dict[tuple[str, tuple[int, int] | None], None] = {}
    for part in source.parts() if not findings else ():
        try:
            records = part.records(SourceFiles(folder, part.source_files()))
            for record in islice(records, _RECORDS_PER_PICTURE * max(num_pictures, 1)):
                num_records += 1
                if not isinstance(record, Draft):
                    rejects[record.reason.value] += 1
                elif len(pictures) < num_pictures:
                    pictures[record.image.path, record.image.extent] = None
                if len(pictures) >= num_pictures > 0:
                    break
        except SourceError as error:
            findings.append(Finding(", ".join(part.source_files()), str(error), "see the message"))
        if len(pictures) >= num_pictures > 0:
            break
    missing = _missing_pictures(source, pictures)
    if missing:
        findings.append(_where_pictures_are(source, missing, len(pictures)))
    return SourceExamination(
        place=place,
        kind=str(type(source).model_fields["kind"].default),
        files=names,
        root=source.root_url,
        num_records=num_records,
        num_pictures=len(pictures),
        num_missing=len(missing),
        rejects=dict(rejects),
        findings=tuple(findings),
        published=source.published,
    )


def _missing_files(folder: SourceFolder, names: tuple[str, ...]) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding(folder.url, "the root is absent", "set curation.root, or the source's own root")
        return
    files = SourceFiles(folder)
    for name in names:
        problem = files.problem(name)
        if problem is not None:
            yield Finding(name, problem, _renamed(folder, name))


def _renamed(folder: SourceFolder, name: str) -> str:
    """Where a file may be instead."""
    listed = list(islice(folder.names(""), _NAMES_LISTED))
    file_name = name.rpartition("/")[2]
    same = [other for other in listed if other.rpartition("/")[2] == file_name]
    close = same or difflib.get_close_matches(name, listed, n=2, cutoff=0.8)
    if close:
        return f"found {' and '.join(close[:2])}: move it, or name it in the source"
    packed = [other for other in listed if is_archive(other)]
    return f"unpack it, if it is in {packed[0]}" if packed else "fetch it from where it is published"


def _missing_pictures(source: Source, pictures: Iterable[tuple[str, tuple[int, int] | None]]) -> dict[str, RecordError]:
    folder = SourceFolder(source.image_root_url)
    found: dict[str, RecordError] = {}
    for path, extent in pictures:
        try:
            folder.read(path, extent)
        except RecordError as error:
            found[path] = error
    return found


def _where_pictures_are(source: Source, missing: dict[str, RecordError], num_pictures: int) -> Finding:
    path, error = next(iter(missing.items()))
    problem = f"{len(missing)} of the first {num_pictures} pictures can't be read, such as {path}: {error.detail}"
    where = source.images or "the image root"
    if error.reason is not RejectReason.IMAGE_MISSING:
        return Finding(where, problem, "fetch it again")
    folder, _, name = path.rpartition("/")
    listed = list(islice(SourceFolder(source.image_root_url).names(""), _NAMES_LISTED))
    others = sorted({other.rpartition("/")[0] for other in listed if other.rpartition("/")[2] == name})
    if others:
        return Finding(where, problem, f"they are in {others[0] or 'the root itself'}: set images to it")
    last = folder.rpartition("/")[2]
    packed = [other for other in listed if is_archive(other) and last and last in other]
    if packed:
        return Finding(where, problem, f"they may be in {packed[0]}: set images to it")
    return Finding(where, problem, f"put them into {folder or 'the root'} under {source.image_root_url}")
