"""Corpora less some pictures: what takes the place of a corpus that pictures have to leave.

    shard with a picture     images, samples, looks: rows of it are gone; its records are rejects now
    any shard                looks and rejects: where they tell of it ("looks like 0123..."), the words are replaced
    all other tables         links on a disk, copies inside the store elsewhere
    card, statistics         made anew

Sources aren't read. What is said of other pictures stays as it was, also where the picture brought it about: a curation
from the start may find samples again that this one withheld.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import ValidationError

from pipelines.curation.accounts import check_account, counted_facts
from pipelines.curation.cards import CARD_NAME, card_files, write_card
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import CorpusTarget
from pipelines.curation.corpus_images import HeldImage, find_in_corpus
from pipelines.curation.corpus_shards import shard_name
from pipelines.curation.families.base import Source
from pipelines.curation.looks import Look, looks_file, looks_of_shard, write_looks
from pipelines.curation.parents import VERSION as CURATION
from pipelines.curation.published import ShardCounts, describe_files, publish_file
from pipelines.curation.records import PICTURE_FORGOTTEN
from pipelines.curation.shard_files import shard_files, write_shard
from pipelines.curation.steps.assemble import reject_of
from storage.corpus import Corpus, table_to_images, table_to_rejects, table_to_samples, write_rejects
from storage.errors import UnknownKind, UsageError
from storage.forgotten import forgotten_digest
from storage.keys import Json, content_key
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.retirement import successor_of
from storage.schema import SCHEMA_VERSION, Reject

__all__ = ["check_can_be_succeeded", "in_place_of", "successor_key", "write_successor"]

VERSION = 1
"""Raised whenever the same corpus would have another successor."""

_TABLES = ("images", "samples", "rejects", "looks")
_SHOWN_DIGITS = 12
"""Digits by which the words of verdicts name a picture."""
_SOMEBODY = "a picture that was removed"
_PREDECESSOR = "predecessor"
"""Name, among a corpus's inputs, of the one whose place it took."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Leaving:
    """The pictures that leave a corpus."""

    image_ids: frozenset[str]
    names: frozenset[tuple[str, str]]
    """Source file and path of each name by which records know them."""

    def word(self, text: str) -> str:
        """A text in which they aren't named any more."""
        for image_id in self.image_ids:
            text = text.replace(image_id[:_SHOWN_DIGITS], _SOMEBODY)
        return text

    def reject(self, row: Reject) -> Reject:
        """A reject that tells nothing of them."""
        if any(file == row.source_file and _has_word(row.detail, path) for file, path in self.names):
            return _forgotten(row)
        return replace(row, detail=self.word(row.detail))

    def look(self, look: Look) -> Look:
        """What is known of another picture, without them."""
        return replace(
            look,
            withheld=tuple(map(self.reject, look.withheld)),
            leaking=None if look.leaking is None else self.word(look.leaking),
            duplicate=None if look.duplicate is None else self.word(look.duplicate),
        )


def successor_key(corpus: str, image_ids: Collection[str]) -> str:
    """The content key of a corpus less some pictures.

    Args:
        corpus: key of the corpus.
        image_ids: of the pictures.
    """
    digests = sorted(map(forgotten_digest, image_ids))
    content: dict[str, Json] = {"schema_version": SCHEMA_VERSION, "stage": "forget", "version": VERSION}
    return content_key({**content, "corpus": corpus, "forgotten": digests})


def check_can_be_succeeded(corpus: Corpus) -> None:
    """Whether this version can make a corpus less some pictures.

    Raises:
        UsageError: another version wrote it.
    """
    if (corpus.manifest.schema_version, corpus.manifest.facts.get("curation_version")) != (SCHEMA_VERSION, CURATION):
        raise UsageError(
            f"{corpus.objects.url}: holds pictures that are to be forgotten, and another version of curation wrote it, "
            "so that it can't be made without them; delete it, and run the command again"
        )


def write_successor(corpus: Corpus, output: Objects, held: Mapping[str, HeldImage]) -> Manifest:
    """Publishes a corpus less some pictures; continues one that was killed, and repeating it is fine.

    Args:
        corpus: the corpus.
        output: where the other one goes.
        held: the pictures by their ids, where the corpus has them.

    Raises:
        UsageError: another version wrote the corpus.
        ManifestConflict: files of other content stand at `output`.
        InfrastructureError: a store can't be reached.
    """
    check_can_be_succeeded(corpus)
    present = read_manifest(output)
    if present is not None:
        return present
    homes = {name for image in held.values() for name in image.shards}
    leaving = _Leaving(frozenset(held), frozenset(_names_of(corpus.objects, homes, held)))
    entries = {entry.path: entry for entry in corpus.manifest.files if entry.path.partition("/")[0] in _TABLES}
    written = {entry.path: entry for name in homes for entry in _write_home(corpus.objects, output, name, leaving)}
    for path in sorted(entries.keys() - written.keys()):
        entry = _rewritten(corpus.objects, output, path, leaving)
        if entry is None:
            publish_file(output, corpus.objects, path)
        written[path] = entry or entries[path]
    total = describe_files(output, sorted(written), written)
    assert not find_in_corpus(output, total.files, held), "what leaves is gone"
    return _publish(corpus, output, total, frozenset(held))


def in_place_of(target: CorpusTarget, folder: Objects) -> CorpusTarget:
    """The corpus that a recipe gives where pictures were forgotten since: the one that took the place of the old one.

    Args:
        target: as the recipe gives it.
        folder: where corpora lie.

    Returns:
        The successor, if the corpus with these pictures was retired and that one has none of them; else the target.
    """
    successor = None if target.before is None else successor_of(folder.child(target.before))
    manifest = None if successor is None else read_manifest(successor)
    if manifest is None or not set(map(forgotten_digest, target.forgotten)).issubset(_forgotten_before(manifest)):
        return target
    return replace(target, key=manifest.key, present=successor)


def _names_of(objects: Objects, shards: Collection[str], image_ids: Collection[str]) -> set[tuple[str, str]]:
    """Names of the pictures that are no other's: those in an archive may all go by its name."""
    theirs: set[tuple[str, str]] = set()
    others: set[tuple[str, str]] = set()
    for name in shards:
        for look in looks_of_shard(objects, name):
            names = theirs if look.image_id in image_ids else others
            names.update((item.source_file, item.path) for item in look.names if item.path != item.source_file)
    return theirs - others


def _write_home(objects: Objects, output: Objects, name: str, leaving: _Leaving) -> tuple[FileEntry, ...]:
    """Writes the files of a shard that has some of the pictures, without them; returns their manifest entries."""
    images_file, samples_file, rejects_file, _ = shard_files(name)
    rejects = Counter(_rejects(objects, rejects_file))
    looks = looks_of_shard(objects, name)
    for look in looks:
        if look.image_id in leaving.image_ids:
            rejects.subtract(look.withheld)
            rejects.update(map(_forgotten, look.withheld))
    samples = table_to_samples(read_table(objects, samples_file))
    rejects.update(reject_of(item, PICTURE_FORGOTTEN) for item in samples if item.image_id in leaving.image_ids)
    return write_shard(
        output,
        name,
        images=[
            image
            for image in table_to_images(read_table(objects, images_file))
            if image.image_id not in leaving.image_ids
        ],
        samples=[sample for sample in samples if sample.image_id not in leaving.image_ids],
        rejects=map(leaving.reject, rejects.elements()),
        looks=[leaving.look(look) for look in looks if look.image_id not in leaving.image_ids],
    )


def _rewritten(objects: Objects, output: Objects, path: str, leaving: _Leaving) -> FileEntry | None:
    """Writes a table that only tells of the pictures in its words without these; None: it doesn't tell of them."""
    name = shard_name(path)
    if path == looks_file(name):
        looks = looks_of_shard(objects, name)
        others = [leaving.look(look) for look in looks]
        return write_looks(output, name, others) if others != looks else None
    if path.startswith("rejects/"):
        rejects = _rejects(objects, path)
        rows = [leaving.reject(row) for row in rejects]
        return write_rejects(output, name, rows) if rows != rejects else None
    return None


def _rejects(objects: Objects, path: str) -> list[Reject]:
    return table_to_rejects(read_table(objects, path))


def _forgotten(row: Reject) -> Reject:
    return replace(row, reason=PICTURE_FORGOTTEN.reason, detail=PICTURE_FORGOTTEN.detail)


def _has_word(text: str, word: str) -> bool:
    """Whether a path stands in a text, and not as a part of a longer one.

    >>> [_has_word(text, "1.png") for text in ("1.png: no", "a/1.png", "11.png", "see 1.png.", "1.png.zip")]
    [True, False, False, True, False]
    """
    return re.search(rf"(?<![\w./-]){re.escape(word)}(?![\w/-]|\.\w)", text) is not None


def _forgotten_before(manifest: Manifest) -> Sequence[str]:
    """Digests of the pictures that a corpus and its predecessors are made without."""
    return cast("Mapping[str, Sequence[str]]", manifest.facts.get("forgotten", {})).get("images", ())


def _publish(corpus: Corpus, output: Objects, total: ShardCounts, image_ids: Collection[str]) -> Manifest:
    before, facts = corpus.manifest, corpus.manifest.facts
    key = successor_key(before.key, image_ids)
    check_account(output, Counter(cast("Mapping[str, int]", facts["records_in"])), total)
    counted = counted_facts(total)
    parts = cast("Sequence[Json]", facts.get("parts", ()))
    digests = sorted({*_forgotten_before(before), *map(forgotten_digest, image_ids)})
    changed: dict[str, Json] = {
        **counted,
        "parents": [before.key, *cast("Sequence[str]", facts.get("parents", ()))],
        "since_parent": {
            "parts_kept": len(parts),
            "parts_read": 0,
            "parts_gone_or_replaced": 0,
            "samples_added": 0,
            "samples_taken_out": cast(int, facts["num_samples"]) - cast(int, counted["num_samples"]),
        },
        "forgotten": {"images": digests},
    }
    inputs = {**before.inputs, _PREDECESSOR: before.key}
    files: Sequence[FileEntry] = total.files
    if any(entry.path == CARD_NAME for entry in before.files):
        made = card_files(output, files, key, {**facts, **changed}, _sources(before), inputs)
        files = (*files, *write_card(output, made))
    return publish(
        output, Manifest("corpus", key, SCHEMA_VERSION, before.recipe, inputs, tuple(files), {**facts, **changed})
    )


def _sources(manifest: Manifest) -> Sequence[Source]:
    """The sources of a corpus, of which the card tells what is published; none if they can't be read any more."""
    try:
        return CurationConfig.model_validate(cast("dict[str, Any]", manifest.recipe)).sources
    except (ValidationError, UnknownKind) as error:
        _LOG.warning("corpus %s: its card tells nothing of licences: %s", manifest.key[:12], error)
        return ()
