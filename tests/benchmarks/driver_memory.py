"""Memory of teaching's own process as the number of images grows: plans, leases, results, publication."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeAlias, cast
from unittest.mock import patch

import numpy as np

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import ShardTask
from pipelines.distillation.teaching import Job, teaching_of
from pipelines.distillation.worker import ShardResult
from pipelines.progress import NullProgress
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.feature_writer import FeatureRow, write_shard
from storage.keys import Json
from storage.objects import Objects
from tests.benchmarks.large_corpora import coco_images, write_image_rows
from tests.benchmarks.measuring import Figures, Options, PeakMemory, judged, machine
from tests.ledger_teacher import LedgerTeacherConfig, ledger_card

__all__ = ["driver_memory"]

_TEACHER = LedgerTeacherConfig(num_channels=1, grid=(1, 1))
_Measured: TypeAlias = dict[str, dict[str, float]]
_BYTES_PER_IMAGE = 8.0
"""What may be held of each further image of a corpus: its share of the corpus' manifest and of the rejects."""


def driver_memory(options: Options) -> Figures:
    """Peak memory with N images and with 10 N, taught and found again, each in a process of its own."""
    num_images = 200 if options.tiny else 100_000
    # The allocator's arenas fill over the first ten windows, by 75 MB with windows of 100,000, and stay.
    per_window = num_images if options.tiny else num_images // 10
    few, many = (_measured(number, per_window, options) for number in (num_images, 10 * num_images))
    growth: dict[str, Json] = {"of": "bytes per further image", "value": _per_image(few, many, num_images, "taught")}
    return {
        "machine": machine(options, 1),
        "workload": {
            "what": "teach without Ray: plan, lease, tasks, results, publication, statement; shards are written by "
            "another process, whose results come back pickled. Memory is VmHWM of the process, imports counted; "
            "then the same again, with a store that has everything",
            "images_per_window": per_window,
            "images_per_part": per_window,
            "images_per_shard": 256,
            "features": "1 x 1 x 1, raw16",
            "service_ms_per_shard": 0,
            "flops": None,
        },
        f"{num_images}_images": cast("Json", few),
        f"{10 * num_images}_images": cast("Json", many),
        "driver_memory": judged(growth, at_most=_BYTES_PER_IMAGE),
        "driver_memory_found_again": _per_image(few, many, num_images, "found_again"),
    }


def _per_image(few: _Measured, many: _Measured, num_images: int, name: str) -> float:
    return round(max((many[name]["peak_mb"] - few[name]["peak_mb"]) * 1e6 / (9 * num_images), 0.0), 1)


def _measured(num_images: int, images_per_window: int, options: Options) -> _Measured:
    with tempfile.TemporaryDirectory() as folder:
        options.apart(_prepare, folder, num_images)
        return {name: options.apart(_teach, folder, images_per_window) for name in ("taught", "found_again")}


def _prepare(folder: str, num_images: int) -> None:
    write_image_rows(Objects.open(f"{folder}/corpus"), list(coco_images(num_images)))


def _teach(folder: str, images_per_window: int) -> dict[str, float]:
    features = FeaturesConfig(codec="raw16", images_per_shard=256, images_per_part=images_per_window)
    corpus, store = Corpus.open(f"{folder}/corpus"), Objects.open(f"{folder}/store")
    begun_s: list[float] = []
    with (
        patch("pipelines.distillation.teaching.teacher_card", ledger_card),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        PeakMemory() as memory,
    ):
        codec, teacher = codec_of("raw16"), cast(Any, _TEACHER)
        teaching = teaching_of(corpus, teacher, features, codec, store, images_per_window=images_per_window)

        def run(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
            return pool.map(functools.partial(_write, job), tasks, chunksize=8)

        start_cpu_s = time.process_time()
        teaching.complete(run, NullProgress(), lambda counts, plan: begun_s.append(time.perf_counter()))
        cpu_s = time.process_time() - start_cpu_s
    parts_s = np.diff([*begun_s, time.perf_counter()]).tolist()
    return {
        "peak_mb": (memory.start_bytes + memory.peak_bytes) / 1e6,
        "start_mb": memory.start_bytes / 1e6,
        "cpu_s": round(cpu_s, 3),
        "num_parts": float(len(parts_s)),
        "first_part_s": round(parts_s[0], 3) if parts_s else 0.0,
        "last_part_s": round(parts_s[-1], 3) if parts_s else 0.0,
    }


def _write(job: Job, task: ShardTask) -> ShardResult:
    """A shard without a picture and without a teacher."""
    values = np.zeros((_TEACHER.num_channels, 1, 1), np.float32)
    rows = [FeatureRow(row.image_id, row.height, row.width, values) for row in task.shard.rows]
    return ShardResult(write_shard(job.part, task.shard.array, task.shard.index, rows, job.codec), {})
