"""Calibrating on Ray: one task with a teacher's resources, on some tens of images."""

from __future__ import annotations

from typing import Any

import ray

from pipelines.calibration.steps import calibration_key, fit_calibration, publish_calibration, sample_images
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.windows import WantedWindows
from pipelines.observer import Observer, current_observer
from pipelines.progress import NullProgress, Progress
from storage.corpus import Corpus
from storage.klt import CALIBRATION_NAME
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects
from teachers.registry import TeacherConfig

__all__ = ["calibrate"]


def calibrate(
    corpus: Corpus,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    output: Objects,
    fingerprint: str,
    progress: Progress | None = None,
) -> Manifest:
    """Fits the encoding of a teacher's features on a sample of the corpus, unless that was done before.

    Of two that do so at once the first one's calibration stands.

    Args:
        corpus: the sample is drawn from its images that are to be taught.
        teacher: whose features.
        features: grid, tier, splits and size of the sample.
        output: where the calibration goes.
        fingerprint: of the features, see `pipelines.distillation.plan.feature_fingerprint`.
        progress: told the number of finished images.

    Raises:
        DataError: the teacher fails on every image of the sample.
    """
    key = calibration_key(fingerprint, features)
    published = read_manifest(output)
    if published is not None:
        return published
    chosen = sample_images(WantedWindows(corpus, features).ids(), features.calibration_images)
    shown = progress or NullProgress()
    shown.update(0, len(chosen), unit="images")
    options = features.process_options(teacher)
    task: Any = _FIT.options(**options).remote(current_observer(), corpus.objects.url, teacher, features, chosen)
    output.create(CALIBRATION_NAME, ray.get(task))
    shown.update(len(chosen), len(chosen), unit="images")
    return publish_calibration(output, key, fingerprint, features)


def _fit(
    observer: Observer, corpus_url: str, teacher: TeacherConfig, features: FeaturesConfig, image_ids: list[str]
) -> bytes:
    with observer.here("teacher"):
        corpus = Corpus.open(corpus_url)
        built = teacher.build("cuda" if features.num_gpus_per_actor > 0 else "cpu")
        records = (corpus.image(image_id) for image_id in image_ids)
        return fit_calibration(built, records, features, teacher.student_source).to_bytes()


_FIT: Any = ray.remote(_fit)
