"""What a feature store holds: part descriptions, tables of rows, and the numbered index snapshots."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from storage.codecs import check_encoding, codec_of
from storage.errors import CorruptObject, ObjectNotFound, UsageError
from storage.feature_plan import ArrayPlan, PartPlan
from storage.keys import Json, bytes_key, canonical_json, content_key
from storage.klt import CALIBRATION_NAME
from storage.manifest import MANIFEST_NAME, Manifest
from storage.numbered import NumberedObjects, numbered_key
from storage.objects import Objects, is_key
from storage.stored_features import Codec

__all__ = [
    "ROWS_NAME",
    "ROW_SCHEMA",
    "OpenPart",
    "PartDescription",
    "PartEntry",
    "Snapshot",
    "add_part",
    "described_arrays",
    "newest_snapshot",
    "open_part",
    "part_objects",
    "read_rows",
    "read_snapshot",
    "replace_parts",
    "snapshot_key",
]

ROWS_NAME = "rows.parquet"
"""Key of the table of rows below a part."""

ROW_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("array", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("relative_mse", pa.float32(), nullable=False),
    ]
)
"""One row per planned image; height and width in cells; `status` is a `RowStatus`; `relative_mse` is what the
encoding cost this image, see `StoredFeature`."""

_INDEX, _INDEX_DIGITS = "index", 8
_ATTRIBUTE = "sailloft"


@dataclass(frozen=True, slots=True)
class PartDescription:
    """What all parts of a store have in common."""

    fingerprint: str
    """Content key of the teacher: weights, preprocessing, layer, grid policy, dtype."""
    encoding: str
    """`raw16`, `int8`, or `klt:` and the SHA-256 of its calibration."""
    num_channels: int
    geometry: Mapping[str, Json] = field(default_factory=dict[str, Json])
    """How a grid follows from an image's size, for the record: policy, stride, input size."""

    def to_json(self) -> dict[str, Json]:
        """As it stands in attributes and snapshots."""
        return {
            "fingerprint": self.fingerprint,
            "encoding": self.encoding,
            "num_channels": self.num_channels,
            "geometry": self.geometry,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PartDescription:
        """The inverse of `to_json`; raises KeyError."""
        return cls(value["fingerprint"], value["encoding"], value["num_channels"], value["geometry"])


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A live part, as a snapshot lists it."""

    part: str
    manifest_sha256: str
    num_images: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One numbered state of a store."""

    number: int
    description: PartDescription
    parts: tuple[PartEntry, ...]


@dataclass(frozen=True, eq=False)
class OpenPart:
    """A part opened for reading."""

    key: str
    objects: Objects
    description: PartDescription
    codec: Codec
    arrays: Mapping[str, ArrayPlan]
    """By name, in the order of rising size classes."""
    manifest: Manifest


def part_objects(store: Objects, part: str) -> Objects:
    """The prefix of one part."""
    return store.child(f"parts/{part}")


def group_json(description: PartDescription, plan: PartPlan) -> bytes:
    """`zarr.json` of the part's group; its attributes describe the part."""
    arrays: list[Json] = [
        {
            "name": array.name,
            "num_rows": array.num_rows,
            "cells": array.cells,
            "rows_per_shard": array.rows_per_shard,
        }
        for array in plan.arrays
    ]
    attributes: dict[str, Json] = {_ATTRIBUTE: {**description.to_json(), "arrays": arrays}}
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def described_arrays(data: bytes) -> tuple[PartDescription, dict[str, ArrayPlan]]:
    """What `group_json` says of a part: what it has in common with others, and its arrays by name.

    Raises:
        ValueError, KeyError, TypeError: not a part of this version.
    """
    attributes = cast("dict[str, Any]", json.loads(data)["attributes"][_ATTRIBUTE])
    description = PartDescription.from_json(attributes)
    arrays = {
        str(array["name"]): ArrayPlan(
            str(array["name"]), array["num_rows"], description.num_channels, array["cells"], array["rows_per_shard"]
        )
        for array in attributes["arrays"]
    }
    if outside := [name for name in arrays if not is_key(name)]:
        raise ValueError(f"expected arrays below the part, got {outside[0]!r}")
    return description, arrays


def array_json(array: ArrayPlan, codec: Codec) -> bytes:
    """`zarr.json` of one array."""
    little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding: Json = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, array.num_channels, array.cells],
            "codecs": codec.zarr_codecs(),
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return canonical_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [array.num_rows, array.num_channels, array.cells],
            "data_type": codec.zarr_data_type(),
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [array.rows_per_shard, array.num_channels, array.cells]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": codec.zarr_fill_value(),
            "codecs": [sharding],
            "attributes": {},
            "dimension_names": ["row", "channel", "cell"],
        }
    )


def rows_bytes(table: pa.Table) -> bytes:
    """`rows.parquet` of a table of `ROW_SCHEMA`; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table.cast(ROW_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def open_part(store: Objects, entry: PartEntry, known: Mapping[str, Codec] | None = None) -> OpenPart:
    """Opens a part and checks what it reads against the hashes that lead to it.

    Args:
        store: prefix of the store.
        entry: as the snapshot lists it.
        known: codecs by their encoding, whose calibration needn't be read again.

    Raises:
        CorruptObject: manifest, group or calibration is missing or differs.
    """
    objects = part_objects(store, entry.part)
    data = _read(objects, MANIFEST_NAME, entry.manifest_sha256)
    try:
        manifest = Manifest.from_json(data)
        description, arrays = described_arrays(_read(objects, "zarr.json", manifest.file("zarr.json").sha256))
        codec = (known or {}).get(description.encoding) or _codec_of(objects, description, manifest)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CorruptObject):
            raise
        raise CorruptObject(f"{objects.url}: not a part of this version: {type(error).__name__} {error}") from error
    return OpenPart(entry.part, objects, description, codec, arrays, manifest)


def _codec_of(objects: Objects, description: PartDescription, manifest: Manifest) -> Codec:
    listed = {file.path: file for file in manifest.files}.get(CALIBRATION_NAME)
    if listed is None:
        return codec_of(description.encoding)
    return codec_of(description.encoding, _read(objects, CALIBRATION_NAME, listed.sha256))


def read_rows(part: OpenPart) -> pa.Table:
    """The table of rows of a part, by `ROW_SCHEMA`.

    Raises:
        CorruptObject: it is missing or differs.
    """
    try:
        data = _read(part.objects, ROWS_NAME, part.manifest.file(ROWS_NAME).sha256)
        return pq.read_table(pa.BufferReader(data)).select(ROW_SCHEMA.names).cast(ROW_SCHEMA)
    except (KeyError, pa.ArrowException) as error:
        raise CorruptObject(f"{part.objects.url}/{ROWS_NAME}: not of this version: {error}") from error


def _read(objects: Objects, key: str, sha256: str) -> bytes:
    try:
        data = objects.read(key)
    except ObjectNotFound as error:
        raise CorruptObject(
            f"{objects.url}/{key}: missing, though the index lists the part; run teach again"
        ) from error
    if bytes_key(data) != sha256:
        raise CorruptObject(f"{objects.url}/{key}: expected SHA-256 {sha256}, found {bytes_key(data)}")
    return data


def newest_snapshot(store: Objects) -> int | None:
    """Number of the newest snapshot of the index; None if the store has none yet."""
    return NumberedObjects(store, _INDEX, _INDEX_DIGITS).newest()


def read_snapshot(store: Objects, number: int | None = None) -> Snapshot | None:
    """One snapshot of the index, by default the newest; None if the store has none yet.

    Raises:
        ObjectNotFound: the snapshot asked for doesn't exist.
        CorruptObject: it can't be read.
    """
    if number is None:
        number = newest_snapshot(store)
        if number is None:
            return None
    key = snapshot_key(number)
    try:
        value = cast("dict[str, Any]", json.loads(store.read(key)))
        if content_key({name: value[name] for name in ("description", "parts")}) != value["key"]:
            raise CorruptObject(f"{store.url}/{key}: its hash doesn't match; restore it")
        check_encoding(value["description"]["encoding"])
        parts = [PartEntry(str(part["part"]), part["manifest_sha256"], part["num_images"]) for part in value["parts"]]
        if outside := [part.part for part in parts if not is_key(part.part)]:
            raise CorruptObject(f"{store.url}/{key}: expected parts below the store, got {outside[0]!r}; restore it")
        return Snapshot(number, PartDescription.from_json(value["description"]), tuple(parts))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptObject(f"{store.url}/{key}: not an index snapshot: {type(error).__name__} {error}") from error


def snapshot_key(number: int) -> str:
    """Key of a snapshot below the store."""
    return numbered_key(_INDEX, number, _INDEX_DIGITS)


def add_part(store: Objects, description: PartDescription, entry: PartEntry) -> Snapshot:
    """Makes a published part live, by a new snapshot on top of the newest; does nothing if it is live.

    Raises:
        UsageError: the store holds features of another teacher or encoding.
        CorruptObject: the store lists the part with another manifest.
    """
    return replace_parts(store, description, (), entry)


def replace_parts(
    store: Objects, description: PartDescription, retired: Collection[str], entry: PartEntry | None
) -> Snapshot:
    """Makes a published part live in the place of others, by a new snapshot on top of the newest.

    Nothing is deleted: readers that pinned an earlier snapshot go on. Repeating it is fine.

    Args:
        store: prefix of the store.
        description: what all parts have in common.
        retired: parts that are live no longer.
        entry: the new part, listed where the first retired one stood, or last; None: none.

    Raises:
        UsageError: the store holds features of another teacher or encoding, or a part to retire isn't live.
        CorruptObject: the store lists the part with another manifest.
    """
    while True:
        newest = read_snapshot(store)
        parts: Sequence[PartEntry] = ()
        if newest is not None:
            if newest.description.to_json() != description.to_json():
                raise UsageError(
                    f"{store.url}: holds {newest.description.to_json()}, can't add {description.to_json()}; "
                    "give each teacher and encoding its own store"
                )
            parts = newest.parts
        live = {part.part: part for part in parts}
        if entry is not None and entry.part in live:
            if live[entry.part] != entry:
                raise CorruptObject(
                    f"{store.url}: part {entry.part} is listed with another manifest: {live[entry.part]}"
                )
            return cast(Snapshot, newest)
        absent = sorted(set(retired) - set(live))
        if absent:
            raise UsageError(
                f"{store.url}: part {absent[0]} is live no longer, another command has replaced it; start again"
            )
        place = next((number for number, part in enumerate(parts) if part.part in retired), len(parts))
        kept = [(number, part) for number, part in enumerate(parts) if part.part not in retired]
        before = [part for number, part in kept if number < place]
        after = [part for number, part in kept if number >= place]
        following = (*before, *([] if entry is None else [entry]), *after)
        snapshot = Snapshot(1 if newest is None else newest.number + 1, description, following)
        if store.create(snapshot_key(snapshot.number), _snapshot_json(snapshot)):
            return snapshot


def _snapshot_json(snapshot: Snapshot) -> bytes:
    parts: list[Json] = [
        {"part": part.part, "manifest_sha256": part.manifest_sha256, "num_images": part.num_images}
        for part in snapshot.parts
    ]
    content: dict[str, Json] = {"description": snapshot.description.to_json(), "parts": parts}
    return canonical_json({**content, "key": content_key(content)})
