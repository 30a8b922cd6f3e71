"""Time and memory of planning what a store lacks of a large corpus."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import plan_teaching
from pipelines.distillation.wanted import KnownImages
from pipelines.distillation.windows import WantedWindows
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.feature_index import read_snapshot
from storage.keys import Json
from storage.objects import Objects
from teachers.mask2former import Mask2FormerTeacherConfig
from tests.benchmarks.large_corpora import (
    IMAGES_PER_FILE,
    ROWS_PER_GROUP,
    coco_images,
    write_image_rows,
    write_row_part,
)
from tests.benchmarks.measuring import Figures, Options, in_fresh_process, judged, machine, spread

__all__ = ["FEATURES", "NUM_CHANNELS", "TEACHER", "plan_1m"]

TEACHER = Mask2FormerTeacherConfig(short_side_px=800, long_side_px=1333)
FEATURES = FeaturesConfig(codec="raw16")
NUM_CHANNELS = 256
_PRESENT_SHARE = 0.9
_NUM_PARTS = 9


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
        "images": f"files of {IMAGES_PER_FILE}, row groups of {ROWS_PER_GROUP}, without their bytes",
        "page_cache": "warm",
    }


def _prepare(folder: str, num_images: int) -> None:
    """A corpus, and a store that holds most of it."""
    images = sorted(coco_images(num_images))
    write_image_rows(Objects.open(f"{folder}/corpus"), images)
    store = Objects.open(f"{folder}/store")
    present = [image for number, image in enumerate(images) if number % 10 < 10 * _PRESENT_SHARE]
    for number in range(_NUM_PARTS):
        write_row_part(store, f"{number:064x}", present[number::_NUM_PARTS], FEATURES, TEACHER, NUM_CHANNELS)


def _plan(folder: str) -> dict[str, float]:
    start_s = time.perf_counter()
    store, codec = Objects.open(f"{folder}/store"), codec_of(FEATURES.codec)
    wanted = WantedWindows(Corpus.open(f"{folder}/corpus"), FEATURES).wanted(0)
    known = KnownImages(wanted, store, codec)
    known.update(read_snapshot(store))
    missing = wanted.select(known.unknown)
    plan = plan_teaching(missing, FEATURES, TEACHER, "mask_features", NUM_CHANNELS, codec, "s")
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
