"""A corpus on top of its parent: which shards are copied, which are made anew, and what comes in new ones.

A picture stays in its shard as long as any record names it; its new samples go there. New pictures come in shards of a
new layer. A picture whose rows become more or fewer is judged as a whole: its samples are taken from the parent, and
its rejects that other rows had brought about are read again from their source.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from pipelines.curation.corpus_shards import shard_name
from pipelines.curation.drafts import DraftFile, ImageFile
from pipelines.curation.gathering import Sources
from pipelines.curation.intake import NamedFile, Part, PartAccount, named_files, roots_of
from pipelines.curation.judging import Verdicts
from pipelines.curation.looks import Look, Name, looks_file, looks_of_shard
from pipelines.curation.parents import Parent
from pipelines.curation.rereading import Again, read_again
from pipelines.curation.shard_files import shard_files, written_files
from pipelines.curation.shards import (
    ShardContext,
    ShardImage,
    ShardWork,
    curate_images,
    drafted_images,
    looking_ahead,
    write_made,
)
from pipelines.curation.workers import Workers
from pipelines.progress import Progress
from storage.corpus import table_to_images, table_to_rejects, table_to_samples
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import ImageRecord, Reject, Sample

__all__ = ["OldShards", "ShardRemake", "find_old_shards", "layer_of", "layer_prefix", "read_withheld", "remake_shard",
           "remakes_of", "revived"]  # fmt: skip

pc: Any = pyarrow.compute


@dataclass(frozen=True, slots=True)
class OldShards:
    """The parent's shards, and what happens to them."""

    names: tuple[str, ...]
    homes: Mapping[str, str]
    """Shard of each picture."""
    touched: Mapping[str, frozenset[str]]
    """Pictures whose rows become more or fewer, by shard; the shards that aren't among them stay as they are."""


@dataclass(frozen=True, slots=True)
class ShardRemake:
    """What is done to a shard of the parent."""

    work: ShardWork
    """Drafts on its pictures."""
    touched: frozenset[str]
    """Pictures that are judged anew; all else of the shard stays."""


def layer_of(parent: Parent | None) -> int:
    """Number of the layer of new shards that comes on top of a parent; 0: there is none below."""
    return 0 if parent is None else cast(int, parent.manifest.facts["layer"]) + 1


def layer_prefix(layer: int) -> str:
    """How names of a layer's shards begin.

    >>> layer_prefix(0), layer_prefix(2)
    ('', 'l2-')
    """
    return f"l{layer}-" if layer else ""


def find_old_shards(sources: Sources, parent: Parent) -> OldShards:
    """Looks up where the pictures of the parent are, and which of them lose or get rows."""
    gone = pa.array(sorted(sources.gone), pa.string())
    names = tuple(shard_name(path) for path in parent.keys_below("looks"))
    homes: dict[str, str] = {}
    touched: dict[str, set[str]] = {}
    for name in names:
        looks = read_table(parent.objects, looks_file(name), ["image_id", "names"])
        homes.update(dict.fromkeys(cast("list[str]", looks["image_id"].to_pylist()), name))
        named = looks["names"].combine_chunks()
        lost = pc.filter(pc.list_parent_indices(named), pc.is_in(pc.list_flatten(named).field("source_file"), gone))
        if len(lost):
            touched[name] = set(looks["image_id"].take(lost.unique()).to_pylist())
        elif _mentions(parent.objects, f"rejects/{name}.parquet", gone):
            touched[name] = set()
    for digest in sources.found.values():
        if isinstance(digest, str) and digest in homes:
            touched.setdefault(homes[digest], set()).add(digest)
    return OldShards(names, homes, {name: frozenset(ids) for name, ids in sorted(touched.items())})


def read_withheld(
    workers: Workers, sources: Sources, parent: Parent, touched: Mapping[str, Collection[str]], progress: Progress
) -> tuple[tuple[DraftFile, ...], tuple[NamedFile, ...], dict[ImageFile, str]]:
    """Reads again what was withheld of pictures that are judged anew.

    Returns:
        The drafts, the files that they name, and SHA-256 of each.

    Raises:
        SourceError: a picture isn't what it was.
    """
    part_of = {name: sources.parts[number] for number, fact in sources.kept.items() for name in fact.records_in}
    rows: dict[int, set[tuple[str, str, str]]] = {}
    for name, image_ids in touched.items():
        for look in looks_of_shard(parent.objects, name) if image_ids else ():
            for row in look.withheld if look.image_id in image_ids else ():
                if row.source_file in part_of:
                    place = part_of[row.source_file].number
                    rows.setdefault(place, set()).add((row.source_file, row.locator, look.image_id))
    by_number: dict[int, Part] = {part.number: part for part in part_of.values()}
    items = [Again(by_number[number], tuple(sorted(found))) for number, found in sorted(rows.items())]
    drafts: dict[int, tuple[DraftFile, ...]] = {}
    found: dict[ImageFile, str] = {}
    read = partial(read_again, sources.work, roots_of(sources.config))
    for done, (place, reread) in enumerate(workers.map(read, items), start=1):
        drafts[place] = reread.drafts
        found.update(reread.found)
        progress.update(done, len(items), unit="parts with rejects read again")
    files = tuple(file for place in range(len(items)) for file in drafts[place])
    account = PartAccount("", {}, {}, files, (), lists_pictures=False)
    named = tuple(item for item in named_files(sources.work, sources.config, [account]) if item.file in found)
    return files, named, found


def remakes_of(
    old: OldShards,
    touched: Mapping[str, frozenset[str]],
    named: Iterable[NamedFile],
    found: Mapping[ImageFile, object],
) -> tuple[ShardRemake, ...]:
    """What is done to each shard with pictures that are judged anew.

    Args:
        old: the parent's shards.
        touched: pictures by shard.
        named: by all drafts.
        found: SHA-256 of them.
    """
    files: dict[str, dict[ImageFile, str]] = {}
    identities: dict[str, set[int]] = {}
    for item in named:
        digest = found[item.file]
        home = old.homes.get(digest) if isinstance(digest, str) else None
        if home is None or item.identity is None or digest not in touched.get(home, ()):
            continue
        files.setdefault(home, {})[item.file] = cast(str, digest)
        identities.setdefault(home, set()).add(item.identity)
    return tuple(
        ShardRemake(
            ShardWork(
                name=name,
                ranges=tuple((number, number + 1) for number in sorted(identities.get(name, ()))),
                files=tuple(sorted(files.get(name, {}).items())),
            ),
            image_ids,
        )
        for name, image_ids in sorted(touched.items())
    )


def remake_shard(
    context: ShardContext, parent: Objects, gone: frozenset[str], remake: ShardRemake
) -> tuple[FileEntry, ...]:
    """Makes a shard of the parent anew, where `make_shard` would; where it is there nothing is made.

    Args:
        context: of the run.
        parent: the parent's prefix.
        gone: source files of which no row stays.
        remake: what to do.

    Returns:
        Manifest entries of its files.

    Raises:
        SourceError: a picture changed while the run was going on.
        InfrastructureError: a store can't be reached.
    """
    name, touched = remake.work.name, remake.touched
    written = written_files(context.made, name)
    if written is not None:
        return written
    images_file, samples_file, rejects_file, _ = shard_files(name)
    looks = {look.image_id: look for look in looks_of_shard(parent, name)}
    images = {image.image_id: image for image in table_to_images(read_table(parent, images_file))}
    taken = Counter(row for image_id in touched for row in looks[image_id].withheld)
    rejects = Counter(table_to_rejects(read_table(parent, rejects_file)))
    rejects.subtract(taken)
    retaken = {(image_id, *place) for image_id in touched for place in _places(looks[image_id].withheld)}
    staying: list[Sample] = []
    samples: dict[str, list[Sample]] = {}
    for sample in table_to_samples(read_table(parent, samples_file)):
        image_id = sample.image_id or ""
        if image_id not in touched:
            staying.append(sample)
        elif sample.source_file not in gone and (image_id, sample.source_file, sample.locator) not in retaken:
            samples.setdefault(image_id, []).append(sample)
    unread, drafted = drafted_images(context, remake.work)
    assert not unread, "pictures of a parent's shard can be read"
    drafted_of = {image.image_id: image for image in drafted}
    kept_names = {
        image_id: tuple(name for name in looks[image_id].names if name.source_file not in gone) for image_id in touched
    }
    merged = [
        _merged(looks[image_id], kept_names[image_id], drafted_of.get(image_id), samples.get(image_id, ()), images)
        for image_id in sorted(touched)
        if kept_names[image_id] or image_id in drafted_of
    ]
    with looking_ahead(context) as ahead:
        ahead.begin({image.image_id: file for image in merged if (file := image.unread) is not None})
        curated = curate_images(context, merged, ahead)
    return write_made(
        context.made,
        name,
        curated,
        rejects=[row for row in rejects.elements() if row.source_file not in gone],
        images=[image for image_id, image in images.items() if image_id not in touched],
        samples=staying,
        looks=[look for image_id, look in looks.items() if image_id not in touched],
    )


def revived(old: OldShards, looks: Iterable[tuple[Objects, str]], verdicts: Verdicts) -> dict[str, frozenset[str]]:
    """Pictures of which rows were withheld for a reason that no longer holds, by shard.

    Args:
        old: the parent's shards.
        looks: of these shards, where they lie by now.
        verdicts: on all pictures.
    """
    found: dict[str, set[str]] = {}
    for objects, name in looks:
        table = read_table(objects, looks_file(name), ["image_id", "leaking", "duplicate"])
        table = table.filter(pc.or_(pc.is_valid(table["leaking"]), pc.is_valid(table["duplicate"])))
        for row in table.to_pylist():
            leaking, duplicate = verdicts.of(row["image_id"])
            if leaking is None and (row["leaking"] is not None or duplicate is None):
                found.setdefault(old.homes[row["image_id"]], set()).add(row["image_id"])
    return {name: frozenset(ids) for name, ids in sorted(found.items())}


def _merged(
    look: Look,
    names: tuple[Name, ...],
    drafted: ShardImage | None,
    samples: Sequence[Sample],
    images: Mapping[str, ImageRecord],
) -> ShardImage:
    """A picture of the parent with what is newly said about it."""
    record = images.get(look.image_id)
    base = drafted or ShardImage(image_id=look.image_id, names=(), drafts=(), file=None)
    return replace(
        base,
        names=(*names, *base.names),
        data=None if record is None else record.data,
        known=look.probed,
        samples=tuple(samples),
    )


def _places(rows: Iterable[Reject]) -> set[tuple[str, str]]:
    return {(row.source_file, row.locator) for row in rows}


def _mentions(objects: Objects, path: str, files: pa.Array) -> bool:
    return bool(pc.any(pc.is_in(read_table(objects, path, ["source_file"])["source_file"], files)).as_py())
