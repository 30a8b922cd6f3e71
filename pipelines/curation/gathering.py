"""What the sources of a corpus say: parts read and pictures hashed, less those whose rows a parent has."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpus_images import find_in_corpus
from pipelines.curation.drafts import ImageFile
from pipelines.curation.intake import (
    NamedFile,
    Part,
    PartAccount,
    digest_part,
    hash_files,
    named_files,
    part_key,
    parts_of,
    read_part,
    roots_of,
)
from pipelines.curation.leakage import read_evaluation_ids
from pipelines.curation.parents import (
    LATEST,
    Parent,
    PartFact,
    kept_parts,
    nearest_first,
    open_parent,
    why_not_continued,
)
from pipelines.curation.records import PICTURE_FORGOTTEN, RecordError
from pipelines.curation.rereading import UNSEEN, are_still_unseen
from pipelines.curation.workers import Workers
from pipelines.progress import Progress
from storage.corpus import table_to_rejects
from storage.errors import UsageError
from storage.keys import Json, content_key
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import Reject

__all__ = ["Sources", "gather", "hash_named"]

_FILES_PER_TASK = 1024
"""A tenth of a second on a local disk, some seconds on an object store; a task costs Ray a hundredth of one."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the sources say, and which pictures they name."""

    config: CurationConfig
    """With a root in every source."""
    work: Objects
    parts: tuple[Part, ...]
    parent: Parent | None
    """The corpus that is gone on from, if rows of it stay."""
    kept: Mapping[int, PartFact]
    """Parts of which the rows stay as they are, by number."""
    digests: Mapping[int, Mapping[str, str]]
    """Of the files of each part."""
    accounts: Mapping[int, PartAccount]
    """Of the parts that were read."""
    pictures: Mapping[int, str]
    """Content keys of the pictures of those that list folders of them."""
    named: tuple[NamedFile, ...]
    """By parts that were read."""
    found: Mapping[ImageFile, str | RecordError]
    """SHA-256 of each, or why it isn't used."""
    forgotten: Mapping[ImageFile, str]
    """SHA-256 of those that aren't used since somebody has asked to remove them."""
    evaluation_ids: Mapping[str, Sequence[int]]
    list_digests: Mapping[str, str]

    @property
    def is_parent(self) -> bool:
        """Whether nothing is new, so that the parent is what would be made."""
        if self.parent is None or self.accounts or len(self.kept) != len(self.parent.parts):
            return False
        before = self.parent.manifest.inputs
        lists = {name: digest for name, digest in before.items() if name.startswith("evaluation:")}
        return lists == {f"evaluation:{name}": digest for name, digest in self.list_digests.items()}

    @property
    def gone(self) -> frozenset[str]:
        """Source files of which no row of the parent stays."""
        if self.parent is None:
            return frozenset()
        staying = {name for fact in self.kept.values() for name in fact.records_in}
        return frozenset(name for fact in self.parent.parts for name in fact.records_in if name not in staying)

    def facts_of_parts(self) -> list[PartFact]:
        """What the manifest says of each part."""
        return [
            self.kept[part.number]
            if part.number in self.kept
            else PartFact(
                part_key(part, self.digests[part.number]),
                self.pictures.get(part.number),
                self.accounts[part.number].records_in,
            )
            for part in self.parts
        ]

    def hashed_inputs(self, with_forgotten: bool = False) -> dict[str, str]:
        """Content keys of all that the corpus is made of: source files, pictures per source, and the parent.

        Args:
            with_forgotten: as they would be if nobody had asked to remove a picture.
        """
        inputs: dict[str, str] = {f"evaluation:{name}": digest for name, digest in self.list_digests.items()}
        for part in self.parts:
            inputs |= {f"{part.place}:{name}": digest for name, digest in self.digests[part.number].items()}
        numbers = {url: number for number, url in enumerate(roots_of(self.config))}
        of_root: dict[int, list[list[Json]]] = {}
        for file, found in {**self.found, **(self.forgotten if with_forgotten else {})}.items():
            of_root.setdefault(file.root, []).append([file.path, *file.extent, _said(found)])
        for place, source in enumerate(self.config.sources):
            roots = {numbers[source.root_url]: "files", numbers[source.image_root_url]: "images"}
            rows = ([name, *row] for root, name in roots.items() for row in of_root.get(root, ()))
            inputs[f"{place}:pictures"] = content_key(cast(Json, sorted(rows)))
        if self.parent is not None:
            inputs["parent"] = self.parent.manifest.key
        return inputs


def gather(
    config: CurationConfig,
    work: Objects,
    workers: Workers,
    progress: Progress,
    forgotten: Collection[str] = (),
    corpora: Objects | None = None,
) -> Sources:
    """Reads what is new in the sources, which without a parent is all of them.

    Args:
        config: with a root in every source.
        work: where drafts are written.
        workers: who does the work.
        progress: told of parts and pictures.
        forgotten: SHA-256 of pictures that somebody has asked to remove; records on them become rejects.
        corpora: where the latest corpus is looked for, if the configuration doesn't name its parent.

    Raises:
        SourceError: a source file can't be used.
        UsageError: the latest corpus is wanted, and nobody says where corpora lie.
        InfrastructureError: a store can't be reached.
    """
    parts = parts_of(config)
    reader = _Reader(config, work, workers, progress, parts)
    parent, kept = _parent(reader, forgotten, corpora)
    reader.read(part for part in parts if part.number not in kept)
    accounts = {number: reader.accounts[number] for number in sorted(reader.accounts) if number not in kept}
    named = named_files(work, config, accounts.values())
    reader.hash(named)
    evaluation_ids: dict[str, list[int]] = {}
    list_digests: dict[str, str] = {}
    for name in config.leakage.evaluation_ids if config.leakage.gate != "off" else ():
        sets = read_evaluation_ids(config.root_of_lists, name)
        list_digests[name] = content_key({key: sorted(ids) for key, ids in sets.items()})
        evaluation_ids |= sets
    found = {item.file: reader.found[item.file] for item in named}
    removed = {file: said for file, said in found.items() if isinstance(said, str) and said in forgotten}
    return Sources(
        config=config,
        work=work,
        parts=parts,
        parent=parent,
        kept=kept,
        digests=reader.digests | {number: account.digests for number, account in accounts.items()},
        accounts=accounts,
        pictures={number: reader.pictures(number) for number in accounts if accounts[number].lists_pictures},
        named=named,
        found={**found, **dict.fromkeys(removed, PICTURE_FORGOTTEN)},
        forgotten=removed,
        evaluation_ids=evaluation_ids,
        list_digests=list_digests,
    )


def _parent(
    reader: _Reader, forgotten: Collection[str], corpora: Objects | None
) -> tuple[Parent | None, dict[int, PartFact]]:
    """The corpus that is gone on from, and the parts of which its rows stay."""
    config = reader.config
    if config.parent is None:
        return None, {}
    if config.parent == LATEST:
        if corpora is None:
            raise UsageError(f"curation.parent: {LATEST} is looked for in a recipe's workspace; give a URL here")
        found = nearest_first(corpora, config, reader.keys())
        parent = next((parent for parent in found if not _holds(parent, forgotten)), None)
        if parent is None:
            _LOG.info("no corpus at %s can be gone on from: all sources are read", corpora.url)
            return None, {}
        _LOG.info("goes on from corpus %s", parent.objects.url)
    else:
        parent = open_parent(config.parent)
    why = why_not_continued(parent.manifest, config)
    if why is None and _holds(parent, forgotten):
        why = "it holds pictures that are to be forgotten"
    if why is None:
        kept = _kept(reader, parent)
        if kept:
            return parent, kept
        why = "no part of the sources is one of its own"
    _LOG.warning("%s is not continued: %s; all sources are read", parent.objects.url, why)
    reader.progress.update(0, len(reader.parts), unit=f"parts of sources read, all of them: of the parent {why}")
    return None, {}


def _holds(parent: Parent, image_ids: Collection[str]) -> bool:
    return bool(image_ids) and bool(find_in_corpus(parent.objects, parent.manifest.files, image_ids))


class _Reader:
    """Reads and hashes, each thing once."""

    def __init__(
        self, config: CurationConfig, work: Objects, workers: Workers, progress: Progress, parts: Sequence[Part]
    ) -> None:
        self.config, self.work, self.workers, self.progress, self.parts = config, work, workers, progress, parts
        self.accounts: dict[int, PartAccount] = {}
        self.digests: dict[int, dict[str, str]] = {}
        self.found: dict[ImageFile, str | RecordError] = {}

    def keys(self) -> dict[int, str]:
        """Keys of all parts, by number."""
        wanted = [part for part in self.parts if part.number not in self.digests]
        for done, (place, digests) in enumerate(self.workers.map(digest_part, wanted), start=1):
            self.digests[wanted[place].number] = digests
            self.progress.update(done, len(wanted), unit="parts of sources hashed")
        return {part.number: part_key(part, self.digests[part.number]) for part in self.parts}

    def read(self, parts: Iterable[Part]) -> None:
        wanted = [part for part in parts if part.number not in self.accounts]
        for done, (place, account) in enumerate(self.workers.map(partial(read_part, self.work), wanted), start=1):
            self.accounts[wanted[place].number] = account
            self.progress.update(done, len(wanted), unit="parts of sources read")

    def hash(self, named: Sequence[NamedFile]) -> None:
        files = sorted({item.file for item in named} - self.found.keys())
        self.found |= hash_named(self.config, self.workers, self.progress, files)

    def pictures(self, number: int) -> str:
        """Content key of the pictures of a part that was read."""
        named = named_files(self.work, self.config, [self.accounts[number]])
        self.hash(named)
        rows: list[Json] = [[item.file.path, *item.file.extent, _said(self.found[item.file])] for item in named]
        return content_key(rows)


def hash_named(
    config: CurationConfig, workers: Workers, progress: Progress, files: Sequence[ImageFile]
) -> dict[ImageFile, str | RecordError]:
    """SHA-256 of each file, or why it can't be read."""
    batches = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    found: dict[ImageFile, str | RecordError] = {}
    for place, digests in workers.map(partial(hash_files, roots_of(config), config.num_threads), batches):
        found.update(zip(batches[place], digests, strict=True))
        progress.update(len(found), len(files), unit="pictures read")
    return found


def _said(found: str | RecordError) -> str:
    return found if isinstance(found, str) else found.reason.value


def _kept(reader: _Reader, parent: Parent) -> dict[int, PartFact]:
    """Parts of which the rows stay; what must be read to tell is read."""
    parts, keys = reader.parts, reader.keys()
    changed: set[int] = set()
    names: set[str] = set()
    kept = kept_parts(parent, keys, changed, names)
    # Files that are new, and folders of pictures, which may hold others by now.
    reader.read(part for part in parts if part.number not in kept or kept[part.number].pictures is not None)
    changed.update(n for n, fact in kept.items() if fact.pictures is not None and reader.pictures(n) != fact.pictures)
    names.update(
        name for n, account in reader.accounts.items() if n not in kept or n in changed for name in account.records_in
    )
    kept = kept_parts(parent, keys, changed, names)
    unseen = _unseen(parent, kept)
    waiting = [(parts[number], rejects) for number, rejects in unseen.items()]
    check = partial(are_still_unseen, reader.config.max_image_px)
    for done, (place, are_unseen) in enumerate(reader.workers.map(check, waiting), start=1):
        if not are_unseen:
            changed.add(waiting[place][0].number)
        reader.progress.update(done, len(waiting), unit="parts with missing pictures looked at")
    return kept_parts(parent, keys, changed, names)


def _unseen(parent: Parent, kept: Mapping[int, PartFact]) -> dict[int, tuple[Reject, ...]]:
    """Rejects of each part for pictures that were missing or damaged."""
    by_file = cast("Mapping[str, Mapping[str, int]]", parent.manifest.facts["rejects_by_source"])
    files = {name for name, reasons in by_file.items() if any(reason in reasons for reason in UNSEEN)}
    part_of = {name: number for number, fact in kept.items() for name in fact.records_in if name in files}
    found: dict[int, list[Reject]] = {}
    for path in parent.keys_below("rejects") if part_of else ():
        for reject in table_to_rejects(read_table(parent.objects, path)):
            if reject.reason in UNSEEN and reject.source_file in part_of:
                found.setdefault(part_of[reject.source_file], []).append(reject)
    return {number: tuple(rejects) for number, rejects in sorted(found.items())}
