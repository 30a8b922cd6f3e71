"""Reads whole sources: their files, their records, and the identity of every picture they name."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from pipelines.curation.config import CurationConfig
from pipelines.curation.drafts import DRAFT_LAYOUT, DraftFile, ImageFile, StagedDraft, read_files, write_drafts
from pipelines.curation.families.base import Source
from pipelines.curation.records import Draft, RecordError
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.tar_archive import escaped
from storage.corpus import write_rejects
from storage.errors import ObjectNotFound
from storage.keys import Json, bytes_key, content_key
from storage.objects import Objects
from storage.schema import Reject

__all__ = ["NamedFile", "Part", "PartAccount", "digest_part", "hash_files", "named_files", "part_key", "parts_of",
           "read_file", "read_part", "roots_of"]  # fmt: skip

pc: Any = pyarrow.compute

_LISTED = "listed files"
_ROWS_PER_FILE = 20_000
"""Drafts that are sorted in memory and written together: some 60 MB where each has a polygon."""


@dataclass(frozen=True, slots=True)
class Part:
    """Files of a source that are read together: a unit of work, and of what changes."""

    number: int
    place: int
    """Of its source in the recipe."""
    source: Source


@dataclass(frozen=True, slots=True)
class PartAccount:
    """What reading a part gave."""

    folder: str
    """Its files lie below this key."""
    digests: dict[str, str]
    """SHA-256 of each source file, and a key over those that only a listing tells."""
    records_in: dict[str, int]
    """Number of records by source file."""
    drafts: tuple[DraftFile, ...]
    rejects: tuple[str, ...]
    """Keys of the files of records that gave no draft."""
    lists_pictures: bool
    """Whether its records follow from folders of pictures, so that its files alone don't tell what it holds."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A picture or panoptic PNG that drafts name."""

    file: ImageFile
    identity: int | None
    """Of the picture; None: no draft is about it, masks are painted in it."""
    coco_id: int | None = None


def roots_of(config: CurationConfig) -> tuple[str, ...]:
    """URLs of all folders that files of pixels are named under; an `ImageFile` tells them by number."""
    return tuple(sorted({url for source in config.sources for url in (source.root_url, source.image_root_url)}))


def parts_of(config: CurationConfig) -> tuple[Part, ...]:
    """What is read independently of each other."""
    sources = ((place, part) for place, source in enumerate(config.sources) for part in source.parts())
    return tuple(Part(number, place, source) for number, (place, source) in enumerate(sources))


def read_part(work: Objects, part: Part) -> PartAccount:
    """Reads the files of a part and writes its drafts and rejects.

    Files that an earlier run wrote of the same bytes are used again.

    Args:
        work: where they are written.
        part: what to read.

    Raises:
        SourceError: a file is absent, damaged or of another format.
        UnsafePickle: a pickle that wants more than plain data.
        InfrastructureError: a store can't be reached.
    """
    source = part.source
    files, digests, lists_files = _digested(part)
    key = content_key({"part": part_key(part, digests), "place": part.place, "layout": DRAFT_LAYOUT})
    folder = f"read/{part.number:05d}-{key[:16]}"
    if not digests:  # pictures in folders, which may have become more
        folder += f"-{secrets.token_hex(4)}"
    written = _written(work, folder)
    if written is not None:
        return written
    drafts: list[StagedDraft] = []
    rejects: list[Reject] = []
    draft_files: list[DraftFile] = []
    reject_files: list[str] = []
    records_in: Counter[str] = Counter()

    def write() -> None:
        number = len(draft_files) + len(reject_files)
        if drafts:
            draft_files.append(write_drafts(work, f"{folder}/drafts/{number:05d}.parquet", drafts))
        if rejects:
            reject_files.append(f"{folder}/{write_rejects(work.child(folder), f'{number:05d}', rejects).path}")
        drafts.clear()
        rejects.clear()

    for record in source.records(files):
        records_in[record.source_file] += 1
        if isinstance(record, Draft):
            drafts.append(StagedDraft(part.place, record))
        else:
            rejects.append(record)
        if len(drafts) + len(rejects) == _ROWS_PER_FILE:
            write()
    write()
    lists_pictures = bool(files.listed) and not lists_files
    account = PartAccount(folder, digests, dict(records_in), tuple(draft_files), tuple(reject_files), lists_pictures)
    work.create(f"{folder}/account.json", _account_to_json(account))
    return account


def _digest_or_reason(files: SourceFiles, name: str) -> str:
    """SHA-256 of a listed file, or why it can't be read: then its record is a reject."""
    try:
        return bytes_key(files.read(name))
    except RecordError as error:
        return error.reason.value


def digest_part(part: Part) -> dict[str, str]:
    """SHA-256 of each file of a part, see `PartAccount.digests`; nothing else of it is read."""
    return _digested(part)[1]


def part_key(part: Part, digests: Mapping[str, str]) -> str:
    """Content key of what a part's records follow from: the fields of its source, and its files."""
    return content_key({"source": cast(Json, part.source.hashed_fields()), "digests": dict(digests)})


def _digested(part: Part) -> tuple[SourceFiles, dict[str, str], bool]:
    """The files of a part, SHA-256 of each, and whether a listing told some of them."""
    source = part.source
    names = source.source_files()
    files = SourceFiles(SourceFolder(source.root_url), names)
    digests: dict[str, str] = {}
    for name in dict.fromkeys(names):
        with files.open(name) as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    listed = {escaped(name): _digest_or_reason(files, name) for name in source.listed_files(files)}
    if listed:
        digests[_LISTED] = content_key(cast(Json, listed))
    return files, digests, bool(listed)


def named_files(work: Objects, config: CurationConfig, accounts: Iterable[PartAccount]) -> tuple[NamedFile, ...]:
    """Every file of pixels that drafts name, once, in order."""
    numbers = {url: number for number, url in enumerate(roots_of(config))}
    image_roots = pa.array([numbers[source.image_root_url] for source in config.sources], pa.int32())
    mask_roots = pa.array([numbers[source.root_url] for source in config.sources], pa.int32())
    images: pa.Table | None = None
    masks: set[ImageFile] = set()
    for account in accounts:
        for file in account.drafts:
            table = read_files(work, file)
            places = table["place"]
            named = table.select(["path", "offset", "size", "identity", "coco_id"]).append_column(
                "root", pc.take(image_roots, places)
            )
            images = _distinct([named] if images is None else [images, named])
            painted = table.filter(pc.greater(pc.list_value_length(table["painted"]), 0))
            roots_of_masks = pc.take(mask_roots, painted["place"]).to_pylist()
            for root, paths in zip(roots_of_masks, painted["painted"].to_pylist(), strict=True):
                masks.update(ImageFile(root, path) for path in paths)
    found = [
        NamedFile(
            ImageFile(row["root"], row["path"], () if row["offset"] is None else (row["offset"], row["size"])),
            row["identity"],
            row["coco_id"],
        )
        for row in ([] if images is None else images.to_pylist())
    ]
    found += [NamedFile(file, None) for file in masks]
    return tuple(sorted(found, key=lambda named: (named.file, named.identity is None)))


def read_file(folders: Sequence[SourceFolder], file: ImageFile) -> bytes:
    """The bytes of a file of pixels, of which the folder is told by number; raises what `SourceFolder.read` raises."""
    return folders[file.root].read(file.path, file.extent or None)


def hash_files(roots: Sequence[str], num_threads: int, files: Sequence[ImageFile]) -> list[str | RecordError]:
    """SHA-256 of each file, or why it can't be read.

    Args:
        roots: that number the files.
        num_threads: reads that are under way at once.
        files: to be read.
    """
    folders = [SourceFolder(root) for root in roots]

    def digest(file: ImageFile) -> str | RecordError:
        try:
            return bytes_key(read_file(folders, file))
        except RecordError as error:
            return error

    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(digest, files))


def _distinct(tables: Sequence[pa.Table]) -> pa.Table:
    keys = ["root", "path", "offset", "size"]
    found = (
        pa.concat_tables(tables, promote_options="default")
        .group_by(keys)
        .aggregate([("identity", "min"), ("coco_id", "min")])
    )
    return found.rename_columns([*keys, "identity", "coco_id"]).select(
        ["path", "offset", "size", "identity", "coco_id", "root"]
    )


def _written(work: Objects, folder: str) -> PartAccount | None:
    try:
        row = json.loads(work.read(f"{folder}/account.json"))
    except ObjectNotFound:
        return None
    files = tuple(DraftFile(path, tuple((first, last) for first, last in groups)) for path, groups in row["drafts"])
    return PartAccount(folder, row["digests"], row["records_in"], files, tuple(row["rejects"]), row["lists_pictures"])


def _account_to_json(account: PartAccount) -> bytes:
    row = {
        "digests": account.digests,
        "records_in": account.records_in,
        "drafts": [[file.path, file.groups] for file in account.drafts],
        "rejects": account.rejects,
        "lists_pictures": account.lists_pictures,
    }
    return json.dumps(row).encode()
