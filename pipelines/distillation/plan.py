"""What has to be computed: pure, and the same on every machine and in every run.

    images of the corpus -> those that the store doesn't know -> grids -> size classes, shards, batches

The plan fixes which images form a batch, so that a repeated run gives the same bits; and its key is
the part's name, so that an interrupted run finds its shards again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Literal, Protocol, TypeAlias, cast

from pipelines.distillation.config import FeaturesConfig
from storage.feature_plan import ArrayPlan, PartPlan, ShardPlan, plan_rows
from storage.geometry import student_grid
from storage.keys import Json, content_key
from storage.schema import SCHEMA_VERSION
from teachers.base import Geometry

__all__ = [
    "Batch",
    "ExpectedSize",
    "ImageSize",
    "ShardTask",
    "StoredSize",
    "StudentSource",
    "TeachPlan",
    "coverage_key",
    "coverage_path",
    "feature_fingerprint",
    "feature_grid",
    "input_batches",
    "plan_teaching",
    "store_key",
]

VERSION = 1
"""Raised when the same inputs give other features, shards or batches; part of every key here."""

ImageSize: TypeAlias = tuple[str, int, int]
"""Image id, height and width in px."""

StudentSource: TypeAlias = Literal["mask_features", "patches"]
"""Which of the student's features is compared with the teacher's."""


class StoredSize(Protocol):
    """What a plan has to know of an encoding; every codec is one."""

    @property
    def bits_per_value(self) -> float:
        """As stored, expected or measured."""
        ...


@dataclass(frozen=True, slots=True)
class ExpectedSize:
    """An encoding of which no more is known yet."""

    bits_per_value: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one forward pass, as positions within their shard, and their input size in px."""

    positions: tuple[int, ...]
    input_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The unit of work: one shard and the batches that make it."""

    shard: ShardPlan
    batches: tuple[Batch, ...]
    corpus_rows: tuple[int, ...] = ()
    """Where each image lies in the corpus, see `Corpus.images_at`; empty: unknown."""


@dataclass(frozen=True, slots=True)
class TeachPlan:
    """Everything that one part needs, and its name."""

    key: str
    part: PartPlan
    images: Mapping[str, tuple[int, int, int]]
    """Height and width of each planned image in px, and its row in the corpus, -1: unknown."""
    geometry: Geometry
    batch_size: int

    def tasks(self, finished: Container[str] = ()) -> Iterator[ShardTask]:
        """Shards to compute, less those whose key within the part is in `finished`."""
        for shard in self.part.shards():
            if shard.key not in finished:
                images = [self.images[row.image_id] for row in shard.rows]
                sizes = [self.geometry.input_size(height, width) for height, width, _ in images]
                rows = tuple(corpus_row for _, _, corpus_row in images)
                yield ShardTask(shard, input_batches(sizes, self.batch_size), () if -1 in rows else rows)


def feature_grid(
    config: FeaturesConfig, geometry: Geometry, source: StudentSource, height_px: int, width_px: int
) -> tuple[int, int]:
    """(rows, columns) of an image's stored features.

    Args:
        config: says whose grid it is.
        geometry: the teacher.
        source: what of the student this teacher is compared with.
        height_px: height of the image.
        width_px: width of the image.
    """
    stride_px = config.grid_stride_px
    if stride_px is not None:
        input_height, input_width = geometry.input_size(height_px, width_px)
        return -(-input_height // stride_px), -(-input_width // stride_px)
    if config.grid == "native" or config.student is None:
        return geometry.output_grid(height_px, width_px)
    student = config.student
    rows, columns = student_grid(height_px, width_px, student.patch_size_px, student.max_side_px)
    cells_per_patch = student.patch_size_px // student.mask_stride_px if source == "mask_features" else 1
    return rows * cells_per_patch, columns * cells_per_patch


def input_batches(input_sizes: Sequence[tuple[int, int]], batch_size: int) -> tuple[Batch, ...]:
    """Cuts the images of a shard into batches of one input size each, sizes in order of their first image.

    >>> [batch.positions for batch in input_batches([(8, 8), (8, 4), (8, 8), (8, 8)], 2)]
    [(0, 2), (3,), (1,)]
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for position, size in enumerate(input_sizes):
        by_size.setdefault(size, []).append(position)
    return tuple(
        Batch(tuple(positions[start : start + batch_size]), size)
        for size, positions in by_size.items()
        for start in range(0, len(positions), batch_size)
    )


def feature_fingerprint(teacher: str, config: FeaturesConfig, source: StudentSource) -> str:
    """Content key of the features before they are encoded: the teacher and the grid they lie on.

    Args:
        teacher: the teacher's fingerprint.
        config: whose grid it is.
        source: what of the student the teacher is compared with; matters for `grid: student` alone.
    """
    grid: dict[str, Json] = {"policy": config.grid}
    if config.grid == "student" and config.student is not None:
        grid |= {"student": _json(config.student.hashed_fields()), "source": source}
    return content_key({"stage": "features", "version": VERSION, "teacher": teacher, "grid": grid})


def store_key(fingerprint: str, encoding: str) -> str:
    """Content key of a feature store: features (see `feature_fingerprint`) and encoding; not the images."""
    return content_key({"schema_version": SCHEMA_VERSION, "features": fingerprint, "encoding": encoding})


def coverage_key(store: str, corpus: str, config: FeaturesConfig) -> str:
    """Content key of the statement that a store holds what one corpus needs.

    Args:
        store: key of the store.
        corpus: key of the corpus.
        config: says which splits are needed.
    """
    return content_key({"stage": "teach", "store": store, "corpus": corpus, "splits": sorted(config.splits)})


def coverage_path(key: str) -> str:
    """Where that statement lies below the store."""
    return f"corpora/{key}"


def plan_teaching(
    images: Iterable[ImageSize],
    config: FeaturesConfig,
    geometry: Geometry,
    source: StudentSource,
    num_channels: int,
    codec: StoredSize,
    store: str,
    corpus_rows: Iterable[int] | None = None,
) -> TeachPlan:
    """Plans one part.

    Args:
        images: those that the store doesn't know, in the order of the corpus, which is that of its files.
        config: grid, shards and batches; `batch_size` is a number, see `FeaturesConfig.resolved`.
        geometry: the teacher.
        source: what of the student this teacher is compared with.
        num_channels: of the teacher's features.
        codec: how they are stored, which says how large they are expected to be.
        store: key of the feature store.
        corpus_rows: where each image lies in the corpus; None: unknown.

    Raises:
        ValueError: an image is listed twice or has no pixels, or the batch size isn't resolved.
    """
    if config.batch_size == "auto":
        raise ValueError("batch_size: expected a number, got auto; resolve the configuration for its teacher first")
    listed = list(images)
    grids = [(image_id, *feature_grid(config, geometry, source, height, width)) for image_id, height, width in listed]
    part = plan_rows(grids, num_channels, codec.bits_per_value / 8, max(1, int(config.shard_mib * 2**20)))
    part = replace(part, arrays=tuple(_limit_rows(array, config.images_per_shard) for array in part.arrays))
    layout: dict[str, Json] = {
        "version": VERSION,
        "store": store,
        "images": _images_key(listed),
        "batch_size": config.batch_size,
        "images_per_shard": config.images_per_shard,
        "shard_mib": config.shard_mib,
    }
    rows = repeat(-1, len(listed)) if corpus_rows is None else corpus_rows
    planned = {image_id: (height, width, row) for (image_id, height, width), row in zip(listed, rows, strict=True)}
    return TeachPlan(content_key(layout), part, planned, geometry, config.batch_size)


def _limit_rows(array: ArrayPlan, images_per_shard: int) -> ArrayPlan:
    most = min(array.rows_per_shard, images_per_shard)
    num_shards = -(-array.num_rows // most)
    return replace(array, rows_per_shard=-(-array.num_rows // num_shards))


def _images_key(images: Sequence[ImageSize]) -> str:
    digest = hashlib.sha256()
    for image_id, height, width in images:
        digest.update(f"{image_id} {height} {width}\n".encode())
    return digest.hexdigest()


def _json(fields: Mapping[str, object]) -> dict[str, Json]:
    return cast("dict[str, Json]", dict(fields))
