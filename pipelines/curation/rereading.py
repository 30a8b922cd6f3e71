"""Reads unchanged source files again for the sake of single records: rejects that may have become samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.curation.drafts import DraftFile, ImageFile, StagedDraft, write_drafts
from pipelines.curation.intake import Part, read_file
from pipelines.curation.records import Draft, MaskFile, PanopticSegment, RecordError
from pipelines.curation.steps.images import decode_image, probe
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from storage.errors import SourceError
from storage.keys import bytes_key, content_key
from storage.objects import Objects
from storage.schema import Reject, RejectReason

__all__ = ["UNSEEN", "Again", "Reread", "are_still_unseen", "read_again"]

UNSEEN = (RejectReason.IMAGE_MISSING, RejectReason.IMAGE_UNREADABLE)
"""Rejects that end when somebody brings the picture."""

_Place = tuple[str, str]
"""Source file and locator."""


@dataclass(frozen=True, slots=True)
class Again:
    """Records of a part that are read again."""

    part: Part
    rows: tuple[tuple[str, str, str], ...]
    """Source file, locator, and SHA-256 of the picture, of each."""


@dataclass(frozen=True, slots=True)
class Reread:
    """What came of them."""

    drafts: tuple[DraftFile, ...]
    found: Mapping[ImageFile, str]
    """SHA-256 of their pictures' files."""


def are_still_unseen(max_image_px: int, item: tuple[Part, tuple[Reject, ...]]) -> bool:
    """Whether the pictures that rejects of a part miss are as absent or unreadable as they were.

    Args:
        max_image_px: largest picture that is decoded.
        item: the part, and its rejects of reasons `UNSEEN`.
    """
    part, rejects = item
    said: dict[_Place, set[tuple[RejectReason, str]]] = {}
    for reject in rejects:
        said.setdefault((reject.source_file, reject.locator), set()).add((reject.reason, reject.detail))
    for record in _records(part):
        wanted = said.get((record.source_file, record.locator))
        if wanted is not None and isinstance(record, Draft) and wanted.isdisjoint(_errors(part, record, max_image_px)):
            return False
    return True


def read_again(work: Objects, roots: Sequence[str], again: Again) -> Reread:
    """Reads records again and writes them as drafts.

    Args:
        work: where they are written.
        roots: that number the files of pixels.
        again: which records.

    Raises:
        SourceError: a picture isn't what it was, although the file that names it is.
        InfrastructureError: a store can't be reached.
    """
    wanted = set(again.rows)
    places = {(file, locator) for file, locator, _ in wanted}
    root = roots.index(again.part.source.image_root_url)
    folders = [SourceFolder(url) for url in roots]
    digests: dict[ImageFile, str | None] = {}
    drafts: list[StagedDraft] = []
    missed = set(wanted)
    for record in _records(again.part):
        place = record.source_file, record.locator
        if place not in places or not isinstance(record, Draft):
            continue
        file = ImageFile(root, record.image.path, record.image.extent or ())
        if file not in digests:
            try:
                digests[file] = bytes_key(read_file(folders, file))
            except RecordError:
                digests[file] = None
        row = (*place, digests[file] or "")
        if row in wanted:
            drafts.append(StagedDraft(again.part.place, record))
            missed.discard(row)
    if missed:
        name, locator, _ = min(missed)
        raise SourceError(
            f"{name}: {locator}: its picture isn't the one that the parent has, although {name} is unchanged; set "
            "curation.parent=null to curate all of it"
        )
    folder = f"again/{content_key([again.part.number, *map(list, again.rows)])[:16]}"
    written = write_drafts(work, f"{folder}/drafts.parquet", drafts)
    return Reread((written,), {file: digest for file, digest in digests.items() if digest is not None})


def _records(part: Part) -> Iterator[Draft | Reject]:
    source = part.source
    return source.records(SourceFiles(SourceFolder(source.root_url), source.source_files()))


def _errors(part: Part, draft: Draft, max_image_px: int) -> Iterator[tuple[RejectReason, str]]:
    """What is wrong with the pictures that a draft names."""
    image = draft.image
    try:
        probe(SourceFolder(part.source.image_root_url).read(image.path, image.extent), max_image_px, image.path)
    except RecordError as error:
        yield error.reason, error.detail
    masks = {r.segmentation.path for r in draft.regions if isinstance(r.segmentation, MaskFile | PanopticSegment)}
    for path in sorted(masks):
        try:
            decode_image(SourceFolder(part.source.root_url).read(path), max_image_px, path)
        except RecordError as error:
            yield error.reason, error.detail
