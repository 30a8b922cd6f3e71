"""Time and memory of planning what a store lacks of a large corpus."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import ImageSize, feature_grid, plan_teaching
from pipelines.distillation.wanted import wanted_images
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.feature_index import PartDescription, part_objects
from storage.feature_plan import plan_rows
from storage.feature_writer import RowEntry, WrittenShard, publish_part, write_part_metadata
from storage.features import FeatureStore
from storage.keys import Json
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import IMAGE_SCHEMA, SCHEMA_VERSION
from storage.shards import RowStatus
from teachers.mask2former import Mask2FormerTeacherConfig
from tests.benchmarks.measuring import Figures, Options, in_fresh_process, judged, machine, spread

__all__ = ["plan_1m"]

_TEACHER = Mask2FormerTeacherConfig(short_side_px=800, long_side_px=1333)
_FEATURES = FeaturesConfig(codec="raw16")
_NUM_CHANNELS = 256
_PRESENT_SHARE = 0.9
_NUM_PARTS = 9
_IMAGES_PER_FILE = 8192
_ROWS_PER_GROUP = 20  # what 2 MiB of photographs of 100 kB are
_SIZES_PX = tuple(
    (height, width)
    for height, width, share in ((480, 640, 40), (640, 480, 12), (427, 640, 20), (640, 427, 8), (500, 375, 4))
    for _ in range(share)
)
"""Commonest sizes of COCO's photographs, by their share; every sixth image has a size of its own."""


def plan_1m(options: Options) -> Figures:
    """Plans corpora of growing size, each in a process of its own; the last one has a million images."""
    sizes = [300, 3_000] if options.tiny else [10_000, 100_000, 1_000_000]
    repeats = options.times(3)
    figures: Figures = {"machine": machine(options, repeats), "workload": _workload()}
    per_shard: list[float] = []
    runs: list[dict[str, float]] = []
    for num_images in sizes:
        with tempfile.TemporaryDirectory() as folder:
            in_fresh_process(_prepare, folder, num_images)
            runs = [in_fresh_process(_plan, folder) for _ in range(repeats)]
        fastest = min(run["seconds"] for run in runs)
        per_shard.append(1e3 * fastest / runs[0]["num_shards"])
        figures[f"plan_{num_images}_images"] = {
            **{name: spread([run[name] for run in runs]) for name in ("seconds", "rss_mb")},
            **{name: runs[0][name] for name in ("num_missing", "num_shards")},
            "ms_per_shard": round(per_shard[-1], 4),
        }
    seconds, rss_mb = (sorted(run[name] for run in runs)[len(runs) // 2] for name in ("seconds", "rss_mb"))
    figures["plan_1m_images_s"] = judged({"of": "seconds", "value": round(seconds, 2)}, at_most=60.0)
    figures["plan_1m_rss_mb"] = judged({"of": "largest resident MB", "value": round(rss_mb) * 1.0}, at_most=1500.0)
    flat: dict[str, Json] = {
        "of": "ms per shard, most / fewest images",
        "value": round(per_shard[-1] / per_shard[0], 3),
    }
    figures["plan_time_per_shard"] = judged(flat, at_most=1.2)
    return figures


def _workload() -> dict[str, Json]:
    return {
        "what": "open corpus and store, find what is missing, plan its shards and batches; in a fresh process, imports "
        "not counted in seconds but in memory",
        "teacher": "Mask2Former's geometry (short side 800 px, stride 4), 256 channels, raw16",
        "present": _PRESENT_SHARE,
        "parts": _NUM_PARTS,
        "images": f"files of {_IMAGES_PER_FILE}, row groups of {_ROWS_PER_GROUP}, without their bytes",
        "page_cache": "warm",
    }


def _images(num_images: int) -> Iterator[ImageSize]:
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, len(_SIZES_PX), num_images)
    odd = generator.integers(200, 641, (num_images, 2))
    for number in range(num_images):
        height, width = odd[number].tolist() if number % 6 == 0 else _SIZES_PX[kinds[number]]
        yield hashlib.sha256(str(number).encode()).hexdigest(), height, width


def _prepare(folder: str, num_images: int) -> None:
    """A corpus, and a store that holds most of it."""
    images = sorted(_images(num_images))
    _write_corpus(Objects.open(f"{folder}/corpus"), images)
    store = Objects.open(f"{folder}/store")
    present = [image for number, image in enumerate(images) if number % 10 < 10 * _PRESENT_SHARE]
    for number in range(_NUM_PARTS):
        _write_part(store, f"{number:064x}", present[number::_NUM_PARTS])


def _write_corpus(objects: Objects, images: list[ImageSize]) -> None:
    files: list[FileEntry] = []
    for number, start in enumerate(range(0, len(images), _IMAGES_PER_FILE)):
        some = images[start : start + _IMAGES_PER_FILE]
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
        pq.write_table(table, sink, row_group_size=_ROWS_PER_GROUP, write_statistics=["image_id"])
        data = sink.getvalue().to_pybytes()
        objects.create(f"images/{number:05d}.parquet", data)
        files.append(FileEntry.of(f"images/{number:05d}.parquet", data, len(some)))
    publish(objects, Manifest("corpus", "c", SCHEMA_VERSION, {}, {}, tuple(files)))


def _write_part(store: Objects, key: str, images: list[ImageSize]) -> None:
    """A part whose table of rows is whole and whose shards aren't there: planning reads no shard."""
    codec = codec_of(_FEATURES.codec)
    grids = [(image_id, *feature_grid(_FEATURES, _TEACHER, "mask_features", *size)) for image_id, *size in images]
    plan = plan_rows(grids, _NUM_CHANNELS, codec.bits_per_value / 8)
    description = PartDescription("fingerprint", codec.encoding, _NUM_CHANNELS)
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


def _plan(folder: str) -> dict[str, float]:
    start_s = time.perf_counter()
    store = FeatureStore.open(f"{folder}/store")
    wanted = wanted_images(Corpus.open(f"{folder}/corpus"), _FEATURES)
    missing = wanted.select(wanted.unknown_to(store))
    codec = codec_of(_FEATURES.codec)
    plan = plan_teaching(missing, _FEATURES, _TEACHER, "mask_features", _NUM_CHANNELS, codec, "s")
    num_shards = sum(1 for _ in plan.tasks())
    seconds = time.perf_counter() - start_s
    return {
        "seconds": seconds,
        "rss_mb": _peak_mb(),
        "num_missing": float(len(missing)),
        "num_shards": float(num_shards),
    }


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
