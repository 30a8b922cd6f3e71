"""The feature store: dense teacher features in Zarr v3 parts, written once and read by image.

    parts/<part key>/zarr.json                group; attributes: fingerprint, encoding, channels
                     l4096/zarr.json          one array per size class
                     l4096/c/<shard>/0/0      shards, see storage.shards
                     rows.parquet             image -> array, row, extent, status
                     manifest.json            last: the part exists
    index/00000001.json                       numbered snapshots: the parts that are live

A store holds one teacher and one encoding. A part is what one run added and never changes. Readers
pin the newest snapshot they find. Everything is create-only: of two that publish at once, the one
who comes second writes the next snapshot on top of the first.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from storage.codecs import Codec, StoredFeature, codec_of
from storage.errors import CorruptObject, MissingFeature, ObjectNotFound
from storage.feature_index import OpenPart, PartDescription, Snapshot, open_part, part_objects, read_snapshot
from storage.feature_plan import ArrayPlan, PartPlan, PlannedRow, ShardPlan, class_cells, plan_rows
from storage.feature_writer import FeatureRow, publish_part, write_part_metadata, write_shard, written_shards
from storage.manifest import Manifest, verify_manifest
from storage.objects import Objects
from storage.schema import FeatureRef
from storage.shards import RowStatus, ShardTail, decode_chunk, read_tail

__all__ = [
    "ArrayPlan",
    "FeatureRow",
    "FeatureStore",
    "PartDescription",
    "PartPlan",
    "PlannedRow",
    "RowStatus",
    "ShardPlan",
    "StoredFeature",
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
_CACHED_TAILS = 2048
_Place: TypeAlias = tuple[int, str, int]  # part (position in the snapshot), array, shard


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
        entries = () if snapshot is None else snapshot.parts
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="features")
        self._parts: list[OpenPart] = list(self._pool.map(lambda entry: open_part(objects, entry), entries))
        self._tails: OrderedDict[_Place, ShardTail] = OrderedDict()
        self._lock = threading.Lock()
        self._refs: dict[str, tuple[int, FeatureRef]] = {}
        self._rejected: dict[str, str] = {}
        for number, part in enumerate(self._parts):
            self._add_rows(number, part)

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
        return len(self._refs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._refs

    def __getitem__(self, image_id: str) -> npt.NDArray[np.float32]:
        if image_id not in self._refs:
            raise KeyError(image_id)
        return self.read([image_id])[0]

    @property
    def description(self) -> PartDescription | None:
        """Teacher, encoding and channels of the features; None for an empty store."""
        return None if self.snapshot is None else self.snapshot.description

    @property
    def manifests(self) -> list[Manifest]:
        """Manifests of the live parts; `facts` holds counts and sizes."""
        return [part.manifest for part in self._parts]

    @property
    def refs(self) -> dict[str, FeatureRef]:
        """Where each image's features lie."""
        return {image_id: ref for image_id, (_, ref) in self._refs.items()}

    @property
    def rejected(self) -> dict[str, str]:
        """Images on which the teacher failed, with the reason."""
        return dict(self._rejected)

    def ref(self, image_id: str) -> FeatureRef:
        """Where the features of one image lie; raises MissingFeature."""
        return self._find([image_id])[image_id][1]

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        """Those of the images that have no features here (rejected ones too), in the given order."""
        return [image_id for image_id in image_ids if image_id not in self._refs]

    def read(self, image_ids: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Features of each image, float32 [channels, height, width].

        Raises:
            MissingFeature: the store doesn't hold an image.
            CorruptObject: a shard is missing or torn, or a checksum fails; names store and shard.
        """
        return [feature.dequantise() for feature in self.read_stored(image_ids)]

    def read_stored(self, image_ids: Sequence[str]) -> list[StoredFeature]:
        """Features of each image as stored, for dequantising elsewhere; raises as `read`."""
        found = self._find(image_ids)
        by_shard: dict[_Place, list[FeatureRef]] = {}
        for number, ref in found.values():
            array = self._parts[number].arrays[ref.array]
            by_shard.setdefault((number, ref.array, ref.row // array.rows_per_shard), []).append(ref)
        features: dict[str, StoredFeature] = {}
        for shard in self._pool.map(lambda item: self._read_shard(*item), by_shard.items()):
            features.update(shard)
        return [features[image_id] for image_id in image_ids]

    def verify(self) -> None:
        """Reads every file of every live part and compares hashes; raises CorruptObject."""
        for part in self._parts:
            verify_manifest(part.objects)

    def _add_rows(self, number: int, part: OpenPart) -> None:
        for row in part.rows.to_pylist():
            image_id = row["image_id"]
            if row["status"] != RowStatus.OK:
                self._rejected[image_id] = row["detail"]
            elif image_id not in self._refs:
                self._refs[image_id] = (
                    number,
                    FeatureRef(
                        image_id=image_id,
                        part=part.key,
                        array=row["array"],
                        row=row["row"],
                        height=row["height"],
                        width=row["width"],
                    ),
                )
        self._rejected = {image_id: why for image_id, why in self._rejected.items() if image_id not in self._refs}

    def _find(self, image_ids: Sequence[str]) -> dict[str, tuple[int, FeatureRef]]:
        missing = self.missing(image_ids)
        if missing:
            reason = self._rejected.get(missing[0])
            raise MissingFeature(
                f"{self.objects.url}: no features of {len(missing)} of {len(image_ids)} images, first {missing[0]}"
                + (f", rejected: {reason}" if reason is not None else "; run teach on them")
            )
        return {image_id: self._refs[image_id] for image_id in image_ids}

    def _read_shard(self, place: _Place, refs: Sequence[FeatureRef]) -> dict[str, StoredFeature]:
        """Several images of one shard: the tail if it isn't cached, then all chunks together."""
        part = self._parts[place[0]]
        array, codec = part.arrays[place[1]], codec_of(part.description.encoding)
        key = array.shard_key(place[2])
        try:
            tail = self._tail(place, part, array, codec)
            slots = [ref.row % array.rows_per_shard for ref in refs]
            for ref, slot in zip(refs, slots, strict=True):
                if slot >= len(tail.rows) or tail.rows[slot].image_id != ref.image_id:
                    raise CorruptObject(f"row {ref.row} isn't image {ref.image_id}, as the index says")
            chunks = part.objects.read_ranges(key, [tail.extents[slot] for slot in slots])
            return {
                ref.image_id: decode_chunk(chunk, tail.rows[slot], array, codec)
                for ref, slot, chunk in zip(refs, slots, chunks, strict=True)
            }
        except ObjectNotFound as error:
            raise CorruptObject(
                f"feature store {self.objects.url}, shard {part.key}/{key}: missing, though it was published; "
                "restore it, or run teach into a new store"
            ) from error
        except CorruptObject as error:
            raise CorruptObject(
                f"feature store {self.objects.url}, shard {part.key}/{key}: {error}; "
                "restore it, or run teach into a new store"
            ) from error

    def _tail(self, place: _Place, part: OpenPart, array: ArrayPlan, codec: Codec) -> ShardTail:
        with self._lock:
            if place in self._tails:
                self._tails.move_to_end(place)
                return self._tails[place]
        tail = read_tail(part.objects, array, place[2], codec)
        with self._lock:
            self._tails[place] = tail
            if len(self._tails) > _CACHED_TAILS:
                self._tails.popitem(last=False)
        return tail


def open_features(url: str | os.PathLike[str] | Objects) -> FeatureStore:
    """The newest snapshot of a feature store: `open_features(url)[image_id]` is [channels, height, width].

    Raises:
        ObjectNotFound: no store there.
    """
    return FeatureStore.open(url)
