"""A RefCOCO source of any size, drawn in seconds: photograph-like pictures, annotations, references."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["ANNOTATIONS_PER_IMAGE", "EXPRESSIONS_PER_IMAGE", "POLYGON_POINTS", "image_name", "write_refcoco"]

EXPRESSIONS_PER_IMAGE = 7.1
"""As in RefCOCO."""
ANNOTATIONS_PER_IMAGE = 10
POLYGON_POINTS = 45
"""As COCO's polygons have on average."""
_EXPRESSIONS_PER_REF = 3
_DISTINCT_PICTURES = 48
"""Pictures that are drawn; a comment makes each file's bytes its own."""
_DISTINCT_OUTLINES = 4_999
"""Outlines that are drawn. A prime, so that those of one picture differ."""


def write_refcoco(root: Path, num_images: int, num_expressions: int, size_px: tuple[int, int]) -> int:
    """Writes pictures of `size_px` (width, height), annotations ten to a picture, references of three expressions.

    Returns:
        Mean size of a picture in bytes.
    """
    (root / "images/train2014").mkdir(parents=True)
    (root / "refcoco").mkdir()
    drawn = list(_pictures(size_px))
    images: list[dict[str, Any]] = []
    for number in range(1, num_images + 1):
        name = image_name(number)
        data = _with_comment(drawn[number % _DISTINCT_PICTURES], number)
        (root / "images/train2014" / name).write_bytes(data)
        images.append({"id": number, "file_name": name, "width": size_px[0], "height": size_px[1], "license": 1})
    num_annotations = num_images * ANNOTATIONS_PER_IMAGE
    outlines = [_outline(number, size_px) for number in range(min(num_annotations, _DISTINCT_OUTLINES))]
    with (root / "refcoco/instances.json").open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": ' + json.dumps(images) + ', "annotations": [')
        for number in range(num_annotations):
            ids = f'"id": {number}, "image_id": {number % num_images + 1}, "category_id": 1, "iscrowd": 0'
            file.write(f"{',' if number else ''}{{{ids}, {outlines[number % len(outlines)]}}}")
        file.write('], "categories": [{"id": 1, "name": "cup", "supercategory": "kitchen"}]}')
    refs = list(_refs(num_expressions, num_images, num_annotations))
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return sum(map(len, drawn)) // len(drawn)


def image_name(number: int) -> str:
    """File name of a picture."""
    return f"COCO_train2014_{number:012d}.jpg"


def _pictures(size_px: tuple[int, int]) -> Iterator[bytes]:
    """Pictures with edges and grain, of the size in bytes that photographs have."""
    for seed in range(_DISTINCT_PICTURES):
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


def _outline(number: int, size_px: tuple[int, int]) -> str:
    """Area, box and polygon of an annotation, as they stand in its JSON."""
    draw = np.random.default_rng(number)
    width, height = size_px
    angles = np.linspace(0, 2 * np.pi, POLYGON_POINTS, endpoint=False)
    radius = draw.uniform(0.08, 0.2) * height * draw.uniform(0.8, 1.2, POLYGON_POINTS)
    x = np.clip(draw.uniform(0.2, 0.8) * width + radius * np.cos(angles), 0, width)
    y = np.clip(draw.uniform(0.2, 0.8) * height + radius * np.sin(angles), 0, height)
    box = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
    polygon = np.round(np.stack([x, y], axis=1).ravel(), 2).tolist()
    return json.dumps({"area": 1.0, "bbox": box, "segmentation": [polygon]})[1:-1]


def _refs(num_expressions: int, num_images: int, num_annotations: int) -> Iterator[dict[str, Any]]:
    for ref_id, first in enumerate(range(0, num_expressions, _EXPRESSIONS_PER_REF)):
        ann_id = ref_id % num_annotations
        numbers = range(first, min(first + _EXPRESSIONS_PER_REF, num_expressions))
        yield {
            "ref_id": ref_id,
            "ann_id": ann_id,
            "image_id": ann_id % num_images + 1,
            "category_id": 1,
            "split": "train",
            "file_name": "unused.jpg",
            "sent_ids": list(numbers),
            "sentences": [_sentence(number) for number in numbers],
        }


def _sentence(number: int) -> dict[str, Any]:
    text = f"the {('red', 'blue', 'tall', 'small')[number % 4]} cup number {number} on the left"
    return {"sent_id": number, "raw": text, "sent": text, "tokens": text.split()}
