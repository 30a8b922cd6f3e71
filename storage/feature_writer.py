"""Writing a part: metadata, one shard per task, then publication.

plan = plan_rows(...)
write_part_metadata(part, plan, description)
done = written_shards(part)                        # one listing; what a killed run had finished
for shard in plan.shards():                        # in any order, on any machine
    if shard.key not in done: write_shard(part, shard.array, shard.index, rows, encoding)
publish_part(store, part_key, plan, description, ...)
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.codecs import Codec, codec_of
from storage.errors import CorruptObject, DataError, InfrastructureError, ManifestConflict, ObjectNotFound
from storage.feature_index import (
    ROW_SCHEMA,
    ROWS_NAME,
    PartDescription,
    PartEntry,
    add_part,
    array_json,
    group_json,
    part_objects,
    rows_bytes,
)
from storage.feature_plan import ArrayPlan, PartPlan, PlannedRow, ShardPlan, class_cells
from storage.keys import Json, bytes_key
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, RejectReason
from storage.shards import RowStatus, ShardRow, ShardTail, build_shard, decode_chunk, parse_tail, read_tail

__all__ = ["FeatureRow", "publish_part", "write_part_metadata", "write_shard", "written_shards"]

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


def write_part_metadata(part: Objects, plan: PartPlan, description: PartDescription) -> None:
    """Writes `zarr.json` of the part and of each array; done before is fine.

    Raises:
        ManifestConflict: other metadata stands there: the part key doesn't cover what changed.
    """
    for key, data in _metadata(plan, description).items():
        if not part.create(key, data) and part.read(key) != data:
            raise ManifestConflict(
                f"{part.url}/{key}: other metadata stands there; the part key must cover images, plan and encoding"
            )


def write_shard(
    part: Objects, array: ArrayPlan, shard_index: int, rows: Sequence[FeatureRow], encoding: str
) -> FileEntry:
    """Encodes one whole shard and writes it by a single create-only put.

    A row whose values the encoding can't hold (not finite, or too large) becomes a rejected row. If
    the shard exists already, what is there stays and counts.

    Args:
        part: prefix of the part.
        array: as planned.
        shard_index: which shard of it.
        rows: exactly the planned rows of that shard, in order.
        encoding: name of the codec.

    Returns:
        The manifest entry of the shard as stored.

    Raises:
        ValueError: rows that don't fit the plan.
    """
    expected = len(array.shard_rows(shard_index))
    if len(rows) != expected:
        raise ValueError(f"shard {shard_index} of {array.name}: expected {expected} rows, got {len(rows)}")
    codec = codec_of(encoding)
    data = build_shard(array, [_encode(row, array, codec) for row in rows], codec)
    key = array.shard_key(shard_index)
    if not part.create(key, data):
        data = part.read(key)
    return FileEntry.of(key, data, expected)


def written_shards(part: Objects) -> frozenset[str]:
    """Keys (as `ShardPlan.key`) of the shards that are written, by one listing."""
    return frozenset(info.key for info in part.list() if "/c/" in info.key)


def publish_part(
    store: Objects,
    part_key: str,
    plan: PartPlan,
    description: PartDescription,
    *,
    recipe: Mapping[str, Json],
    inputs: Mapping[str, str],
    written: Mapping[str, FileEntry] | None = None,
) -> Manifest:
    """Publishes a complete part and makes it live; repeating it is fine.

    What the rows are is read back from the shards. A shard whose entry isn't in `written` (an
    earlier run wrote it) is read whole, its checksums are verified and its hash is computed.

    Args:
        store: prefix of the store; the part lies under `parts/<part_key>`.
        part_key: content key of the part.
        plan: as the shards were written.
        description: as given to `write_part_metadata`.
        recipe: resolved configuration, for the manifest.
        inputs: content keys of the inputs, for the manifest.
        written: what `write_shard` returned in this run, by key.

    Raises:
        InfrastructureError: shards are missing.
        CorruptObject: a shard is torn or doesn't hold the planned images.
        ManifestConflict: another part stands under the key.
        UsageError: the store is of another teacher or encoding.
    """
    part, codec = part_objects(store, part_key), codec_of(description.encoding)
    shards = list(plan.shards())
    missing = sorted({shard.key for shard in shards} - written_shards(part))
    if missing:
        raise InfrastructureError(
            f"{part.url}: {len(missing)} of {len(shards)} shards are missing, first {missing[0]}; run teach again"
        )
    known = written or {}
    checked = _parallel(lambda shard: _check_shard(part, shard, codec, known.get(shard.key)), shards)
    table = _rows_table(shards, [tail for _, tail in checked])
    data = rows_bytes(table)
    if not part.create(ROWS_NAME, data) and part.read(ROWS_NAME) != data:
        raise ManifestConflict(f"{part.url}/{ROWS_NAME}: another table of rows stands there")
    metadata = [FileEntry.of(key, value) for key, value in _metadata(plan, description).items()]
    files = [*metadata, *(entry for entry, _ in checked), FileEntry.of(ROWS_NAME, data, table.num_rows)]
    manifest = publish(
        part,
        Manifest(
            kind="features",
            key=part_key,
            schema_version=SCHEMA_VERSION,
            recipe=recipe,
            inputs=inputs,
            files=tuple(files),
            facts={**_counts(table), "size_bytes": sum(entry.size_bytes for entry in files), **description.to_json()},
        ),
    )
    add_part(store, description, PartEntry(part_key, bytes_key(manifest.to_json()), table.num_rows))
    return manifest


def _metadata(plan: PartPlan, description: PartDescription) -> dict[str, bytes]:
    codec = codec_of(description.encoding)
    arrays = {f"{array.name}/zarr.json": array_json(array, codec) for array in plan.arrays}
    return {"zarr.json": group_json(description, plan), **arrays}


def _encode(row: FeatureRow, array: ArrayPlan, codec: Codec) -> ShardRow:
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


def _check_shard(part: Objects, shard: ShardPlan, codec: Codec, entry: FileEntry | None) -> tuple[FileEntry, ShardTail]:
    """Entry and tail of a written shard, which must hold the planned images."""
    url = f"{part.url}/{shard.key}"
    try:
        if entry is None:
            data = part.read(shard.key)
            tail = _verify(data, shard.array, codec)
            entry = FileEntry.of(shard.key, data, len(shard.rows))
        else:
            tail = read_tail(part, shard.array, shard.index, codec)
    except (CorruptObject, ObjectNotFound) as error:
        raise CorruptObject(f"{url}: {error}; delete it and run teach again") from error
    found = tuple(PlannedRow(row.image_id, row.height, row.width) for row in tail.rows)
    if found != shard.rows:
        raise CorruptObject(f"{url}: holds other images than planned; delete it and run teach again")
    return entry, tail


def _verify(data: bytes, array: ArrayPlan, codec: Codec) -> ShardTail:
    """Checks every checksum of a whole shard."""
    tail = parse_tail(data, array, codec)
    if isinstance(tail, int):
        raise CorruptObject(f"expected at least {tail} bytes, found {len(data)}")
    for (offset, size), row in zip(tail.extents, tail.rows, strict=True):
        if row.status is RowStatus.OK:
            decode_chunk(data[offset : offset + size], row, array, codec)
    return tail


def _rows_table(shards: Sequence[ShardPlan], tails: Sequence[ShardTail]) -> pa.Table:
    rows = [
        {
            "image_id": row.image_id,
            "array": shard.array.name,
            "row": number,
            "height": row.height,
            "width": row.width,
            "status": str(row.status),
            "detail": row.detail,
        }
        for shard, tail in zip(shards, tails, strict=True)
        for number, row in zip(shard.array.shard_rows(shard.index), tail.rows, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)


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
