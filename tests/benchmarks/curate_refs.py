"""Curating a source of RefCOCO's size, against a reader that takes one expression at a time, and at growing sizes."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.progress import NullProgress
from storage.objects import Objects
from tests.benchmarks.curate_sources import (
    ANNOTATIONS_PER_IMAGE,
    EXPRESSIONS_PER_IMAGE,
    POLYGON_POINTS,
    image_name,
    write_refcoco,
)
from tests.benchmarks.measuring import (
    Figures,
    Options,
    PeakMemory,
    Seconds,
    compared_times,
    in_fresh_process,
    judged,
    machine,
    resident_bytes,
)

__all__ = ["curate_refs"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_SIZE_PX = (640, 480)
_SMALL_PX = (64, 48)
_SIDES = ("curate", "one_by_one")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Run:
    """What was measured in one process."""

    num_expressions: int
    wall_s: float
    cpu_s: float
    """Of all threads."""
    peak_rss_mb: float = 0.0

    @property
    def rate(self) -> float:
        return self.num_expressions / self.wall_s

    def __str__(self) -> str:
        return f"{self.num_expressions} expressions in {self.wall_s:.1f} s ({self.cpu_s:.1f} s of processor)"


def curate_refs(options: Options) -> Figures:
    """RefCOCO's size in photographs, then 10^4 to 10^6 expressions on small pictures; each in a process of its own."""
    repeats = options.times(3)
    alone = _here if options.tiny else in_fresh_process
    sizes = [140, 280] if options.tiny else [10_000, 100_000, 1_000_000]
    num_expressions, num_images = (140, 20) if options.tiny else (142_000, 20_000)
    few = min(num_expressions, 3_000)  # of the other reader, whose rate doesn't change
    runs: dict[str, list[_Run]] = {side: [] for side in _SIDES}
    with tempfile.TemporaryDirectory() as folder:
        logger.info("writing %d pictures and %d expressions", num_images, num_expressions)
        workload = alone(_write, folder, num_images, num_expressions, _SIZE_PX)
        for _ in range(repeats):
            for side, run in zip(_SIDES, (alone(_curate, folder), alone(_read_one_by_one, folder, few)), strict=True):
                logger.info("%s: %s", side, run)
                runs[side].append(run)
    rates = {
        side: Seconds([run.rate for run in found], [run.num_expressions / run.cpu_s for run in found])
        for side, found in runs.items()
    }
    sides, ratio = compared_times(rates, "expressions/s", _SIDES)
    peak_rss_mb = max(run.peak_rss_mb for run in runs["curate"])
    growing = [_growing(alone, size) for size in sizes]
    slope = round(growing[0].rate / growing[-1].rate, 3)
    return {
        "machine": machine(options, repeats),
        "workload": workload,
        "refs_per_s": round(statistics.median(rates["curate"].wall), 1),
        **sides,
        "vs_per_item_reader": judged(ratio, at_least=5.0),
        "peak_rss_mb": judged({"of": "largest resident MB with imports", "value": peak_rss_mb}, at_most=1500.0),
        **{f"rows_{size}": _figures(run) for size, run in zip(sizes, growing, strict=True)},
        "cost_per_row": judged({"of": "time per row, most / fewest rows", "value": slope}, at_most=1.2),
    }


def _growing(alone: Callable[..., _Run], size: int) -> _Run:
    with tempfile.TemporaryDirectory() as folder:
        logger.info("writing small pictures and %d expressions", size)
        alone(_write, folder, max(1, round(size / EXPRESSIONS_PER_IMAGE)), size, _SMALL_PX)
        run = alone(_curate, folder)
    logger.info("curate: %s", run)
    return run


def _figures(run: _Run) -> Figures:
    return {
        "seconds": round(run.wall_s, 2),
        "processor_seconds": round(run.cpu_s, 2),
        "us_per_row": round(1e6 / run.rate, 1),
        "peak_rss_mb": run.peak_rss_mb,
    }


def _here(function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
    """Instead of a process of its own, whose imports take longer than a tiny run."""
    return function(*arguments, **named)


def _write(folder: str, num_images: int, num_expressions: int, size_px: tuple[int, int]) -> Figures:
    root = Path(folder, "in")
    image_bytes = write_refcoco(root, num_images, num_expressions, size_px)
    return {
        "curate": "the whole job by one process, whose threads decode beside its main one; pictures in the page cache: "
        "read, hash, decode, masks to RLE, filters, gate, Parquet, card",
        "one_by_one": "one thread, for each expression: open and decode its picture, rasterise its polygons, check; "
        "indices are made before, and nothing is written",
        "expressions": num_expressions,
        "images": num_images,
        "image_px": list(size_px),
        "image_kb": round(image_bytes / 1e3, 1),
        "annotations": num_images * ANNOTATIONS_PER_IMAGE,
        "polygon_points": POLYGON_POINTS,
        "instances_json_mb": round((root / "refcoco/instances.json").stat().st_size / 1e6, 1),
    }


def _curate(folder: str) -> _Run:
    config = CurationConfig.model_validate({"root": f"{folder}/in", "sources": [{"kind": "refcoco"}]})
    before = resident_bytes()
    with PeakMemory() as memory:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        manifest = curate_local(config, Objects.open(f"{folder}/out"), NullProgress())
        wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    shutil.rmtree(f"{folder}/out")
    assert manifest.facts["num_rejects"] == 0
    num_samples = manifest.facts["num_samples"]
    assert isinstance(num_samples, int)
    return _Run(num_samples, wall_s, cpu_s, round((before + memory.peak_bytes) / 1e6, 1))


def _read_one_by_one(folder: str, num_expressions: int) -> _Run:
    """A reader as released ones are: for each expression its picture and its polygons."""
    root = Path(folder, "in")
    refs = pickle.loads((root / "refcoco/refs(unc).p").read_bytes())
    content = json.loads((root / "refcoco/instances.json").read_text())
    images = {row["id"]: row for row in content["images"]}
    annotations = {row["id"]: row for row in content["annotations"]}
    draw = np.random.default_rng(0)
    items = [(ref, sentence) for ref in refs for sentence in ref["sentences"]]
    chosen = [items[place] for place in draw.choice(len(items), num_expressions, replace=False)]
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    for ref, sentence in chosen:
        row = images[ref["image_id"]]
        with Image.open(root / "images/train2014" / image_name(row["id"])) as file:
            pixels = np.asarray(file.convert("RGB"))
        parts = coco_mask.frPyObjects(annotations[ref["ann_id"]]["segmentation"], row["height"], row["width"])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # pycocotools' own
            mask = coco_mask.decode(coco_mask.merge(parts))
        assert mask.any()
        assert mask.shape == pixels.shape[:2]
        assert sentence["raw"].lower().strip()
    return _Run(num_expressions, time.perf_counter() - start_s, time.process_time() - start_cpu_s)
