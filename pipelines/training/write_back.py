"""Features that training computed since a store lacked them: encoded, kept until they are published, and written.

Each process writes parts of its own, so that ranks and runs beside each other never share a shard. A part is
published like one of `teach`; if two hold an image, the one that the snapshot lists first counts. What isn't
published when a process dies is computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.retries import persistently
from storage.errors import UsageError
from storage.feature_index import PartDescription, part_objects
from storage.feature_plan import ArrayPlan, class_cells, plan_rows
from storage.feature_writer import FeatureRow, ShardWriter, WrittenShard, publish_part, stored_row, write_part_metadata
from storage.features import FeatureStore
from storage.keys import Json, content_key
from storage.objects import Objects
from storage.shards import EncodedRow, ShardRow, encode_row, unpack_row
from storage.stored_features import Codec, StoredFeature

__all__ = ["StoreToFill", "WriteBack"]

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised when the same rows would be written as other bytes; part of every part's key."""
_MAX_HELD_BYTES = 2**29
"""Encoded features held in memory until they are written whatever their number: 75 images of Mask2Former at its own
grid, 1100 of SAM 2, by `klt`."""


@dataclass(frozen=True, slots=True)
class StoreToFill:
    """A store that training completes; it may not exist yet."""

    url: str
    address: str
    """Content key of the store."""
    description: PartDescription
    """Of all its parts."""
    codec: Codec


class WriteBack:
    """One process' additions to one store. For one thread; encoding and writing go on beside it.

    Args:
        target: the store.
        teacher: fingerprint of the teacher, for manifests.
        features: shard size and retries.
        part_images: after so many additions they are written as a part.

    Raises:
        UsageError: the store belongs to another teacher, grid or encoding.
    """

    def __init__(self, target: StoreToFill, teacher: str, features: FeaturesConfig, part_images: int) -> None:
        self._target, self._teacher, self._features, self._part_images = target, teacher, features, part_images
        self._objects = Objects.open(target.url)
        self._store = self._opened()
        self._waiting: dict[str, Future[EncodedRow]] = {}
        self._held_bytes = 0
        self._writing: dict[str, Future[EncodedRow]] = {}
        self._written: Future[FeatureStore] | None = None
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="write-back-encode")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write-back")

    @property
    def encoding(self) -> str:
        """Of the store."""
        return self._target.codec.encoding

    def known(self, image_ids: Sequence[str]) -> dict[str, StoredFeature | None]:
        """What is known of images by now, computed here or published by anybody; None: the teacher failed on it."""
        self._collect(wait=False)
        found: dict[str, StoredFeature | None] = {}
        rejected = self._store.rejected
        for image_id in image_ids:
            held = self._waiting.get(image_id) or self._writing.get(image_id)
            if held is not None:
                found[image_id] = _decoded(held.result(), self._target)
            elif image_id in rejected:
                found[image_id] = None
        published = [image_id for image_id in image_ids if image_id not in found and image_id in self._store]
        return {**found, **dict(zip(published, self._store.read_stored(published), strict=True))}

    def add(self, row: FeatureRow) -> StoredFeature | None:
        """Encodes an image; returns it as a reader of the store will see it, None if it becomes a reject."""
        array = _array_of(row, self._target)
        shard_row = stored_row(row, array, self._target.codec)
        self._waiting[row.image_id] = self._encoder.submit(_packed, shard_row, array, self._target.codec)
        self._held_bytes += int(array.num_channels * array.cells * self._target.codec.bits_per_value / 8)
        if len(self._waiting) >= self._part_images or self._held_bytes >= _MAX_HELD_BYTES:
            self.write()
        return shard_row.stored

    def write(self) -> None:
        """Begins to write what was added since the last part; waits for that one first, so that memory is bounded."""
        if self._waiting:
            self._collect(wait=True)
            self._writing, self._waiting, self._held_bytes = self._waiting, {}, 0
            self._written = self._writer.submit(self._write_part, dict(self._writing))

    def close(self, *, finish: bool) -> None:
        """Waits for the part that is being written; writes the last one before, if `finish`."""
        try:
            if finish:
                self.write()
                self._collect(wait=True)
        finally:
            self._encoder.shutdown(cancel_futures=True)
            self._writer.shutdown(cancel_futures=True)

    def _collect(self, *, wait: bool) -> None:
        """Takes over the store with the part that has been written; raises what went wrong there."""
        if self._written is not None and (wait or self._written.done()):
            self._store = self._written.result()
            self._written, self._writing = None, {}

    def _opened(self) -> FeatureStore:
        store = FeatureStore.open(self._objects, absent_ok=True)
        found, expected = store.description, self._target.description
        if found is not None and found.to_json() != expected.to_json():
            raise UsageError(
                f"{self._objects.url}: holds {found.to_json()}, expected {expected.to_json()}; "
                "give each teacher, grid and encoding its own store"
            )
        return store

    def _write_part(self, held: Mapping[str, Future[EncodedRow]]) -> FeatureStore:
        retries = self._features.max_retries
        newest = persistently("opening the store", self._opened, retries)
        image_ids = sorted(held)
        new = [name for name, is_new in zip(image_ids, newest.unknown(image_ids), strict=True) if is_new]
        if not new:
            return newest
        rows = {name: held[name].result() for name in new}
        persistently("writing a part of what training computed", lambda: self._publish(rows), retries)
        logger.info("%s: %d images written back", self._objects.url, len(rows))
        return persistently("opening the store", self._opened, retries)

    def _publish(self, rows: Mapping[str, EncodedRow]) -> None:
        target = self._target
        grids = [(name, encoded.row.height, encoded.row.width) for name, encoded in rows.items()]
        plan = plan_rows(
            grids,
            target.description.num_channels,
            target.codec.bits_per_value / 8,
            max(1, int(self._features.shard_mib * 2**20)),
        )
        layout: dict[str, Json] = {"written_by": "training", "shard_mib": self._features.shard_mib}
        images: list[Json] = [[name, height, width] for name, height, width in grids]
        key = content_key({"version": VERSION, "store": target.address, "images": images, **layout})
        part = part_objects(self._objects, key)
        write_part_metadata(part, plan, target.description, target.codec)
        written: dict[str, WrittenShard] = {}
        for shard in plan.shards():
            writer = ShardWriter(part, shard.array, shard.index, target.codec)
            for slot, row in enumerate(shard.rows):
                writer.add(slot, rows[row.image_id])
            written[shard.key] = writer.write()
        publish_part(
            self._objects,
            key,
            plan,
            target.description,
            target.codec,
            recipe=layout,
            inputs={"teacher": self._teacher},
            written=written,
        )


def _array_of(row: FeatureRow | ShardRow, target: StoreToFill) -> ArrayPlan:
    """An array as the row will lie in, as far as its bytes depend on that."""
    cells = class_cells(row.height * row.width)
    return ArrayPlan(f"l{cells}", 1, target.description.num_channels, cells, 1)


def _packed(row: ShardRow, array: ArrayPlan, codec: Codec) -> EncodedRow:
    """A row as its chunk alone, which is what is kept of it."""
    encoded = encode_row(row, array, codec)
    if row.stored is None:
        return encoded
    nothing = np.empty((array.num_channels, 0), codec.dtype)
    return replace(encoded, row=replace(row, stored=replace(row.stored, values=nothing)))


def _decoded(encoded: EncodedRow, target: StoreToFill) -> StoredFeature | None:
    return None if encoded.row.stored is None else unpack_row(encoded, _array_of(encoded.row, target), target.codec)
