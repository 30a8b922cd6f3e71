"""From a few images to a calibration: plain functions over records and arrays."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import StudentSource, feature_grid
from pipelines.distillation.steps import compute_features, feature_rows, prepare_batch
from storage.calibration import TIERS, CalibrationSample
from storage.codecs import Codec, codec_of
from storage.errors import DataError, ObjectNotFound, UsageError
from storage.feature_plan import PlannedRow
from storage.keys import content_key
from storage.klt import CALIBRATION_NAME, Calibration, KltCodec
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord
from teachers.base import Teacher

__all__ = [
    "calibration_key",
    "codec_for",
    "fit_calibration",
    "is_calibrated",
    "publish_calibration",
    "sample_images",
]

VERSION = 1
"""Raised when the same teacher and images give another calibration; part of its address."""


def is_calibrated(features: FeaturesConfig) -> bool:
    """Whether the encoding of these features is one that has to be calibrated."""
    return features.codec in TIERS


def calibration_key(fingerprint: str, features: FeaturesConfig) -> str:
    """Content key of a calibration: features and tier; not the images, since it is fitted once per teacher.

    Args:
        fingerprint: of the features, see `pipelines.distillation.plan.feature_fingerprint`.
        features: names the tier.
    """
    return content_key(
        {"stage": "calibrate", "version": VERSION, "features": fingerprint, "snr_db": TIERS[features.codec].snr_db}
    )


def codec_for(features: FeaturesConfig, calibration: Objects | None = None) -> Codec:
    """The codec that features are stored with.

    Args:
        features: names the encoding, and perhaps the folder of its calibration.
        calibration: folder of the calibration, where `features` names none.

    Raises:
        UsageError: the encoding needs a calibration, and there is none.
        CorruptObject: it is damaged.
    """
    if not is_calibrated(features):
        return codec_of(features.codec)
    folder = calibration if features.calibration is None else Objects.open(features.calibration)
    if folder is None:
        raise UsageError(f"encoding {features.codec}: expected the folder of a calibration, got none")
    try:
        codec = KltCodec(Calibration.from_bytes(folder.read(CALIBRATION_NAME)))
    except ObjectNotFound as error:
        raise UsageError(f"features.calibration: {error}") from error
    wanted, found = TIERS[features.codec].snr_db, codec.facts.get("tier_db")
    if found != wanted:
        raise UsageError(
            f"{folder.url}/{CALIBRATION_NAME}: expected a calibration for {wanted:g} dB as {features.codec} wants it, "
            f"found one for {found} dB"
        )
    return codec


def publish_calibration(output: Objects, key: str, fingerprint: str, features: FeaturesConfig) -> Manifest:
    """Publishes the calibration that lies in a folder; repeating it is fine.

    Args:
        output: the folder.
        key: see `calibration_key`.
        fingerprint: of the features.
        features: names the tier.
    """
    data = output.read(CALIBRATION_NAME)
    codec = KltCodec(Calibration.from_bytes(data))
    return publish(
        output,
        Manifest(
            kind="calibration",
            key=key,
            schema_version=SCHEMA_VERSION,
            recipe={"codec": features.codec},
            inputs={"features": fingerprint},
            files=(FileEntry.of(CALIBRATION_NAME, data),),
            facts={"encoding": codec.encoding, **codec.facts},
        ),
    )


def sample_images(image_ids: Iterable[str], num_images: int) -> list[str]:
    """The images to calibrate on: a draw that depends on their ids alone."""
    return heapq.nsmallest(num_images, image_ids, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())


def fit_calibration(
    teacher: Teacher,
    records: Iterable[ImageRecord],
    features: FeaturesConfig,
    source: StudentSource,
    on_image: Callable[[int], None] = lambda num_done: None,
) -> Calibration:
    """Computes the features of some images and fits the encoding to them.

    Args:
        teacher: whose features; with its geometry.
        records: the images; those on which the teacher fails are left out.
        features: grid and tier.
        source: what of the student the teacher is compared with.
        on_image: told after each image how many are done.

    Raises:
        DataError: the teacher fails on every image.
    """
    sample, failure = CalibrationSample(), "there are none"
    for number, record in enumerate(records, start=1):
        size = teacher.input_size(record.height, record.width)
        batch, failures = prepare_batch(teacher, [record], size)
        computed, failed = compute_features(teacher, batch, failures)
        grid = feature_grid(features, teacher, source, record.height, record.width)
        planned = [PlannedRow(record.image_id, *grid)]
        (row,) = feature_rows(planned, computed, failed, features.grid_stride_px is not None)
        if row.values is None:
            failure = f"{row.image_id}: {row.detail}"
        else:
            sample.add(row.values)
        on_image(number)
    if not len(sample):
        raise DataError(f"calibration: expected features of at least one image; {failure}; mend the images")
    return sample.fit(TIERS[features.codec], {"teacher": teacher.fingerprint})
