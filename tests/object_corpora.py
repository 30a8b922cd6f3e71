"""A corpus of drawn objects with categories, from which benchmarks are built in tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pipelines.benchmark_building.captioners.base import DraftRequest
from pipelines.benchmark_building.captioners.template import TemplateCaptioner
from pipelines.benchmark_building.records import BenchmarkTask, Texts
from storage.corpus import Corpus, write_images, write_samples
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Sample, Task, Turn
from tests.image_records import picture_record
from tests.small_corpora import box_region

__all__ = ["HEIGHT_PX", "OBJECTS", "WIDTH_PX", "MarkupCaptioner", "drawn_picture", "write_object_corpus"]

HEIGHT_PX, WIDTH_PX = 96, 128
OBJECTS: Sequence[tuple[str, tuple[int, int, int, int], tuple[int, int, int]]] = (
    ("cup", (8, 10, 32, 40), (200, 40, 40)),
    ("cup", (90, 12, 120, 44), (40, 60, 200)),
    ("dog", (44, 20, 78, 60), (120, 80, 50)),
    ("table", (4, 66, 124, 92), (210, 190, 150)),
)
"""Category, box and colour of the objects of each picture; two of them share a category."""


def drawn_picture(number: int) -> ImageRecord:
    """The objects on a ground whose colour depends on the number."""
    pixels = np.full((HEIGHT_PX, WIDTH_PX, 3), 100 + number, np.uint8)
    for _, (x0, y0, x1, y1), colour in OBJECTS:
        pixels[y0:y1, x0:x1] = colour
    return picture_record(pixels, f"{number}.png")


def write_object_corpus(
    objects: Objects, num_pictures: int = 8, split: str = "val", task: Task = Task.INSTANCE
) -> Corpus:
    """Publishes a corpus with one sample per category and picture."""
    images = [drawn_picture(number) for number in range(num_pictures)]
    samples = [
        Sample(
            sample_id=hashlib.sha256(f"{image.image_id}/{category}".encode()).hexdigest(),
            image_id=image.image_id,
            family="drawn",
            task=task,
            split=split,
            regions=tuple(box_region(box, HEIGHT_PX, WIDTH_PX, name) for name, box, _ in OBJECTS if name == category),
            turns=(Turn(text=category, targets=((0,),)),),
            source_file="drawn.json",
            locator=image.sources[0],
        )
        for image in images
        for category in ("cup", "dog", "table")
    ]
    files = (write_images(objects, "00000", images), write_samples(objects, "00000", samples))
    publish(objects, Manifest("corpus", "0" * 64, SCHEMA_VERSION, {}, {}, files))
    return Corpus.open(objects)


class MarkupCaptioner:
    """The template's drafts, with markup behind the first caption."""

    is_concurrent = False

    def __init__(self, markup: str) -> None:
        self._markup = markup
        self._is_done = False

    def draft(self, request: DraftRequest) -> Texts:
        """One draft."""
        texts = TemplateCaptioner().draft(request)
        if request.task is BenchmarkTask.DETAILED_CAPTION and not self._is_done:
            self._is_done = True
            return Texts(caption=f"{texts.caption} {self._markup}")
        return texts
