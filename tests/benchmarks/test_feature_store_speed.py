"""Rates of the feature store on a local disk, in bytes of float32 features handed in or out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.codecs import codec_of
from storage.features import (
    FeatureRow,
    FeatureStore,
    PartDescription,
    PartPlan,
    part_objects,
    plan_rows,
    publish_part,
    write_part_metadata,
    write_shard,
)
from storage.objects import Objects

NUM_CHANNELS, SIDE_CELLS, NUM_IMAGES = 256, 32, 24
BYTES_PER_VALUE = {"raw16": 2, "int8": 1}


@pytest.fixture(params=sorted(BYTES_PER_VALUE))
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rows() -> dict[str, FeatureRow]:
    generator = np.random.default_rng(0)
    shape = (NUM_CHANNELS, SIDE_CELLS, SIDE_CELLS)
    names = [f"{number:064x}" for number in range(NUM_IMAGES)]
    return {
        name: FeatureRow(name, SIDE_CELLS, SIDE_CELLS, generator.standard_normal(shape, np.float32)) for name in names
    }


def write(store: Objects, rows: dict[str, FeatureRow], encoding: str) -> PartPlan:
    """Writes and publishes one part with all the rows, in shards of 4 MiB."""
    images = [(row.image_id, row.height, row.width) for row in rows.values()]
    plan = plan_rows(images, NUM_CHANNELS, BYTES_PER_VALUE[encoding], max_shard_bytes=4 * 2**20)
    description = PartDescription("teacher", encoding, NUM_CHANNELS, {"stride": 4})
    part = part_objects(store, "part")
    codec = codec_of(encoding)
    write_part_metadata(part, plan, description, codec)
    written = {
        shard.key: write_shard(
            part, shard.array, shard.index, [rows[planned.image_id] for planned in shard.rows], codec
        )
        for shard in plan.shards()
    }
    publish_part(store, "part", plan, description, codec, recipe={}, inputs={}, written=written)
    return plan


def size_bytes(rows: dict[str, FeatureRow]) -> int:
    return sum(row.values.nbytes for row in rows.values() if row.values is not None)


def test_writing(
    tmp_path: Path, rows: dict[str, FeatureRow], encoding: str, measure: Callable[[str, Callable[[], int]], None]
) -> None:
    numbers = itertools.count()

    def work() -> int:
        plan = write(Objects.open(str(tmp_path / str(next(numbers)))), rows, encoding)
        assert plan.num_images == NUM_IMAGES
        return size_bytes(rows)

    measure(f"write {encoding}", work)


def test_reading_at_random(
    tmp_path: Path, rows: dict[str, FeatureRow], encoding: str, measure: Callable[[str, Callable[[], int]], None]
) -> None:
    write(Objects.open(str(tmp_path)), rows, encoding)
    store = FeatureStore.open(str(tmp_path))
    generator = np.random.default_rng(1)

    def work() -> int:
        wanted = [str(name) for name in generator.permutation(sorted(rows))]
        found = store.read(wanted)
        assert found[0].shape == (NUM_CHANNELS, SIDE_CELLS, SIDE_CELLS)
        return sum(values.nbytes for values in found)

    measure(f"read {encoding}, {NUM_IMAGES} images at random", work)
