"""Keeping a feature store tidy: compaction of small parts, forgetting of images, removal of what nobody needs.

Compaction copies encoded chunks byte by byte; nothing is decoded or computed again. The parts that it
replaces stay where they are, for readers that pinned an earlier snapshot, until `collect_garbage`
removes them. Forgetting is compaction without some rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from storage import local_files
from storage.errors import CorruptObject, UsageError
from storage.feature_index import OpenPart, part_objects, read_rows, read_snapshot, replace_parts, snapshot_key
from storage.feature_plan import MAX_SHARD_BYTES, ArrayPlan, PartPlan, PlannedRow, ShardPlan
from storage.feature_writer import ShardWriter, WrittenShard, publish_part, write_part_metadata, written_shards
from storage.features import FeatureStore
from storage.keys import Json, content_key
from storage.manifest import MANIFEST_NAME, delete_outputs, read_manifest
from storage.objects import ObjectInfo, Objects
from storage.shards import EncodedRow, ShardTail, checked_chunk, read_tail

__all__ = ["Compaction", "Garbage", "collect_garbage", "compact"]

VERSION = 1
"""Raised when compaction lays the same rows out in another way; part of the key of what it makes."""

_NUM_THREADS = 4  # each holds one shard
_NUM_TAIL_READERS = 16
_SMALL = 0.5


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did."""

    retired: tuple[str, ...]
    """Parts that are live no longer."""
    part: str | None
    """The part in their place; None: nothing had to be done, or nothing was left."""
    num_images: int
    """Copied rows."""
    num_forgotten: int
    """Rows left out on request."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What nobody needs."""

    keys: tuple[str, ...]
    """Objects below the store, unfinished local files among them."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a row's chunk lies."""

    part: int
    array: ArrayPlan
    row: int

    @property
    def shard(self) -> int:
        return self.row // self.array.rows_per_shard


def compact(
    store: Objects,
    *,
    forget: Collection[str] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_shard: Callable[[int, int], None] = lambda num_done, num_shards: None,
    dry_run: bool = False,
) -> Compaction:
    """Makes one part of all small ones, and of those that hold an image to forget.

    A part is small if its shards hold, on average, less than half of what they may. A killed
    compaction is continued by calling it again. Rejected images stay rejected.

    Args:
        store: prefix of the store.
        forget: images whose rows, with features or rejected, are left out.
        max_shard_bytes: size that a shard should not exceed.
        on_shard: told after each shard how many of how many are done.
        dry_run: only look; says what would be done, without the new part.

    Raises:
        ObjectNotFound: no store there.
        UsageError: another command replaced one of the parts meanwhile.
        CorruptObject: a chunk's checksum fails; names part and shard.
    """
    features, forgotten = FeatureStore.open(store), frozenset(forget)
    assert features.snapshot is not None  # an absent store raises
    parts, index = features.parts, features.index
    held = [_num_held(part, forgotten) for part in parts]
    small = {number for number, part in enumerate(parts) if _is_small(part, max_shard_bytes)}
    chosen = sorted((small if len(small) > 1 else set()) | {number for number, count in enumerate(held) if count})
    if not chosen:
        return Compaction((), None, 0, 0)
    retired, num_forgotten = tuple(parts[number].key for number in chosen), sum(held)
    arrays = [list(part.arrays.values()) for part in parts]
    sources: dict[int, list[tuple[PlannedRow, _Source]]] = {}
    for position in np.flatnonzero(np.isin(index.part, chosen)).tolist():
        image_id, part = index.name(position), int(index.part[position])
        if image_id not in forgotten:
            array = arrays[part][int(index.array[position])]
            planned = PlannedRow(image_id, int(index.height[position]), int(index.width[position]))
            source = _Source(part, array, int(index.row[position]))
            sources.setdefault(array.cells, []).append((planned, source))
    if dry_run:
        return Compaction(retired, None, sum(map(len, sources.values())), num_forgotten)
    if not sources:
        replace_parts(store, features.snapshot.description, retired, None)
        return Compaction(retired, None, 0, num_forgotten)
    return _Copier(features, sources, max_shard_bytes).run(retired, forgotten, num_forgotten, on_shard)


def _num_held(part: OpenPart, image_ids: frozenset[str]) -> int:
    """How many of the images stand in a part, also where another part's row of them counts."""
    return len(image_ids.intersection(read_rows(part)["image_id"].to_pylist())) if image_ids else 0


def _is_small(part: OpenPart, max_shard_bytes: int) -> bool:
    shards = [entry.size_bytes for entry in part.manifest.files if "/c/" in entry.path]
    return not shards or sum(shards) / len(shards) < _SMALL * max_shard_bytes


class _Copier:
    """Copies rows into a new part."""

    def __init__(
        self, features: FeatureStore, sources: Mapping[int, list[tuple[PlannedRow, _Source]]], max_shard_bytes: int
    ) -> None:
        self._store, self._parts = features.objects, features.parts
        self._max_shard_bytes = max_shard_bytes
        assert features.codec is not None
        self._codec = features.codec
        places = {(source.part, source.array, source.shard) for rows in sources.values() for _, source in rows}
        with ThreadPoolExecutor(_NUM_TAIL_READERS) as pool:
            self._tails = dict(zip(places, pool.map(lambda place: self._tail(*place), places), strict=True))
        ordered = [sources[cells] for cells in sorted(sources)]
        self._plan = PartPlan(
            tuple(self._array(rows) for rows in ordered),
            tuple(tuple(planned for planned, _ in rows) for rows in ordered),
        )
        self._sources = {
            array.name: [source for _, source in rows] for array, rows in zip(self._plan.arrays, ordered, strict=True)
        }

    def run(
        self,
        retired: Sequence[str],
        forgotten: frozenset[str],
        num_forgotten: int,
        on_shard: Callable[[int, int], None],
    ) -> Compaction:
        """Writes, publishes and retires."""
        recipe: dict[str, Json] = {
            "version": VERSION,
            "parts": list(retired),
            "forgotten": sorted(forgotten),
            "max_shard_bytes": self._max_shard_bytes,
        }
        key, description = content_key({"stage": "compact", **recipe}), self._parts[0].description
        target = part_objects(self._store, key)
        write_part_metadata(target, self._plan, description, self._codec)
        finished = written_shards(target)
        shards = list(self._plan.shards())
        written: dict[str, WrittenShard] = {}
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            missing = [shard for shard in shards if shard.key not in finished]
            for number, shard in enumerate(pool.map(lambda shard: self._copy(target, shard), missing), start=1):
                written[shard.entry.path] = shard
                on_shard(len(finished) + number, len(shards))
        inputs = {f"part {number}": part for number, part in enumerate(retired)}
        # Which images were forgotten is not kept where the features are.
        public = {name: value for name, value in recipe.items() if name != "forgotten"}
        publish_part(
            self._store,
            key,
            self._plan,
            description,
            self._codec,
            recipe=public,
            inputs=inputs,
            written=written,
            retired=retired,
        )
        return Compaction(tuple(retired), key, self._plan.num_images, num_forgotten)

    def _tail(self, part: int, array: ArrayPlan, shard: int) -> ShardTail:
        opened = self._parts[part]
        try:
            return read_tail(opened.objects, array, shard, self._codec)
        except CorruptObject as error:
            raise CorruptObject(f"{opened.objects.url}/{array.shard_key(shard)}: {error}; restore it") from error

    def _extent(self, source: _Source) -> tuple[int, int]:
        tail = self._tails[source.part, source.array, source.shard]
        return tail.extents[source.row % source.array.rows_per_shard]

    def _array(self, rows: Sequence[tuple[PlannedRow, _Source]]) -> ArrayPlan:
        """An array of full shards, by the mean size of the chunks that come into it."""
        first = rows[0][1].array
        mean_bytes = float(np.mean([self._extent(source)[1] for _, source in rows]))
        most = max(1, int(self._max_shard_bytes / mean_bytes))
        num_shards = -(-len(rows) // most)
        return ArrayPlan(first.name, len(rows), first.num_channels, first.cells, -(-len(rows) // num_shards))

    def _copy(self, target: Objects, shard: ShardPlan) -> WrittenShard:
        writer = ShardWriter(target, shard.array, shard.index, self._codec)
        span = shard.array.shard_rows(shard.index)
        sources = list(enumerate(self._sources[shard.array.name][span.start : span.stop]))
        for (part, array, number), group in groupby(sources, lambda item: (item[1].part, item[1].array, item[1].shard)):
            opened, tail, members = self._parts[part], self._tails[part, array, number], list(group)
            slots = [source.row % array.rows_per_shard for _, source in members]
            key = array.shard_key(number)
            chunks = opened.objects.read_buffers(key, [tail.extents[slot] for slot in slots])
            for (place, _), slot, chunk in zip(members, slots, chunks, strict=True):
                row = tail.rows[slot]
                if row.image_id != shard.rows[place].image_id:
                    raise CorruptObject(f"{opened.objects.url}/{key}: row {slot} isn't {shard.rows[place].image_id}")
                try:
                    body, checksum = checked_chunk(chunk, row.image_id)
                except CorruptObject as error:
                    raise CorruptObject(f"{opened.objects.url}/{key}: {error}; restore it") from error
                writer.add(place, EncodedRow(row, body, checksum))
        return writer.write()


def collect_garbage(store: Objects, *, older_than_s: float, dry_run: bool = False) -> Garbage:
    """Removes what no snapshot needs: parts that were never published or are live no longer, leases that
    were left, objects of live parts that their manifest doesn't name, unfinished local files.

    A part counts as old from its last write on, or, if it was live, from the snapshot on that dropped it.
    Uploads to object stores are single requests, so that none is ever left half-way there.

    Args:
        store: prefix of the store.
        older_than_s: what is younger may belong to a run at work, or to a reader, and stays.
        dry_run: only look.

    Raises:
        UsageError: the store can't be listed.
    """
    if not store.can_list:
        raise UsageError(f"{store.url}: a web server can't be tidied; give the object store behind it")
    now_s, listed = time.time(), list(store.list())
    history = _History(store, {info.key: info.modified_s for info in listed if info.key.startswith("index/")})
    found: list[ObjectInfo] = []
    for part, group in groupby(
        (info for info in listed if info.key.startswith("parts/")), lambda info: info.key.split("/")[1]
    ):
        files = list(group)
        if part in history.live:
            named = _named(store, part)
            found += [info for info in files if info.key not in named and now_s - info.modified_s >= older_than_s]
            continue
        retired_s = history.retired_s(part)
        since_s = max(info.modified_s for info in files) if retired_s is None else retired_s
        if now_s - since_s >= older_than_s:
            found += files
    found += [info for info in listed if info.key.startswith("leases/") and now_s - info.modified_s >= older_than_s]
    unfinished = _unfinished(store, older_than_s)
    if not dry_run:
        delete_outputs(store, [info.key for info in found])
        for path, _ in unfinished:
            os.unlink(path)
    names = [os.path.relpath(path, store.local_path) for path, _ in unfinished]
    size_bytes = sum(info.size_bytes for info in found) + sum(size for _, size in unfinished)
    return Garbage((*(info.key for info in found), *names), size_bytes)


class _History:
    """Which parts are live, and when the others ceased to be; snapshots are read when they are asked for."""

    def __init__(self, store: Objects, written_s: Mapping[str, float]) -> None:
        self._store, self._written_s = store, written_s
        newest = read_snapshot(store)
        self._number = newest.number if newest else 0
        self.live = {entry.part for entry in newest.parts} if newest else set[str]()
        self._earlier: dict[int, frozenset[str]] = {}

    def retired_s(self, part: str) -> float | None:
        """When the first snapshot was written that no longer lists a part; None: none ever did."""
        for number in range(self._number - 1, 0, -1):
            if number not in self._earlier:
                snapshot = read_snapshot(self._store, number)
                self._earlier[number] = frozenset(entry.part for entry in snapshot.parts) if snapshot else frozenset()
            if part in self._earlier[number]:
                return self._written_s[snapshot_key(number + 1)]
        return None


def _named(store: Objects, part: str) -> frozenset[str]:
    """Keys of a live part's own objects."""
    manifest = read_manifest(part_objects(store, part))
    names = [] if manifest is None else [file.path for file in manifest.files]
    return frozenset(f"parts/{part}/{name}" for name in (*names, MANIFEST_NAME))


def _unfinished(store: Objects, older_than_s: float) -> list[tuple[str, int]]:
    folder = store.local_path
    if folder is None:
        return []
    return [(path, os.stat(path).st_size) for path in local_files.unfinished_files(str(folder), older_than_s)]
