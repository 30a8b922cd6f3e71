"""A feature store of very many images, written in seconds: features follow from an image's number."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from storage.codecs import codec_of
from storage.feature_index import PartDescription, part_objects
from storage.feature_plan import plan_rows
from storage.feature_writer import FeatureRow, publish_part, write_part_metadata, write_shard
from storage.keys import content_key
from storage.objects import Objects

__all__ = ["image_name", "write_many_features"]

_CHANNELS, _SIDE = 4, 6
_REJECTS_EVERY = 1000


def image_name(number: int) -> str:
    """Id of an image by its number."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def write_many_features(store: Objects, num_images: int, images_per_part: int = 50_000) -> None:
    """Publishes parts with features of images, of which one of a thousand is rejected.

    Args:
        store: prefix of the store.
        num_images: in all parts together.
        images_per_part: at most.
    """
    codec = codec_of("raw16")
    description = PartDescription("the fingerprint", codec.encoding, _CHANNELS, {"policy": "native", "stride": 16})
    kinds = [_features(number) for number in range(64)]
    for start in range(0, num_images, images_per_part):
        numbers = range(start, min(start + images_per_part, num_images))
        plan = plan_rows([(image_name(number), _SIDE, _SIDE) for number in numbers], _CHANNELS, 2)
        rows = {
            image_name(number): FeatureRow(image_name(number), _SIDE, _SIDE, None, f"out of memory at {number}")
            if number % _REJECTS_EVERY == _REJECTS_EVERY - 1
            else FeatureRow(image_name(number), _SIDE, _SIDE, kinds[number % len(kinds)])
            for number in numbers
        }
        key = content_key(["many features", start, num_images])
        part = part_objects(store, key)
        write_part_metadata(part, plan, description, codec)
        written = {
            shard.key: write_shard(part, shard.array, shard.index, [rows[row.image_id] for row in shard.rows], codec)
            for shard in plan.shards()
        }
        publish_part(store, key, plan, description, codec, recipe={}, inputs={}, written=written)


def _features(number: int) -> NDArray[np.float32]:
    """A bright spot whose place depends on the number, in each channel another one."""
    draw = np.random.default_rng(number)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    centres = draw.uniform(0, _SIDE, (2, _CHANNELS, 1, 1))
    return np.exp(-((rows - centres[0]) ** 2 + (columns - centres[1]) ** 2) / 4).astype(np.float32)
