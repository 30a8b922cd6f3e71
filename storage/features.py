"""The feature store: dense teacher features in Zarr v3 parts, written once and read by image.

    parts/<part key>/zarr.json                group; attributes: fingerprint, encoding, channels
                     l4096/zarr.json          one array per size class
                     l4096/c/<shard>/0/0      shards, see storage.shards
                     calibration.safetensors  what the encoding has to know of the teacher, if anything
                     rows.parquet             image -> array, row, extent, status
                     manifest.json            last: the part exists
    index/00000001.json                       numbered snapshots: the parts that are live

A store holds one teacher and one encoding. A part is what one run added and never changes. Readers
pin the newest snapshot they find. Everything is create-only: of two that publish at once, the one
who comes second writes the next snapshot on top of the first. If two parts hold an image, the part
that the snapshot lists first counts.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from storage.codecs import StoredFeature
from storage.errors import CorruptObject, MissingFeature, ObjectNotFound
from storage.feature_index import (
    OpenPart,
    PartDescription,
    Snapshot,
    open_part,
    part_objects,
    read_rows,
    read_snapshot,
)
from storage.feature_plan import ArrayPlan, PartPlan, PlannedRow, ShardPlan, class_cells, plan_rows
from storage.feature_writer import (
    PLAIN_SHARDS,
    FeatureRow,
    ShardWriter,
    WrittenShard,
    publish_part,
    write_part_metadata,
    write_shard,
    written_shards,
)
from storage.image_index import ImageIndex, PartRows
from storage.manifest import Manifest, verify_manifest
from storage.objects import Objects
from storage.schema import FeatureRef
from storage.shards import RowStatus, ShardRow, ShardTail, decode_chunk, parse_tail, plain_tail, read_tail
from storage.stored_features import Allocate, Codec
from storage.value_memory import BufferRing, StackedMemory, ValueMemory

__all__ = [
    "ArrayPlan",
    "BufferRing",
    "FeatureRow",
    "FeatureStore",
    "PartDescription",
    "PartPlan",
    "PlannedRow",
    "ReadSeconds",
    "RowStatus",
    "ShardPlan",
    "ShardWriter",
    "StackedMemory",
    "StoredFeature",
    "WrittenShard",
    "class_cells",
    "open_features",
    "part_objects",
    "plan_rows",
    "publish_part",
    "write_part_metadata",
    "write_shard",
    "written_shards",
]

_NUM_THREADS = 16
_ALONE_BYTES = 2**20  # of values of a local batch that one thread reads by itself: waking others takes as long
_NUM_LOCAL_READERS = 4  # of a batch from a local disk: enough for its queue, few enough for the threads' cost
_PIECES_PER_READER = 2  # so that nobody waits long for the slowest, and few files are opened twice
_CACHED_TAIL_BYTES = 256 * 2**20
_Place: TypeAlias = tuple[int, int, int]  # part (position in the snapshot), array (position in the part), shard
_Rows: TypeAlias = npt.NDArray[np.int64]  # positions in the index


class FeatureStore(Mapping[str, npt.NDArray[np.float32]]):
    """One snapshot of a feature store; also a mapping from image id to float32 [channels, height, width].

    Safe to use from several threads. A pickled store reopens the same snapshot.

    Args:
        objects: prefix of the store.
        snapshot: what it holds; None for an empty store.
    """

    def __init__(self, objects: Objects, snapshot: Snapshot | None) -> None:
        self.objects = objects
        self.snapshot = snapshot
        entries = [] if snapshot is None else list(snapshot.parts)
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="features")
        self._parts: list[OpenPart] = [open_part(objects, entry) for entry in entries[:1]]
        # All parts have one encoding, so that its calibration is read with the first alone.
        known: dict[str, Codec] = {part.codec.encoding: part.codec for part in self._parts}
        self._parts += self._pool.map(lambda entry: open_part(objects, entry, known), entries[1:])
        self._arrays = [list(part.arrays.values()) for part in self._parts]
        self._rows_per_shard = _rows_per_shard(self._arrays)
        tables = self._pool.map(read_rows, self._parts)
        self._index = ImageIndex(
            [PartRows(table, list(part.arrays)) for part, table in zip(self._parts, tables, strict=True)]
        )
        self._num_images = int(np.count_nonzero(self._index.is_ok))
        self._tails: OrderedDict[_Place, ShardTail] = OrderedDict()
        self._tail_bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, url: str | os.PathLike[str] | Objects, *, snapshot: int | None = None, absent_ok: bool = False
    ) -> FeatureStore:
        """Opens a store and pins a snapshot.

        Args:
            url: prefix of the store.
            snapshot: number of the snapshot; None: the newest.
            absent_ok: an absent store counts as empty.

        Raises:
            ObjectNotFound: no store there, or no such snapshot.
            CorruptObject: what it says about itself doesn't match its hashes.
        """
        objects = url if isinstance(url, Objects) else Objects.open(url)
        found = read_snapshot(objects, snapshot)
        if found is None and not absent_ok:
            raise ObjectNotFound(f"{objects.url}/index: no snapshot; no features there, run teach first")
        return cls(objects, found)

    def __reduce__(self) -> tuple[Callable[..., FeatureStore], tuple[Objects, Snapshot | None]]:
        return FeatureStore, (self.objects, self.snapshot)

    def __repr__(self) -> str:
        return f"FeatureStore({self.objects.url!r}, {len(self)} images)"

    def __len__(self) -> int:
        return self._num_images

    def __iter__(self) -> Iterator[str]:
        return (self._index.name(int(row)) for row in np.flatnonzero(self._index.is_ok))

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and bool(self._has([image_id])[0])

    def __getitem__(self, image_id: str) -> npt.NDArray[np.float32]:
        if image_id not in self:
            raise KeyError(image_id)
        return self.read([image_id])[0]

    @property
    def description(self) -> PartDescription | None:
        """Teacher, encoding and channels of the features; None for an empty store."""
        return None if self.snapshot is None else self.snapshot.description

    @property
    def codec(self) -> Codec | None:
        """How the features are encoded; None for an empty store."""
        return self._parts[0].codec if self._parts else None

    @property
    def parts(self) -> list[OpenPart]:
        """The live parts, as the snapshot lists them."""
        return list(self._parts)

    @property
    def index(self) -> ImageIndex:
        """Where each image's row lies, as columns; rejected ones too."""
        return self._index

    @property
    def manifests(self) -> list[Manifest]:
        """Manifests of the live parts; `facts` holds counts, sizes and what the encoding cost."""
        return [part.manifest for part in self._parts]

    @property
    def refs(self) -> dict[str, FeatureRef]:
        """Where each image's features lie."""
        return {ref.image_id: ref for ref in map(self._ref, np.flatnonzero(self._index.is_ok))}

    @property
    def rejected(self) -> dict[str, str]:
        """Images on which the teacher failed, with the reason."""
        return dict(self._index.rejected)

    def ref(self, image_id: str) -> FeatureRef:
        """Where the features of one image lie; raises MissingFeature."""
        return self._ref(self._find([image_id])[0])

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        """Those of the images that have no features here (rejected ones too), in the given order."""
        return [image_ids[number] for number in np.flatnonzero(~self._has(image_ids)).tolist()]

    def unknown(self, image_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of the images have never been here: neither features nor a reject."""
        return self._index.find(image_ids) < 0

    def shard_numbers(self, image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """A number for each image's shard: the same for images that one whole read gives; raises MissingFeature."""
        rows = self._find(image_ids)
        _, numbers = np.unique(self._places(rows), axis=0, return_inverse=True)
        return numbers.reshape(-1)

    def read(self, image_ids: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Features of each image, float32 [channels, height, width].

        Raises:
            MissingFeature: the store doesn't hold an image.
            CorruptObject: a shard is missing or torn, or a checksum fails; names store and shard.
        """
        return [feature.dequantise() for feature in self.read_stored(image_ids)]

    def extents(self, image_ids: Sequence[str]) -> list[tuple[int, int]]:
        """(rows, columns) of each image's grid, without a read; raises MissingFeature."""
        rows = self._find(image_ids)
        return list(zip(self._index.height[rows].tolist(), self._index.width[rows].tolist(), strict=True))

    def read_stored(
        self, image_ids: Sequence[str], *, memory: ValueMemory | None = None, seconds: ReadSeconds | None = None
    ) -> list[StoredFeature]:
        """Features of each image as stored, for dequantising elsewhere; raises as `read`.

        One request for each image's bytes, all in flight together, and one more for each shard that is
        met for the first time.

        Args:
            image_ids: those wanted, in any order.
            memory: that the values come to lie in, by position in `image_ids` (of an image that is named
                twice, by the first); None: new memory for each.
            seconds: is told where the time goes.
        """
        rows = self._find(image_ids)
        wanted, positions = np.unique(rows, return_index=True)
        places = dict(zip(wanted.tolist(), positions.tolist(), strict=True))
        pieces = self._divided(self._by_shard(wanted))
        if len(pieces) > 1:
            with self._lock:
                new = {place for piece in pieces for place, _ in piece if place not in self._tails}
            list(self._pool.map(self._tail, new))
        work, features = deque(pieces), dict[int, StoredFeature]()

        def read_some() -> None:
            while True:
                try:
                    piece = work.popleft()
                except IndexError:
                    return
                for place, some in piece:
                    allocators = None if memory is None else [memory.at(places[row]) for row in some]
                    features.update(self._read_rows(place, some, allocators, seconds))

        # This thread takes part: one wake-up less, and progress whatever else the pool has to do.
        num_readers = min(len(pieces), _NUM_THREADS if self.objects.local_path is None else _NUM_LOCAL_READERS)
        helpers = [self._pool.submit(read_some) for _ in range(num_readers - 1)]
        try:
            read_some()
        finally:
            work.clear()
            begun = [helper for helper in helpers if not helper.cancel()]
            wait(begun)
        for helper in begun:
            helper.result()
        return [features[row] for row in rows.tolist()]

    def scan(
        self, image_ids: Sequence[str] | None = None, *, num_shards_ahead: int = 2
    ) -> Iterator[tuple[str, StoredFeature]]:
        """Features in the order in which they lie, by one request for each whole shard; raises as `read`.

        Args:
            image_ids: those wanted, in any order; None: all.
            num_shards_ahead: shards that are fetched ahead, which is also how many are held in memory.
        """
        rows = np.flatnonzero(self._index.is_ok) if image_ids is None else np.unique(self._find(image_ids))
        groups = iter(sorted(self._by_shard(rows).items()))
        ahead: deque[Future[list[tuple[str, StoredFeature]]]] = deque()
        try:
            ahead.extend(self._pool.submit(self._read_shard, *item) for item in islice(groups, num_shards_ahead))
            while ahead:
                found = ahead.popleft().result()
                ahead.extend(self._pool.submit(self._read_shard, *item) for item in islice(groups, 1))
                yield from found
        finally:
            for future in ahead:
                future.cancel()

    def verify(self, on_file: Callable[[int, int], None] | None = None) -> None:
        """Reads every file of every live part and compares hashes; raises CorruptObject.

        Args:
            on_file: told after each file how many of how many are done.
        """
        total = sum(len(part.manifest.files) for part in self._parts)
        done = 0
        for part in self._parts:
            before = done

            def report(num_files: int, before: int = before) -> None:
                if on_file is not None:
                    on_file(before + num_files, total)

            verify_manifest(part.objects, on_file=report)
            done += len(part.manifest.files)

    def _has(self, image_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        rows = self._index.find(image_ids)
        if not len(self._index):
            return rows >= 0
        return (rows >= 0) & self._index.is_ok[rows]

    def _find(self, image_ids: Sequence[str]) -> _Rows:
        rows = self._index.find(image_ids)
        has = (rows >= 0) & self._index.is_ok[rows] if len(self._index) else rows >= 0
        if not has.all():
            first = image_ids[int(np.argmin(has))]
            reason = self._index.rejected.get(first)
            raise MissingFeature(
                f"{self.objects.url}: no features of {int((~has).sum())} of {len(image_ids)} images, first {first}"
                + (f", rejected: {reason}" if reason is not None else "; run teach on them")
            )
        return rows

    def _ref(self, row: int | np.int64) -> FeatureRef:
        index, part = self._index, int(self._index.part[row])
        return FeatureRef(
            image_id=index.name(int(row)),
            part=self._parts[part].key,
            array=self._arrays[part][int(index.array[row])].name,
            row=int(index.row[row]),
            height=int(index.height[row]),
            width=int(index.width[row]),
        )

    def _places(self, rows: _Rows) -> npt.NDArray[np.int64]:
        """(part, array, shard) of each row, [rows, 3]."""
        parts, arrays = self._index.part[rows].astype(np.int64), self._index.array[rows].astype(np.int64)
        return np.stack([parts, arrays, self._index.row[rows] // self._rows_per_shard[parts, arrays]], axis=1)

    def _by_shard(self, rows: _Rows) -> dict[_Place, list[int]]:
        groups: dict[_Place, list[int]] = {}
        for row, (part, array, shard) in zip(rows.tolist(), self._places(rows).tolist(), strict=True):
            groups.setdefault((part, array, shard), []).append(row)
        return groups

    def _divided(self, groups: Mapping[_Place, list[int]]) -> list[list[tuple[_Place, list[int]]]]:
        """Work for the threads, neighbours together, so that one image is decoded while others are on their way."""
        is_local = self.objects.local_path is not None
        if is_local and sum(self._value_bytes(place, len(rows)) for place, rows in groups.items()) <= _ALONE_BYTES:
            return [list(groups.items())] if groups else []
        num_pieces = _PIECES_PER_READER * _NUM_LOCAL_READERS if is_local else _NUM_THREADS
        size = -(-sum(map(len, groups.values())) // num_pieces)
        pieces: list[list[tuple[_Place, list[int]]]] = []
        room = 0
        for place, rows in groups.items():
            start = 0
            while start < len(rows):
                if not room:
                    pieces.append([])
                    room = size
                taken = rows[start : start + room]
                pieces[-1].append((place, taken))
                start, room = start + len(taken), room - len(taken)
        return pieces

    def _value_bytes(self, place: _Place, num_rows: int) -> int:
        array = self._arrays[place[0]][place[1]]
        return num_rows * array.num_channels * array.cells * self._parts[place[0]].codec.dtype.itemsize

    def _read_rows(
        self, place: _Place, rows: Sequence[int], allocators: Sequence[Allocate] | None, seconds: ReadSeconds | None
    ) -> dict[int, StoredFeature]:
        """Several images of one shard: the tail if it isn't cached, then all chunks together."""
        part, array = self._parts[place[0]], self._arrays[place[0]][place[1]]
        found: dict[int, StoredFeature] = {}
        started_s, decoding_s = time.perf_counter(), 0.0
        with _Naming(self.objects, part, array, place[2]) as key:
            tail = self._tail(place)
            slots = [self._slot(tail, array, row) for row in rows]
            spans = [tail.extents[slot] for slot in slots]
            chunks = part.objects.read_buffers(key, spans, allocators if part.codec.is_plain else None)
            own: Sequence[Allocate | None] = allocators or [None] * len(rows)
            for row, slot, chunk, allocate in zip(rows, slots, chunks, own, strict=True):
                fetched_s = time.perf_counter()
                found[row] = decode_chunk(chunk, tail.rows[slot], array, part.codec, allocate)
                decoding_s += time.perf_counter() - fetched_s
        if seconds is not None:
            seconds.add(time.perf_counter() - started_s - decoding_s, decoding_s)
        return found

    def _read_shard(self, place: _Place, rows: Sequence[int]) -> list[tuple[str, StoredFeature]]:
        """Several images of one shard, which is fetched whole."""
        part, array = self._parts[place[0]], self._arrays[place[0]][place[1]]
        with _Naming(self.objects, part, array, place[2]) as key:
            data = part.objects.read_buffer(key)
            plain = PLAIN_SHARDS in part.manifest.facts
            tail = self._plain_tail(place, data) if plain else parse_tail(data, array, part.codec)
            if isinstance(tail, int):
                raise CorruptObject(f"expected at least {tail} bytes, found {len(data)}")
            found: list[tuple[str, StoredFeature]] = []
            for row in rows:
                slot = self._slot(tail, array, row)
                offset, size = tail.extents[slot]
                chunk = data[offset : offset + size]
                found.append((tail.rows[slot].image_id, decode_chunk(chunk, tail.rows[slot], array, part.codec)))
            return found

    def _slot(self, tail: ShardTail, array: ArrayPlan, row: int) -> int:
        """Place of an indexed row within its shard, which must hold what the index says."""
        slot, image_id = int(self._index.row[row]) % array.rows_per_shard, self._index.name(row)
        if slot >= len(tail.rows) or tail.rows[slot].image_id != image_id:
            raise CorruptObject(f"row {self._index.row[row]} isn't image {image_id}, as the index says")
        return slot

    def _plain_tail(self, place: _Place, data: bytes | memoryview) -> ShardTail:
        """The tail of a shard that doesn't say what its rows are, by what the index says of them."""
        array, index = self._arrays[place[0]][place[1]], self._index
        span = array.shard_rows(place[2])
        within = (
            (index.part == place[0]) & (index.array == place[1]) & (index.row >= span.start) & (index.row < span.stop)
        )
        nothing = np.empty((array.num_channels, 0), self._parts[place[0]].codec.dtype)
        rows = [ShardRow("", 1, 1, RowStatus.REJECTED) for _ in span]
        for position in np.flatnonzero(within & index.is_ok).tolist():
            height, width = int(index.height[position]), int(index.width[position])
            stored = StoredFeature(nothing, height, width)
            slot = int(index.row[position]) - span.start
            rows[slot] = ShardRow(index.name(position), height, width, RowStatus.OK, "", stored)
        return plain_tail(data, array, rows)

    def _tail(self, place: _Place) -> ShardTail:
        with self._lock:
            if place in self._tails:
                self._tails.move_to_end(place)
                return self._tails[place]
        part, array = self._parts[place[0]], self._arrays[place[0]][place[1]]
        with _Naming(self.objects, part, array, place[2]) as key:
            if PLAIN_SHARDS in part.manifest.facts:
                tail = self._plain_tail(place, part.objects.read_tail(key, 16 * array.rows_per_shard + 4))
            else:
                tail = read_tail(part.objects, array, place[2], part.codec)
        with self._lock:
            if place not in self._tails:
                self._tails[place] = tail
                self._tail_bytes += tail.size_bytes
            while self._tail_bytes > _CACHED_TAIL_BYTES and len(self._tails) > 1:
                self._tail_bytes -= self._tails.popitem(last=False)[1].size_bytes
        return tail


class ReadSeconds:
    """Where the time of reads goes, summed over the threads that read."""

    def __init__(self) -> None:
        self.storage, self.decode = 0.0, 0.0
        self._lock = threading.Lock()

    def add(self, storage: float, decode: float) -> None:
        """Counts a read: seconds until its bytes were there, and seconds of checking and decoding them."""
        with self._lock:
            self.storage += storage
            self.decode += decode


def _rows_per_shard(arrays: Sequence[Sequence[ArrayPlan]]) -> npt.NDArray[np.int64]:
    """Rows of a shard of each array of each part, [parts, arrays of the part that has the most]."""
    found = np.ones((len(arrays), max(map(len, arrays), default=1)), np.int64)
    for number, plans in enumerate(arrays):
        found[number, : len(plans)] = [plan.rows_per_shard for plan in plans]
    return found


class _Naming:
    """Adds store and shard to the errors of reading a shard, whose key it gives."""

    def __init__(self, store: Objects, part: OpenPart, array: ArrayPlan, shard_index: int) -> None:
        self._store, self._part = store, part
        self._key = array.shard_key(shard_index)

    def __enter__(self) -> str:
        return self._key

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            return
        name = f"feature store {self._store.url}, shard {self._part.key}/{self._key}"
        remedy = "restore it, or run teach into a new store"
        if isinstance(error, ObjectNotFound):
            raise CorruptObject(f"{name}: missing, though it was published; {remedy}") from error
        if isinstance(error, CorruptObject) and name not in str(error):
            raise CorruptObject(f"{name}: {error}; {remedy}") from error


def open_features(url: str | os.PathLike[str] | Objects) -> FeatureStore:
    """The newest snapshot of a feature store: `open_features(url)[image_id]` is [channels, height, width].

    Raises:
        ObjectNotFound: no store there.
    """
    return FeatureStore.open(url)
