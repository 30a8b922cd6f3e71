"""Corpora and stores as large as one likes, without what planning doesn't read: pictures and shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import ImageSize, feature_grid
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.feature_index import PartDescription, part_objects
from storage.feature_plan import plan_rows
from storage.feature_writer import RowEntry, WrittenShard, publish_part, write_part_metadata
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import IMAGE_SCHEMA, SCHEMA_VERSION
from storage.shards import RowStatus
from teachers.base import Geometry

__all__ = ["IMAGES_PER_FILE", "ROWS_PER_GROUP", "coco_images", "write_image_rows", "write_row_part"]

IMAGES_PER_FILE = 8192
ROWS_PER_GROUP = 20
"""What 2 MiB of photographs of 100 kB are."""
_SIZES_PX = tuple(
    (height, width)
    for height, width, share in ((480, 640, 40), (640, 480, 12), (427, 640, 20), (640, 427, 8), (500, 375, 4))
    for _ in range(share)
)
"""Commonest sizes of COCO's photographs, by their share; every sixth image has a size of its own."""


def coco_images(num_images: int) -> Iterator[ImageSize]:
    """Images of COCO's commonest sizes, every sixth with a size of its own; ids are hashes."""
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, len(_SIZES_PX), num_images)
    odd = generator.integers(200, 641, (num_images, 2))
    for number in range(num_images):
        height, width = odd[number].tolist() if number % 6 == 0 else _SIZES_PX[kinds[number]]
        yield hashlib.sha256(str(number).encode()).hexdigest(), height, width


def write_image_rows(objects: Objects, images: Sequence[ImageSize]) -> Corpus:
    """A corpus of images without their bytes and without samples."""
    files: list[FileEntry] = []
    for number, start in enumerate(range(0, len(images), IMAGES_PER_FILE)):
        some = images[start : start + IMAGES_PER_FILE]
        columns: dict[str, list[object]] = {
            "image_id": [image_id for image_id, _, _ in some],
            "height": [height for _, height, _ in some],
            "width": [width for _, _, width in some],
            "media_type": ["image/jpeg"] * len(some),
            "uri": [f"s3://photographs/{image_id}.jpg" for image_id, _, _ in some],
            "sources": [[]] * len(some),
            "difference_hash": [0] * len(some),
        }
        empty = [None] * len(some)
        table = pa.table({name: columns.get(name, empty) for name in IMAGE_SCHEMA.names}, schema=IMAGE_SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP, write_statistics=["image_id"])
        data = sink.getvalue().to_pybytes()
        objects.create(f"images/{number:05d}.parquet", data)
        files.append(FileEntry.of(f"images/{number:05d}.parquet", data, len(some)))
    return Corpus(objects, publish(objects, Manifest("corpus", "c", SCHEMA_VERSION, {}, {}, tuple(files))))


def write_row_part(
    store: Objects,
    key: str,
    images: Sequence[ImageSize],
    features: FeaturesConfig,
    teacher: Geometry,
    num_channels: int,
) -> None:
    """A part whose table of rows is whole and whose shards aren't there: planning reads no shard."""
    codec = codec_of(features.codec)
    grids = [(image_id, *feature_grid(features, teacher, "mask_features", *size)) for image_id, *size in images]
    plan = plan_rows(grids, num_channels, codec.bits_per_value / 8)
    description = PartDescription("fingerprint", codec.encoding, num_channels)
    part = part_objects(store, key)
    write_part_metadata(part, plan, description, codec)
    shards = list(plan.shards())
    written = {
        shard.key: WrittenShard(
            FileEntry.of(shard.key, b"", len(shard.rows)),
            tuple(RowEntry(row.image_id, row.height, row.width, RowStatus.OK, "", 0.0) for row in shard.rows),
        )
        for shard in shards
    }
    with patch("storage.feature_writer.written_shards", return_value=frozenset(written)):
        publish_part(store, key, plan, description, codec, recipe={}, inputs={}, written=written)
