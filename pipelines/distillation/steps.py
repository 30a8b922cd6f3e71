"""From image bytes to rows of a shard: plain functions over records and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from storage.corpus import image_bytes
from storage.errors import DataError, InfrastructureError
from storage.feature_plan import PlannedRow
from storage.feature_writer import FeatureRow
from storage.pictures import open_picture
from storage.schema import ImageRecord
from teachers.base import Geometry, Teacher

__all__ = [
    "compute_features",
    "decode_rgb",
    "feature_rows",
    "prepare_batch",
    "resize_features",
]


def decode_rgb(data: bytes) -> Image.Image:
    """The picture as RGB, EXIF orientation not applied.

    Raises:
        DataError: no picture, a truncated one, or one of more pixels than PIL opens without a warning.
    """
    try:
        return open_picture(data).convert("RGB")
    # What PIL's decoders raise on damaged files; SyntaxError comes from the PNG reader.
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"can't be decoded: {error}") from error


def prepare_batch(
    geometry: Geometry, records: Sequence[ImageRecord], input_size: tuple[int, int]
) -> tuple[Tensor, dict[int, str]]:
    """Reads, decodes and preprocesses the images of one batch.

    Args:
        geometry: how the teacher takes images.
        records: images that the plan says have one input size.
        input_size: that size, (height, width) in px.

    Returns:
        Inputs [batch, 3, height, width], zeros where an image can't be used; and what is wrong with
        those, by position.
    """
    batch = torch.zeros(len(records), 3, *input_size)
    failures: dict[int, str] = {}
    for position, record in enumerate(records):
        try:
            image = decode_rgb(image_bytes(record))
        except DataError as error:
            failures[position] = str(error)
            continue
        if (image.height, image.width) != (record.height, record.width):
            failures[position] = (
                f"expected {record.height} x {record.width} px as in the corpus, got {image.height} x {image.width}"
            )
            continue
        batch[position] = geometry.preprocess(image)
    return batch, failures


def compute_features(
    teacher: Teacher, batch: Tensor, failures: Mapping[int, str], *, on_device: bool = False
) -> tuple[Tensor, dict[int, str]]:
    """Runs the teacher; an image on which it fails becomes zeros, and the batch is repeated.

    So the features of the others are those of the same batch without the culprit, whenever and
    wherever it is computed.

    Args:
        teacher: the teacher.
        batch: inputs [batch, 3, height, width].
        failures: images that are zeros already, and why.
        on_device: leave the features on the teacher's device.

    Returns:
        Features [batch, channels, rows, columns], on the CPU unless asked for otherwise, of no meaning
        where an image failed; and all failures by position.

    Raises:
        InfrastructureError: the teacher fails on zeros too, so that no image is to blame.
    """
    failed = dict(failures)
    while True:
        try:
            features = teacher.forward(batch)
            features = features if on_device else features.cpu()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, ArithmeticError) as error:
            culprits = _failing_alone(teacher, batch, failed, error)
        else:
            finite = torch.isfinite(features).flatten(1).all(1).tolist()
            culprits = {
                position: "the teacher's features are not finite"
                for position, is_finite in enumerate(finite)
                if not is_finite and position not in failed
            }
            if not culprits:
                return features, failed
        batch = batch.clone()
        batch[list(culprits)] = 0
        failed |= culprits


def _failing_alone(teacher: Teacher, batch: Tensor, failed: Mapping[int, str], error: Exception) -> dict[int, str]:
    """Which images make the teacher raise, each tried alone."""
    try:
        teacher.forward(torch.zeros_like(batch))
    except (RuntimeError, ValueError, ArithmeticError) as blank_error:
        raise InfrastructureError(
            f"the teacher fails on a blank batch of {tuple(batch.shape)}: {blank_error}; "
            "check device, memory and weights"
        ) from blank_error
    culprits: dict[int, str] = {}
    for position in range(len(batch)):
        if position in failed:
            continue
        try:
            teacher.forward(batch[position : position + 1])
        except (RuntimeError, ValueError, ArithmeticError) as own_error:
            culprits[position] = f"the teacher failed: {own_error}"
    if not culprits:
        raise InfrastructureError(
            f"the teacher fails on a batch of {tuple(batch.shape)} but on none of its images alone: {error}; "
            "lower features.batch_size"
        ) from error
    return culprits


def resize_features(features: Tensor, grid: tuple[int, int], antialias: bool = False) -> Tensor:
    """Features [batch, channels, rows, columns] on another grid.

    Args:
        features: on the teacher's grid.
        grid: (rows, columns) wanted.
        antialias: average over what a coarser cell covers; without, as the student's loss would resize them.
    """
    if tuple(features.shape[-2:]) == grid:
        return features
    return functional.interpolate(features, size=grid, mode="bilinear", align_corners=False, antialias=antialias)


def feature_rows(
    rows: Sequence[PlannedRow], features: Tensor, failures: Mapping[int, str], antialias: bool = False
) -> list[FeatureRow]:
    """What is stored of one batch: each image on its planned grid, or the reason why it has none.

    Args:
        rows: the batch's images.
        features: [batch, channels, rows, columns] as the teacher gives them.
        failures: reasons by position.
        antialias: how a coarser grid is reached, see `resize_features`.
    """
    result: list[FeatureRow] = []
    for position, row in enumerate(rows):
        if position in failures:
            result.append(FeatureRow(row.image_id, row.height, row.width, None, failures[position]))
            continue
        resized = resize_features(features[position : position + 1], (row.height, row.width), antialias)[0]
        values = np.ascontiguousarray(resized.numpy(), dtype=np.float32)
        result.append(FeatureRow(row.image_id, row.height, row.width, values))
    return result
