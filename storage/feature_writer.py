"""Writing a part: metadata, one shard per task, then publication.

plan = plan_rows(...)
write_part_metadata(part, plan, description, codec)
done = written_shards(part)                        # one listing; what a killed run had finished
for shard in plan.shards():                        # in any order, on any machine
    if shard.key not in done: write_shard(part, shard.array, shard.index, rows, codec)
publish_part(store, part_key, plan, description, codec, ...)

A task whose rows come one after another gives them to a `ShardWriter`, which keeps them encoded.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from storage.errors import CorruptObject, DataError, InfrastructureError, ManifestConflict, ObjectNotFound
from storage.feature_index import (
    ROW_SCHEMA,
    ROWS_NAME,
    PartDescription,
    PartEntry,
    array_json,
    group_json,
    part_objects,
    replace_parts,
    rows_bytes,
)
from storage.feature_plan import ArrayPlan, PartPlan, PlannedRow, ShardPlan, class_cells
from storage.keys import Json, bytes_key
from storage.klt import CALIBRATION_NAME, KltCodec
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, RejectReason
from storage.shards import (
    EncodedRow,
    RowStatus,
    ShardBuilder,
    ShardRow,
    decode_chunk,
    encode_row,
    is_described,
    parse_tail,
    plain_tail,
)
from storage.stored_features import Codec, StoredFeature

__all__ = [
    "PLAIN_SHARDS",
    "FeatureRow",
    "RowEntry",
    "ShardWriter",
    "WrittenShard",
    "publish_part",
    "read_shard",
    "stored_row",
    "write_part_metadata",
    "write_shard",
    "written_shards",
]

pc: Any = pyarrow.compute  # its functions are made at import, unseen by the checker

PLAIN_SHARDS = "plain_shards"
"""Fact of a part whose shards don't say what they hold, since another Zarr library wrote them."""

_NUM_THREADS = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class FeatureRow:
    """What the teacher gave for one image.

    `values` is float32 [channels, height, width] in cells. None means that the teacher failed: the
    row is kept, marked as rejected with `detail` as the reason, and readers don't see it.
    """

    image_id: str
    height: int
    width: int
    values: npt.NDArray[np.float32] | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RowEntry:
    """What the table of rows says of one row, beside its place."""

    image_id: str
    height: int
    width: int
    status: RowStatus
    detail: str
    relative_mse: float

    @classmethod
    def of(cls, row: ShardRow) -> RowEntry:
        """What is said of a row of a shard."""
        error = 0.0 if row.stored is None else row.stored.relative_mse
        return cls(row.image_id, row.height, row.width, row.status, row.detail, error)


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A shard as it stands in the store: all that publication has to know."""

    entry: FileEntry
    rows: tuple[RowEntry, ...]
    described: bool = True
    """Whether the shard itself says what its rows are; those of other Zarr libraries don't."""

    @property
    def rejected(self) -> dict[str, str]:
        """Rejected images with the reason."""
        return {row.image_id: row.detail for row in self.rows if row.status is RowStatus.REJECTED}


class ShardWriter:
    """Collects the rows of one shard and writes it by a single create-only put.

    Rows go where the object store keeps what isn't finished: to a hidden file on a local disk, else to
    one buffer, so that a shard takes no more memory than its own size. Their hash is computed beside.
    A writer that is given up leaves nothing.

    Args:
        part: prefix of the part.
        array: as planned.
        shard_index: which shard of it.
        codec: of the store.
    """

    def __init__(self, part: Objects, array: ArrayPlan, shard_index: int, codec: Codec) -> None:
        self._part, self._array, self._codec = part, array, codec
        self._key = array.shard_key(shard_index)
        self._num_rows = len(array.shard_rows(shard_index))
        self._object = part.new(self._key)
        self._builder = ShardBuilder(array, codec, self._num_rows, self._write)
        self._digest, self._hasher = hashlib.sha256(), ThreadPoolExecutor(1, thread_name_prefix="hash")

    def _write(self, piece: bytes | memoryview) -> None:
        # One thread takes them in order; behind the last one the digest is complete.
        self._hasher.submit(self._digest.update, piece)
        self._object.write(piece)

    def encode(self, row: FeatureRow) -> EncodedRow:
        """Encodes one row; may run in any thread.

        A row whose values the encoding can't hold (not finite, or too large) becomes a rejected row.

        Raises:
            ValueError: a row that doesn't fit the array.
        """
        return encode_row(stored_row(row, self._array, self._codec), self._array, self._codec)

    def add(self, slot: int, encoded: EncodedRow) -> None:
        """Takes an encoded row as that of `slot`, counted from 0 within the shard."""
        self._builder.add(slot, encoded)

    def write(self) -> WrittenShard:
        """Writes the shard. If it exists already, what is there stays and counts.

        Raises:
            ValueError: rows are missing.
            CorruptObject: a shard exists already and is torn.
        """
        rows = self._builder.finish()
        created = self._object.finish()
        self._hasher.shutdown()
        if not created:
            return _read_shard(self._part, self._array, self._key, self._codec)
        entry = FileEntry(self._key, self._object.size_bytes, self._digest.hexdigest(), self._num_rows)
        return WrittenShard(entry, tuple(RowEntry.of(row) for row in rows))


def write_part_metadata(part: Objects, plan: PartPlan, description: PartDescription, codec: Codec) -> None:
    """Writes `zarr.json` of the part and of each array, and the codec's calibration; done before is fine.

    Raises:
        ManifestConflict: other metadata stands there: the part key doesn't cover what changed.
    """
    for key, data in _metadata(plan, description, codec).items():
        if not part.create(key, data) and part.read(key) != data:
            raise ManifestConflict(
                f"{part.url}/{key}: other metadata stands there; the part key must cover images, plan and encoding"
            )


def write_shard(
    part: Objects, array: ArrayPlan, shard_index: int, rows: Sequence[FeatureRow], codec: Codec
) -> WrittenShard:
    """Encodes and writes one whole shard, see `ShardWriter`.

    Args:
        part: prefix of the part.
        array: as planned.
        shard_index: which shard of it.
        rows: exactly the planned rows of that shard, in order.
        codec: of the store.

    Returns:
        The shard as stored.

    Raises:
        ValueError: rows that don't fit the plan.
    """
    expected = len(array.shard_rows(shard_index))
    if len(rows) != expected:
        raise ValueError(f"shard {shard_index} of {array.name}: expected {expected} rows, got {len(rows)}")
    writer = ShardWriter(part, array, shard_index, codec)
    for slot, row in enumerate(rows):
        writer.add(slot, writer.encode(row))
    return writer.write()


def read_shard(part: Objects, array: ArrayPlan, shard_index: int, codec: Codec) -> WrittenShard:
    """A shard that an earlier run wrote: read whole, every checksum verified, its hash computed.

    Raises:
        ObjectNotFound: it isn't there.
        CorruptObject: it is torn.
    """
    return _read_shard(part, array, array.shard_key(shard_index), codec)


def written_shards(part: Objects) -> frozenset[str]:
    """Keys (as `ShardPlan.key`) of the shards that are written, by one listing."""
    return frozenset(info.key for info in part.list() if "/c/" in info.key)


def publish_part(
    store: Objects,
    part_key: str,
    plan: PartPlan,
    description: PartDescription,
    codec: Codec,
    *,
    recipe: Mapping[str, Json],
    inputs: Mapping[str, str],
    written: Mapping[str, WrittenShard] | None = None,
    retired: Collection[str] = (),
) -> Manifest:
    """Publishes a complete part and makes it live; repeating it is fine.

    What the rows are is what the shards say of themselves. A shard that isn't in `written` (an
    earlier run wrote it) is read whole, its checksums are verified and its hash is computed. With
    `raw16`, which needs nothing beside the values, another Zarr library may have written the shards, all
    of them: their rows are then those of the plan, and a row of sentinels is a rejected one.

    Args:
        store: prefix of the store; the part lies under `parts/<part_key>`.
        part_key: content key of the part.
        plan: as the shards were written.
        description: as given to `write_part_metadata`.
        codec: of the store.
        recipe: resolved configuration, for the manifest.
        inputs: content keys of the inputs, for the manifest.
        written: what `write_shard` returned in this run, by key.
        retired: parts whose place it takes.

    Raises:
        InfrastructureError: shards are missing.
        CorruptObject: a shard is torn or doesn't hold the planned images.
        ManifestConflict: another part stands under the key.
        UsageError: the store is of another teacher or encoding.
    """
    part = part_objects(store, part_key)
    shards = list(plan.shards())
    missing = sorted({shard.key for shard in shards} - written_shards(part))
    if missing:
        raise InfrastructureError(
            f"{part.url}: {len(missing)} of {len(shards)} shards are missing, first {missing[0]}; run teach again"
        )
    known = written or {}
    checked = _parallel(lambda shard: _check_shard(part, shard, codec, known.get(shard.key)), shards)
    num_described = sum(shard.described for shard in checked)
    if num_described not in (0, len(shards)):
        raise CorruptObject(
            f"{part.url}: {len(shards) - num_described} of {len(shards)} shards don't say what they hold"
        )
    table = _rows_table(shards, checked)
    data = rows_bytes(table)
    if not part.create(ROWS_NAME, data) and part.read(ROWS_NAME) != data:
        raise ManifestConflict(f"{part.url}/{ROWS_NAME}: another table of rows stands there")
    metadata = [FileEntry.of(key, value) for key, value in _metadata(plan, description, codec).items()]
    files = [*metadata, *(shard.entry for shard in checked), FileEntry.of(ROWS_NAME, data, table.num_rows)]
    num_bytes = sum(shard.entry.size_bytes for shard in checked)
    manifest = publish(
        part,
        Manifest(
            kind="features",
            key=part_key,
            schema_version=SCHEMA_VERSION,
            recipe=recipe,
            inputs=inputs,
            files=tuple(files),
            facts={
                **_counts(table),
                **_measured(table, num_bytes, description.num_channels),
                "size_bytes": sum(entry.size_bytes for entry in files),
                **description.to_json(),
                **({"calibration": codec.facts} if isinstance(codec, KltCodec) else {}),
                **({} if num_described or not shards else {PLAIN_SHARDS: True}),
            },
        ),
    )
    entry = PartEntry(part_key, bytes_key(manifest.to_json()), table.num_rows)
    replace_parts(store, description, retired, entry)
    return manifest


def _metadata(plan: PartPlan, description: PartDescription, codec: Codec) -> dict[str, bytes]:
    if codec.encoding != description.encoding:
        raise ValueError(f"part: described as {description.encoding}, encoded as {codec.encoding}")
    arrays = {f"{array.name}/zarr.json": array_json(array, codec) for array in plan.arrays}
    calibration = {} if codec.calibration is None else {CALIBRATION_NAME: codec.calibration}
    return {"zarr.json": group_json(description, plan), **arrays, **calibration}


def stored_row(row: FeatureRow, array: ArrayPlan, codec: Codec) -> ShardRow:
    """A row as its array will hold it; values that the encoding can't hold make a rejected one.

    Raises:
        ValueError: a row that doesn't fit the array.
    """
    if class_cells(row.height * row.width) != array.cells:
        raise ValueError(f"image {row.image_id}: a grid of {row.height}x{row.width} doesn't belong in {array.name}")
    if row.values is None:
        return ShardRow(row.image_id, row.height, row.width, RowStatus.REJECTED, row.detail)
    expected = (array.num_channels, row.height, row.width)
    if row.values.shape != expected:
        raise ValueError(f"image {row.image_id}: expected features of shape {expected}, got {row.values.shape}")
    try:
        stored = codec.encode(row.values)
    except DataError as error:
        return ShardRow(row.image_id, row.height, row.width, RowStatus.REJECTED, str(error))
    return ShardRow(row.image_id, row.height, row.width, RowStatus.OK, "", stored)


def _check_shard(part: Objects, shard: ShardPlan, codec: Codec, known: WrittenShard | None) -> WrittenShard:
    """A written shard, which must hold the planned images."""
    url = f"{part.url}/{shard.key}"
    try:
        found = known or _read_planned(part, shard, codec)
    except (CorruptObject, ObjectNotFound) as error:
        raise CorruptObject(f"{url}: {error}; delete it and run teach again") from error
    if tuple(PlannedRow(row.image_id, row.height, row.width) for row in found.rows) != shard.rows:
        raise CorruptObject(f"{url}: holds other images than planned; delete it and run teach again")
    return found


def _read_shard(part: Objects, array: ArrayPlan, key: str, codec: Codec) -> WrittenShard:
    data = part.read(key)
    tail = parse_tail(data, array, codec)
    if isinstance(tail, int):
        raise CorruptObject(f"expected at least {tail} bytes, found {len(data)}")
    for (offset, size), row in zip(tail.extents, tail.rows, strict=True):
        if row.status is RowStatus.OK:
            decode_chunk(memoryview(data)[offset : offset + size], row, array, codec)
    return WrittenShard(FileEntry.of(key, data, len(tail.rows)), tuple(RowEntry.of(row) for row in tail.rows))


def _read_planned(part: Objects, shard: ShardPlan, codec: Codec) -> WrittenShard:
    """A shard from earlier; one of another Zarr library holds what was planned."""
    data = memoryview(part.read(shard.key))
    if is_described(data, shard.array) or not codec.stands_alone:
        return _read_shard(part, shard.array, shard.key, codec)
    nothing = np.empty((shard.array.num_channels, 0), codec.dtype)
    planned = [
        ShardRow(row.image_id, row.height, row.width, RowStatus.OK, "", StoredFeature(nothing, row.height, row.width))
        for row in shard.rows
    ]
    tail, rows = plain_tail(data, shard.array, planned), list[RowEntry]()
    for (offset, size), row in zip(tail.extents, tail.rows, strict=True):
        stored = decode_chunk(data[offset : offset + size], row, shard.array, codec)
        # Of NaN, the sentinel, no value that is stored is one.
        is_whole = bool((stored.values == stored.values).all())
        status = RowStatus.OK if is_whole else RowStatus.REJECTED
        rows.append(RowEntry(row.image_id, row.height, row.width, status, "" if is_whole else "holds no values", 0.0))
    entry = FileEntry.of(shard.key, data.obj if isinstance(data.obj, bytes) else bytes(data), len(rows))
    return WrittenShard(entry, tuple(rows), described=False)


def _rows_table(shards: Sequence[ShardPlan], written: Sequence[WrittenShard]) -> pa.Table:
    rows = [row for found in written for row in found.rows]
    columns = {
        "image_id": [row.image_id for row in rows],
        "array": [shard.array.name for shard in shards for _ in shard.rows],
        "row": [number for shard in shards for number in shard.array.shard_rows(shard.index)],
        "height": [row.height for row in rows],
        "width": [row.width for row in rows],
        "status": [row.status.value for row in rows],
        "detail": [row.detail for row in rows],
        "relative_mse": [row.relative_mse for row in rows],
    }
    return pa.table(columns, schema=ROW_SCHEMA)


def _measured(table: pa.Table, num_bytes: int, num_channels: int) -> dict[str, Json]:
    """What the encoding took and cost, over the images that have features; padding and tails are counted in."""
    ok = table.filter(pc.equal(table["status"], RowStatus.OK.value))
    if not ok.num_rows:
        return {}
    num_values = num_channels * int(pc.sum(pc.multiply(ok["height"].cast(pa.int64()), ok["width"])).as_py())
    error = float(np.mean(ok["relative_mse"].to_numpy(), dtype=np.float64))
    facts: dict[str, Json] = {"bits_per_value": round(8 * num_bytes / num_values, 4)}
    if error > 0:
        facts |= {"relative_mse": round(error, 9), "snr_db": round(-10 * float(np.log10(error)), 3)}
    return facts


def _counts(table: pa.Table) -> dict[str, Json]:
    statuses = Counter(table["status"].to_pylist())
    num_rejected = statuses[RowStatus.REJECTED]
    return {
        "num_images": statuses[RowStatus.OK],
        "num_rejected": num_rejected,
        "rejects": {str(RejectReason.TEACHER_FAILED): num_rejected} if num_rejected else {},
    }


def _parallel(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(function, items))
