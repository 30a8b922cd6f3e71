"""Measures every phase of teaching on a few images, for a forecast; what it writes it removes again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.forecast import PhaseSeconds
from pipelines.distillation.plan import Batch, ImageSize, ShardTask
from pipelines.distillation.steps import compute_features, decode_rgb, feature_rows
from storage.calibration import TIERS, CalibrationSample
from storage.corpus import Corpus, image_bytes
from storage.errors import DataError
from storage.feature_writer import FeatureRow, ShardWriter
from storage.klt import KltCodec
from storage.objects import Objects
from storage.stored_features import Codec
from teachers.base import Geometry, Teacher

__all__ = ["FeedSample", "Probe", "probe_feed", "probe_images", "probe_teacher"]


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured."""

    seconds: PhaseSeconds
    bits_per_value: float
    """Stored, tails and padding counted in."""
    num_images: int


@dataclass(frozen=True, slots=True)
class FeedSample:
    """A batch as a decoding task made it, and what that took in all."""

    pixels: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    failures: dict[int, str]
    seconds: dict[str, float]


@dataclass(slots=True)
class _Seconds:
    sums: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        start_s = time.perf_counter()
        yield
        self.sums[name] = self.sums.get(name, 0.0) + time.perf_counter() - start_s


def probe_images(images: Sequence[ImageSize], num_images: int, seed: int = 0) -> list[ImageSize]:
    """Some of the images, drawn by the seed; all if there are fewer."""
    numbers = random.Random(seed).sample(range(len(images)), min(num_images, len(images)))
    return [images[number] for number in sorted(numbers)]


def probe_feed(corpus: Corpus, geometry: Geometry, image_ids: Sequence[str], input_size: tuple[int, int]) -> FeedSample:
    """Reads, decodes and preprocesses one batch, timed by phase."""
    seconds, failures = _Seconds(), dict[int, str]()
    batch = torch.zeros(len(image_ids), 3, *input_size)
    for position, image_id in enumerate(image_ids):
        try:
            with seconds.phase("read"):
                data = image_bytes(corpus.image(image_id))
            with seconds.phase("decode"):
                image = decode_rgb(data)
        except DataError as error:
            failures[position] = str(error)
            continue
        with seconds.phase("preprocess"):
            batch[position] = geometry.preprocess(image)
    return FeedSample(batch.numpy(), failures, seconds.sums)


def probe_teacher(
    build: Callable[[], Teacher],
    tasks: Sequence[ShardTask],
    feed: Callable[[ShardTask, Batch], FeedSample],
    features: FeaturesConfig,
    codec: Codec | None,
    scratch: Objects,
) -> Probe:
    """Runs every phase in turn on the images of a few shards; for a forecast only, nothing of it stays.

    Args:
        build: makes the teacher.
        tasks: shards and batches as a plan makes them.
        feed: reads a batch.
        features: grid, and the encoding's name.
        codec: of the store; None if the encoding has yet to be calibrated, which is then done on these images.
        scratch: prefix below which shards are written and removed again.

    Raises:
        DataError: no image could be used.
    """
    seconds = _Seconds()
    with seconds.phase("start"):
        teacher = build()
    feeds = [(task, batch, feed(task, batch)) for task in tasks for batch in task.batches]
    rows: dict[str, dict[int, FeatureRow]] = {task.shard.key: {} for task in tasks}
    forward_s: list[tuple[float, int]] = []
    for task, batch, sample in feeds:
        inputs = torch.from_numpy(np.array(sample.pixels))
        if not forward_s:  # the first pass of a process also compiles, allocates and warms up
            compute_features(teacher, inputs, sample.failures)
        start_s = time.perf_counter()
        found, failures = compute_features(teacher, inputs, sample.failures)
        forward_s.append((time.perf_counter() - start_s, len(inputs)))
        planned = [task.shard.rows[position] for position in batch.positions]
        made = feature_rows(planned, found, failures, features.grid_stride_px is not None)
        rows[task.shard.key].update(zip(batch.positions, made, strict=True))
    if all(row.values is None for made in rows.values() for row in made.values()):
        raise DataError("probe: the teacher failed on every image; see `sailloft curate` for what the corpus holds")
    used = codec or _calibrated(features, [row for made in rows.values() for row in made.values()])
    num_bytes = sum(_store(task, rows[task.shard.key], used, scratch, seconds) for task in tasks)
    num_images = sum(count for _, count in forward_s)
    for sample in (sample for _, _, sample in feeds):
        for name, phase_s in sample.seconds.items():
            seconds.sums[name] = seconds.sums.get(name, 0.0) + phase_s
    per_image = {name: total_s / num_images for name, total_s in seconds.sums.items() if name != "start"}
    per_image["forward"] = sum(taken_s for taken_s, _ in forward_s) / num_images
    measured = PhaseSeconds(f"probe of {num_images} images", **per_image, start=seconds.sums["start"])
    num_values = sum(row.values.size for made in rows.values() for row in made.values() if row.values is not None)
    return Probe(measured, 8 * num_bytes / num_values, num_images)


def _calibrated(features: FeaturesConfig, rows: Sequence[FeatureRow]) -> Codec:
    sample = CalibrationSample()
    for row in rows:
        if row.values is not None:
            sample.add(row.values)
    return KltCodec(sample.fit(TIERS[features.codec]))


def _store(task: ShardTask, rows: dict[int, FeatureRow], codec: Codec, scratch: Objects, seconds: _Seconds) -> int:
    """Encodes and writes one shard and removes it; its size."""
    writer = ShardWriter(scratch, task.shard.array, task.shard.index, codec)
    with seconds.phase("encode"):
        for position, row in rows.items():
            writer.add(position, writer.encode(row))
    try:
        with seconds.phase("write"):
            return writer.write().entry.size_bytes
    finally:
        scratch.delete(task.shard.key)
