"""Another, coarser encoding of features that a store holds already: decoded and encoded again, not computed again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from storage.calibration import CalibrationSample, Tier
from storage.errors import UsageError
from storage.feature_index import part_objects
from storage.feature_plan import MAX_SHARD_BYTES, ShardPlan, plan_rows
from storage.feature_writer import (
    FeatureRow,
    WrittenShard,
    publish_part,
    write_part_metadata,
    write_shard,
    written_shards,
)
from storage.features import FeatureStore
from storage.keys import Json, content_key
from storage.klt import Calibration
from storage.manifest import Manifest
from storage.objects import Objects
from storage.stored_features import Codec

__all__ = ["calibrate_on_store", "require_finer", "transcode"]

VERSION = 1
"""Raised when the same features are laid out in another way; part of the key of what is made."""

_NUM_THREADS = 2  # each holds the features of one shard
_FINENESS = ("klt", "int8", "raw16")


def calibrate_on_store(source: FeatureStore, tier: Tier, num_images: int = 64) -> Calibration:
    """Fits `klt` on features that a store holds, on the first images by the hashes that are their ids.

    Raises:
        UsageError: the store holds nothing.
    """
    sample = CalibrationSample()
    for values in source.read(sorted(source)[:num_images]):
        sample.add(values)
    fingerprint = "" if source.description is None else source.description.fingerprint
    return sample.fit(tier, {"features": fingerprint})


def transcode(
    source: FeatureStore,
    target: Objects,
    codec: Codec,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_shard: Callable[[int, int], None] = lambda num_done, num_shards: None,
) -> Manifest | None:
    """Adds to a store what it lacks of another one, in its own encoding; rejected images stay rejected.

    A killed run is continued by calling this again.

    Args:
        source: features of the same teacher and grid, in a finer encoding.
        target: prefix of the store to fill; a new one, or one of this encoding.
        codec: of the target.
        max_shard_bytes: size that a shard should not exceed.
        on_shard: told after each shard how many of how many are done.

    Returns:
        The manifest of the new part; None if nothing was missing.

    Raises:
        UsageError: the source holds nothing, isn't finer, or the target holds other features.
        CorruptObject: a shard of the source is damaged.
    """
    if source.description is None or source.codec is None:
        raise UsageError(f"{source.objects.url}: holds no features to transcode")
    require_finer(source.codec.encoding, codec.encoding)
    known = FeatureStore.open(target, absent_ok=True)
    description = replace(source.description, encoding=codec.encoding)
    if known.description is not None and known.description.to_json() != description.to_json():
        raise UsageError(f"{target.url}: holds {known.description.to_json()}, expected {description.to_json()}")
    index = source.index
    names = [index.name(position) for position in range(len(index))]
    unknown = np.flatnonzero(known.unknown(names)).tolist()
    if not unknown:
        return None
    planned = [(names[number], int(index.height[number]), int(index.width[number])) for number in unknown]
    plan = plan_rows(planned, description.num_channels, codec.bits_per_value / 8, max_shard_bytes)
    recipe: dict[str, Json] = {"version": VERSION, "encoding": codec.encoding, "max_shard_bytes": max_shard_bytes}
    inputs = {f"part {number}": part.key for number, part in enumerate(source.parts)}
    images = [row.image_id for rows in plan.rows for row in rows]
    key = content_key({"stage": "transcode", **recipe, "inputs": inputs, "images": images})
    part = part_objects(target, key)
    write_part_metadata(part, plan, description, codec)
    finished, shards = written_shards(part), list(plan.shards())
    written: dict[str, WrittenShard] = {}
    missing = [shard for shard in shards if shard.key not in finished]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for number, done in enumerate(pool.map(lambda shard: _recode(source, part, shard, codec), missing), start=1):
            written[done.entry.path] = done
            on_shard(len(finished) + number, len(shards))
    return publish_part(target, key, plan, description, codec, recipe=recipe, inputs=inputs, written=written)


def require_finer(source: str, target: str) -> None:
    """Makes sure that features in one encoding may be brought into another.

    Args:
        source: encoding that they are in.
        target: the other one, or its name with anything behind a colon.

    Raises:
        UsageError: the source isn't finer, and not the same.
    """
    finer, coarser = (_FINENESS.index(encoding.partition(":")[0]) for encoding in (source, target))
    if finer <= coarser and source != target:
        raise UsageError(
            f"transcode: expected a finer encoding than {target.partition(':')[0]} to begin with, got {source}; "
            "errors of two codings add up: compute the features anew, or begin with a raw16 or int8 store"
        )


def _recode(source: FeatureStore, part: Objects, shard: ShardPlan, codec: Codec) -> WrittenShard:
    rejected = source.rejected
    ids = [row.image_id for row in shard.rows if row.image_id not in rejected]
    values = dict(zip(ids, source.read(ids), strict=True))
    rows = [
        FeatureRow(row.image_id, row.height, row.width, values.get(row.image_id), rejected.get(row.image_id, ""))
        for row in shard.rows
    ]
    return write_shard(part, shard.array, shard.index, rows, codec)
