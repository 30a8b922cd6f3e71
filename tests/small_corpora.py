"""Corpora of drawn pictures, made in a moment."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from storage.corpus import Corpus, write_images, write_samples
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Sample, Task

__all__ = ["noise_picture", "write_corpus"]


def noise_picture(number: int, height_px: int, width_px: int, file_format: str = "PNG") -> ImageRecord:
    """A picture of coarse noise that depends on the number alone."""
    coarse = np.random.default_rng(number).integers(0, 256, (-(-height_px // 8), -(-width_px // 8), 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(coarse).resize((width_px, height_px)).save(sink, file_format)
    data = sink.getvalue()
    return ImageRecord(
        image_id=hashlib.sha256(data).hexdigest(),
        data=data,
        uri=None,
        media_type=f"image/{file_format.lower()}",
        height=height_px,
        width=width_px,
        coco_id=None,
        sources=(f"{number}.{file_format.lower()}",),
        difference_hash=0,
    )


def write_corpus(objects: Objects, images: Sequence[ImageRecord], key: str) -> Corpus:
    """Publishes a corpus of these images without a single label."""
    samples = [
        Sample(
            sample_id=image.image_id,
            image_id=image.image_id,
            family="scenes",
            task=Task.UNLABELLED,
            split="train",
            source_file="",
            locator=image.sources[0],
        )
        for image in images
    ]
    files = (write_images(objects, "0", images), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", key, SCHEMA_VERSION, {}, {}, files))
    return Corpus.open(objects)
