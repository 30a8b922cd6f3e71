"""A corpus of pictures without a word is trained on, by distillation alone."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from model.objective import LossWeights, compute_losses
from model.processor import Processor
from model.student import PixelSail
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.progress import NullProgress
from pipelines.training.config import MixtureEntry, TrainingConfig
from pipelines.training.feed import TrainingFeed
from storage.corpus import Corpus
from storage.features import FeatureRow, FeatureStore
from storage.objects import Objects
from storage.schema import ImageRecord, Region, Task
from storage.testing import publish_example_part


@pytest.mark.parametrize("entry", [MixtureEntry(), MixtureEntry(families=("images",), tasks=(Task.UNLABELLED,))])
def test_a_corpus_of_the_family_images_is_planned(
    pictures: list[tuple[ImageRecord, dict[str, Region]]],
    processor: Processor,
    student: PixelSail,
    entry: MixtureEntry,
) -> None:
    objects = Objects.open(f"memory://{uuid.uuid4().hex}")
    for number, (record, _) in enumerate(pictures):
        objects.create(f"in/images/{number}.png", record.data or b"")
    source = {"kind": "images", "root": objects.child("in").url}
    curate_local(CurationConfig.model_validate({"sources": [source]}), objects.child("out"), NullProgress())
    corpus = Corpus.open(objects.child("out"))
    assert corpus.manifest.facts["samples"] == {"images": {"unlabelled": {"train": len(pictures)}}}
    stores: dict[str, FeatureStore] = {}
    for teacher in ("mask2former", "sam2"):
        rows = [FeatureRow(record.image_id, 4, 6, np.ones((6, 4, 6), np.float32)) for record, _ in pictures]
        publish_example_part(objects.child(teacher), "part", rows, "raw16")
        stores[teacher] = FeatureStore.open(objects.child(teacher))
    config = TrainingConfig(num_steps=2, batch_rows=len(pictures), mixture=(entry,))
    feed = TrainingFeed(corpus, stores, processor, config, 0, 1)
    step = feed.step_batches(0)
    assert sorted(feed.source(feed.place(row)).image_id or "" for row in range(len(pictures))) == sorted(
        record.image_id for record, _ in pictures
    )
    for batch in step.micro_batches:
        assert batch.label_ids.numel() == 0  # no word to learn
        seen = {
            teacher: sorted(int(image) for of_grid in groups.values() for images, _ in of_grid for image in images)
            for teacher, groups in batch.features.items()
        }
        every = list(range(batch.num_documents))
        assert seen == {"mask2former": every, "sam2": every}
        losses = compute_losses(student, batch, LossWeights())
        assert (losses.per_document > 0).all()
        assert losses.per_document.isfinite().all()
