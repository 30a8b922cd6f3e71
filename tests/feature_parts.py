"""Parts of a feature store with features or rejects as one likes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.distillation.teaching import Teaching
from storage.feature_writer import FeatureRow, publish_part, write_part_metadata, write_shard
from storage.features import part_objects, plan_rows

__all__ = ["write_feature_part"]


def write_feature_part(teaching: Teaching, key: str, rows: Mapping[str, str | None]) -> str:
    """Publishes a part with these images, rejected with a reason or with features of one cell; its key."""
    plan = plan_rows([(image_id, 1, 1) for image_id in rows], teaching.description.num_channels, 2)
    part = part_objects(teaching.output, key)
    write_part_metadata(part, plan, teaching.description, teaching.codec)
    for shard in plan.shards():
        values = np.zeros((teaching.description.num_channels, 1, 1), np.float32)
        features = [
            FeatureRow(row.image_id, 1, 1, None if rows[row.image_id] else values, rows[row.image_id] or "")
            for row in shard.rows
        ]
        write_shard(part, shard.array, shard.index, features, teaching.codec)
    publish_part(teaching.output, key, plan, teaching.description, teaching.codec, recipe={}, inputs={})
    return key
