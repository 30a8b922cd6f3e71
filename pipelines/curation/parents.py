"""The corpus that a new one goes on from, and which of its rows may stay.

A part of a source is unchanged if its key stands in the parent's manifest: the key follows from the fields of its
source and the SHA-256 of its files. Rows know the file that they are from, so that parts with a file of one name change
together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from pipelines.curation.config import CurationConfig
from storage.errors import ObjectNotFound, UsageError
from storage.keys import Json
from storage.manifest import FileEntry, Manifest, read_manifest
from storage.objects import Objects
from storage.retirement import retired_error
from storage.schema import SCHEMA_VERSION

__all__ = ["LATEST", "VERSION", "Parent", "PartFact", "kept_parts", "nearest_first", "open_parent",
           "why_not_continued"]  # fmt: skip

LATEST = "latest"
"""Stands in the place of a parent's URL for the corpus of which most rows can stay, of all beside the new one."""

VERSION = 5
"""Raised whenever the same sources and configuration would give another corpus."""

_NUM_MANIFESTS_AT_ONCE = 16
_SHAPING = ("filters", "leakage", "max_image_px")
"""Fields of the configuration that decide about the rows of every source."""


@dataclass(frozen=True, slots=True)
class PartFact:
    """What a manifest says of a part of its sources."""

    key: str
    """See `intake.part_key`."""
    pictures: str | None
    """Content key of its pictures, where it lists folders of them; None: its files tell all."""
    records_in: Mapping[str, int]
    """Records by source file."""

    @property
    def num_records(self) -> int:
        """Number of its records."""
        return sum(self.records_in.values())

    def to_json(self) -> dict[str, Json]:
        """As it stands in the manifest."""
        return {"key": self.key, "pictures": self.pictures, "records_in": dict(self.records_in)}


@dataclass(frozen=True)
class Parent:
    """A published corpus that is gone on from."""

    objects: Objects
    manifest: Manifest

    @cached_property
    def parts(self) -> tuple[PartFact, ...]:
        """Parts of its sources."""
        rows = cast("Sequence[dict[str, Any]]", self.manifest.facts["parts"])
        return tuple(PartFact(row["key"], row["pictures"], row["records_in"]) for row in rows)

    @cached_property
    def files(self) -> Mapping[str, FileEntry]:
        """Its files by key."""
        return {entry.path: entry for entry in self.manifest.files}

    @property
    def chain(self) -> tuple[str, ...]:
        """Its key, that of its own parent, and so on."""
        return self.manifest.key, *cast("Sequence[str]", self.manifest.facts["parents"])

    def keys_below(self, folder: str) -> list[str]:
        """Keys of its files in a folder, in order."""
        return sorted(path for path in self.files if path.startswith(f"{folder}/"))


def open_parent(url: str) -> Parent:
    """Opens the corpus that `curation.parent` names.

    Raises:
        ObjectNotFound: there is no corpus.
        RetiredCorpus: there was one; the message names its successor.
        UsageError: something else is there.
    """
    objects = Objects.open(url)
    manifest = read_manifest(objects)
    if manifest is None:
        raise retired_error(objects) or ObjectNotFound(
            f"curation.parent: no corpus at {objects.url}; give the folder of a published one, with its manifest.json"
        )
    if manifest.kind != "corpus":
        raise UsageError(f"curation.parent: expected a corpus at {objects.url}, found {manifest.kind}")
    return Parent(objects, manifest)


def nearest_first(corpora: Objects, config: CurationConfig, keys: Mapping[int, str]) -> list[Parent]:
    """Corpora that can be gone on from, the one that leaves least to do first.

    That is the one of which most records stay; of these the one of which fewest go; of these the one that has gone on
    furthest from others; of these the first by key. So what a run that nobody interrupts made last comes first, and
    neither clocks nor names of recipes matter.

    Args:
        corpora: where they lie, each in a folder of its own.
        config: what is curated.
        keys: of its parts, by number; see `intake.part_key`.

    Raises:
        CorruptObject: a manifest can't be read.
        InfrastructureError: the store can't be reached.
    """
    places = [corpora.child(name) for name in corpora.folders()]
    with ThreadPoolExecutor(_NUM_MANIFESTS_AT_ONCE) as pool:
        manifests = list(pool.map(read_manifest, places))
    ranked: list[tuple[int, int, int, str, Parent]] = []
    for objects, manifest in zip(places, manifests, strict=True):
        if manifest is None or manifest.kind != "corpus" or why_not_continued(manifest, config) is not None:
            continue
        parent = Parent(objects, manifest)
        num_kept = sum(fact.num_records for fact in kept_parts(parent, keys, (), ()).values())
        num_gone = sum(fact.num_records for fact in parent.parts) - num_kept
        if num_kept:
            ranked.append((-num_kept, num_gone, -len(parent.chain), manifest.key, parent))
    return [parent for *_, parent in sorted(ranked, key=lambda entry: entry[:-1])]


def why_not_continued(manifest: Manifest, config: CurationConfig) -> str | None:
    """Why rows of a corpus may not stand beside those of this configuration; None: they may."""
    if manifest.schema_version != SCHEMA_VERSION or manifest.facts.get("curation_version") != VERSION:
        return "it was made by another version of curation"
    fields = config.hashed_fields()
    differing = [f"curation.{name}" for name in _SHAPING if manifest.recipe.get(name) != fields[name]]
    return f"it was made with another {' and '.join(differing)}" if differing else None


def kept_parts(
    parent: Parent, keys: Mapping[int, str], changed: Collection[int], names_read: Collection[str]
) -> dict[int, PartFact]:
    """Parts of which the rows may stay, by number.

    Args:
        parent: what may be kept.
        keys: of all parts, by number.
        changed: numbers of parts that are known to have changed although their key didn't.
        names_read: source files of the records of parts that aren't the parent's.
    """
    ours, theirs = Counter(keys.values()), Counter(fact.key for fact in parent.parts)
    facts = {fact.key: fact for fact in parent.parts if theirs[fact.key] == 1}
    kept = {
        number: facts[key] for number, key in keys.items() if key in facts and ours[key] == 1 and number not in changed
    }
    while True:
        staying = {fact.key for fact in kept.values()}
        names = set(names_read)
        names.update(name for fact in parent.parts if fact.key not in staying for name in fact.records_in)
        left = {number: fact for number, fact in kept.items() if names.isdisjoint(fact.records_in)}
        if len(left) == len(kept):
            return kept
        kept = left
