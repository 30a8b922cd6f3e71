"""Curating a source of RefCOCO's size, against a reader that takes one expression at a time, and at growing sizes."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.progress import NullProgress
from storage.objects import Objects
from tests.benchmarks.measuring import Figures, Options, PeakMemory, in_fresh_process, judged, machine, resident_bytes

__all__ = ["curate_refs"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_EXPRESSIONS_PER_REF = 3
_EXPRESSIONS_PER_IMAGE = 7.1
_ANNOTATIONS_PER_IMAGE = 10
_POLYGON_POINTS = 45
"""As COCO's polygons have on average."""
_SIZE_PX = (640, 480)
_SMALL_PX = (64, 48)
_DISTINCT = 48
"""Pictures that are drawn; a comment makes each file's bytes its own."""
_READ_ONE_BY_ONE = 3_000
"""Expressions that the other reader is timed on: its rate doesn't change."""


def curate_refs(options: Options) -> Figures:
    """RefCOCO's size in photographs, then 10^4 to 10^6 expressions on small pictures; each in a process of its own."""
    repeats = options.times(2)
    alone = _here if options.tiny else in_fresh_process
    sizes = [140, 280] if options.tiny else [10_000, 100_000, 1_000_000]
    num_expressions, num_images = (140, 20) if options.tiny else (142_000, 20_000)
    figures: Figures = {"machine": machine(options, repeats)}
    with tempfile.TemporaryDirectory() as folder:
        figures["workload"] = alone(_write, folder, num_images, num_expressions, _SIZE_PX)
        runs = [alone(_curate, folder, f"out{number}") for number in range(repeats)]
        few = min(num_expressions, _READ_ONE_BY_ONE)
        one_by_one = max(alone(_read_one_by_one, folder, few) for _ in range(repeats))
    best = max(runs, key=lambda run: run["refs_per_s"])
    figures["refs_per_s"] = best["refs_per_s"]
    figures["per_item_reader_refs_per_s"] = round(one_by_one, 1)
    ratio = round(best["refs_per_s"] / one_by_one, 3)
    figures["vs_per_item_reader"] = judged({"of": "curate / one expression at a time", "value": ratio}, at_least=5.0)
    peak_rss_mb = max(run["peak_rss_mb"] for run in runs)
    figures["peak_rss_mb"] = judged({"of": "largest resident MB with imports", "value": peak_rss_mb}, at_most=1500.0)
    growing: list[dict[str, float]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            alone(_write, folder, max(1, round(size / _EXPRESSIONS_PER_IMAGE)), size, _SMALL_PX)
            growing.append(alone(_curate, folder, "out"))
        figures[f"rows_{size}"] = {**growing[-1], "us_per_row": round(1e6 / growing[-1]["refs_per_s"], 1)}
    slope = round(growing[0]["refs_per_s"] / growing[-1]["refs_per_s"], 3)
    figures["cost_per_row"] = judged({"of": "time per row, most / fewest rows", "value": slope}, at_most=1.2)
    return figures


def _here(function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
    """Instead of a process of its own, whose imports take longer than a tiny run."""
    return function(*arguments, **named)


def _write(folder: str, num_images: int, num_expressions: int, size_px: tuple[int, int]) -> Figures:
    """A RefCOCO source: pictures, annotations ten to a picture, references of three expressions."""
    root = Path(folder, "in")
    (root / "images/train2014").mkdir(parents=True)
    (root / "refcoco").mkdir()
    drawn = list(_pictures(size_px))
    images: list[dict[str, Any]] = []
    for number in range(1, num_images + 1):
        name = f"COCO_train2014_{number:012d}.jpg"
        (root / "images/train2014" / name).write_bytes(_with_comment(drawn[number % _DISTINCT], number))
        images.append({"id": number, "file_name": name, "width": size_px[0], "height": size_px[1], "license": 1})
    num_annotations = num_images * _ANNOTATIONS_PER_IMAGE
    with (root / "refcoco/instances.json").open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": ' + json.dumps(images) + ', "annotations": [')
        for number in range(num_annotations):
            file.write(("," if number else "") + json.dumps(_annotation(number, num_images, size_px)))
        file.write('], "categories": [{"id": 1, "name": "cup", "supercategory": "kitchen"}]}')
    refs: list[dict[str, Any]] = []
    num_sentences = 0
    while num_sentences < num_expressions:
        few = min(_EXPRESSIONS_PER_REF, num_expressions - num_sentences)
        ref_id = len(refs)
        ann_id = ref_id % num_annotations
        refs.append(
            {
                "ref_id": ref_id,
                "ann_id": ann_id,
                "image_id": ann_id % num_images + 1,
                "category_id": 1,
                "split": "train",
                "file_name": "unused.jpg",
                "sent_ids": list(range(num_sentences, num_sentences + few)),
                "sentences": [_sentence(number) for number in range(num_sentences, num_sentences + few)],
            }
        )
        num_sentences += few
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    instances_mb = (root / "refcoco/instances.json").stat().st_size / 1e6
    return {
        "what": "one process, pictures in the page cache: read, hash, decode, masks to RLE, filters, gate, Parquet",
        "expressions": num_expressions,
        "images": num_images,
        "image_px": list(size_px),
        "image_kb": round(sum(map(len, drawn)) / len(drawn) / 1e3, 1),
        "annotations": num_annotations,
        "polygon_points": _POLYGON_POINTS,
        "instances_json_mb": round(instances_mb, 1),
    }


def _pictures(size_px: tuple[int, int]) -> Iterator[bytes]:
    """Pictures with edges and grain, of the size in bytes that photographs have."""
    for seed in range(_DISTINCT):
        draw = np.random.default_rng(seed)
        cells = Image.fromarray(draw.integers(0, 256, (16, 20, 3), np.uint8)).resize(size_px, Image.Resampling.BICUBIC)
        grain = draw.normal(0, 6, (size_px[1], size_px[0], 3))
        pixels = np.clip(np.asarray(cells, np.float32) + grain, 0, 255).astype(np.uint8)
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "JPEG", quality=85)
        yield sink.getvalue()


def _with_comment(jpeg: bytes, number: int) -> bytes:
    comment = f"{number:012d}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _annotation(number: int, num_images: int, size_px: tuple[int, int]) -> dict[str, Any]:
    draw = np.random.default_rng(number)
    width, height = size_px
    angles = np.linspace(0, 2 * np.pi, _POLYGON_POINTS, endpoint=False)
    radius = draw.uniform(0.08, 0.2) * height * draw.uniform(0.8, 1.2, _POLYGON_POINTS)
    x = np.clip(draw.uniform(0.2, 0.8) * width + radius * np.cos(angles), 0, width)
    y = np.clip(draw.uniform(0.2, 0.8) * height + radius * np.sin(angles), 0, height)
    return {
        "id": number,
        "image_id": number % num_images + 1,
        "category_id": 1,
        "iscrowd": 0,
        "area": 1.0,
        "bbox": [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))],
        "segmentation": [np.round(np.stack([x, y], axis=1).ravel(), 2).tolist()],
    }


def _sentence(number: int) -> dict[str, Any]:
    text = f"the {('red', 'blue', 'tall', 'small')[number % 4]} cup number {number} on the left"
    return {"sent_id": number, "raw": text, "sent": text, "tokens": text.split()}


def _curate(folder: str, name: str) -> dict[str, float]:
    config = CurationConfig.model_validate({"root": f"{folder}/in", "sources": [{"kind": "refcoco"}]})
    before = resident_bytes()
    with PeakMemory() as memory:
        start_s = time.perf_counter()
        manifest = curate_local(config, Objects.open(f"{folder}/{name}"), NullProgress())
        seconds = time.perf_counter() - start_s
    assert manifest.facts["num_rejects"] == 0
    num_samples = manifest.facts["num_samples"]
    assert isinstance(num_samples, int)
    return {
        "seconds": round(seconds, 2),
        "refs_per_s": round(num_samples / seconds, 1),
        "peak_rss_mb": round((before + memory.peak_bytes) / 1e6, 1),
    }


def _read_one_by_one(folder: str, num_expressions: int) -> float:
    """Expressions per second of a reader as released ones are: for each expression its picture and its polygons."""
    root = Path(folder, "in")
    refs = pickle.loads((root / "refcoco/refs(unc).p").read_bytes())
    content = json.loads((root / "refcoco/instances.json").read_text())
    images = {row["id"]: row for row in content["images"]}
    annotations = {row["id"]: row for row in content["annotations"]}
    draw = np.random.default_rng(0)
    items = [(ref, sentence) for ref in refs for sentence in ref["sentences"]]
    chosen = [items[place] for place in draw.choice(len(items), num_expressions, replace=False)]
    start_s = time.perf_counter()
    for ref, sentence in chosen:
        row = images[ref["image_id"]]
        with Image.open(root / "images/train2014" / row["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB"))
        parts = coco_mask.frPyObjects(annotations[ref["ann_id"]]["segmentation"], row["height"], row["width"])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # pycocotools' own
            mask = coco_mask.decode(coco_mask.merge(parts))
        assert mask.any()
        assert mask.shape == pixels.shape[:2]
        assert sentence["raw"].lower().strip()
    return num_expressions / (time.perf_counter() - start_s)
