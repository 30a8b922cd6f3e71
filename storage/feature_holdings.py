"""Where a feature store holds an image: in live parts, in retired ones, in those that nobody has finished."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from storage.codecs import codec_of
from storage.errors import ObjectNotFound
from storage.feature_index import ROWS_NAME, described_arrays, part_objects, read_snapshot
from storage.feature_writer import written_shards
from storage.klt import CALIBRATION_NAME
from storage.manifest import MANIFEST_NAME
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.shards import read_tail

__all__ = ["PartHolding", "PartState", "find_in_parts"]

_NUM_READERS = 16


class PartState(StrEnum):
    """What a part is to readers."""

    LIVE = "live"
    """The newest snapshot lists it."""
    RETIRED = "retired"
    """It was published, and is there for readers of earlier snapshots."""
    UNFINISHED = "unfinished"
    """It was never published: a run is at it, or was given up."""
    TORN = "torn"
    """Shards that have lost what says what they hold: somebody was deleting it."""


@dataclass(frozen=True, slots=True)
class PartHolding:
    """Images that a part holds."""

    part: str
    state: PartState
    rows: Mapping[str, str]
    """Status of each image, a `RowStatus`; unknown of what is torn."""


def find_in_parts(store: Objects, image_ids: Collection[str]) -> list[PartHolding]:
    """Parts that hold some of the images, whatever their state, and those that are torn, by key.

    Takes a listing of the store's index and one of its parts, and two requests per published part; of an unfinished
    part all shards are listed and the end of each is read.

    Args:
        store: prefix of the store.
        image_ids: what to look for.

    Raises:
        CorruptObject: a part is damaged.
        InfrastructureError: the store can't be reached.
    """
    snapshot = read_snapshot(store)
    live = {entry.part for entry in snapshot.parts} if snapshot else set[str]()
    wanted = frozenset(image_ids)

    def look(part: str) -> PartHolding:
        objects = part_objects(store, part)
        if part in live:
            state = PartState.LIVE
        else:
            state = PartState.RETIRED if objects.exists(MANIFEST_NAME) else PartState.UNFINISHED
        rows = _rows(objects)
        if rows is None:
            return PartHolding(part, PartState.TORN, {})
        return PartHolding(part, state, {image_id: status for image_id, status in rows if image_id in wanted})

    with ThreadPoolExecutor(_NUM_READERS) as pool:
        found = list(pool.map(look, store.folders("parts")))
    return [holding for holding in found if holding.rows or holding.state is PartState.TORN]


def _rows(part: Objects) -> Iterable[tuple[str, str]] | None:
    """Images of a part with their status, from its table or from what its shards say of themselves; None: torn."""
    try:
        table = read_table(part, ROWS_NAME, ["image_id", "status"])
    except ObjectNotFound:
        shards = written_shards(part)
        return _rows_of_shards(part, shards) if shards else ()
    ids, statuses = (cast("list[str]", table[name].to_pylist()) for name in ("image_id", "status"))
    return zip(ids, statuses, strict=True)


def _rows_of_shards(part: Objects, shards: frozenset[str]) -> list[tuple[str, str]] | None:
    try:
        description, arrays = described_arrays(part.read("zarr.json"))
        calibration = part.read(CALIBRATION_NAME) if ":" in description.encoding else None
    except ObjectNotFound:
        return None  # these are written first
    codec = codec_of(description.encoding, calibration)
    places = ((array, index) for array in arrays.values() for index in range(array.num_shards))
    planned = {array.shard_key(index): (array, index) for array, index in places}
    tails = [read_tail(part, *planned[shard], codec) for shard in sorted(shards & planned.keys())]
    return [(row.image_id, str(row.status)) for tail in tails for row in tail.rows]
