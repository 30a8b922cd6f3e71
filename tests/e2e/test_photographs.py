"""The whole flow on real photographs, few enough to be learnt by heart."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest

from jobs.config import load_recipe
from jobs.display import PlainDisplay
from jobs.runner import run_recipe
from storage.corpus import Corpus
from storage.objects import Objects

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

NUM_PHOTOGRAPHS = 8


def few_photographs(source: Path, folder: Path) -> set[int]:
    """A folder in RefCOCO layout with the references to the first photographs of RefCOCO's testA and testB alone."""
    references = pickle.loads((source / "refcoco/refs(unc).p").read_bytes())
    chosen = [reference for reference in references if reference["split"] in ("testA", "testB")]
    image_ids = set(sorted({reference["image_id"] for reference in chosen})[:NUM_PHOTOGRAPHS])
    (folder / "refcoco").mkdir(parents=True)
    (folder / "refcoco/refs(unc).p").write_bytes(
        pickle.dumps([reference for reference in chosen if reference["image_id"] in image_ids])
    )
    (folder / "refcoco/instances.json").write_bytes((source / "refcoco/instances.json").read_bytes())
    (folder / "images/train2014").mkdir(parents=True)
    for image_id in image_ids:
        name = f"images/train2014/COCO_train2014_{image_id:012d}.jpg"
        (folder / name).write_bytes((source / name).read_bytes())
    return image_ids


def test_a_few_photographs_are_learnt_by_heart(local_ray: None, shared_data: Path, tmp_path: Path) -> None:
    image_ids = few_photographs(shared_data / "data/refer_seg", tmp_path / "photographs")
    assert len(image_ids) == NUM_PHOTOGRAPHS
    recipe = load_recipe(
        "demo-real",
        [
            f"workspace={tmp_path / 'workspace'}",
            f"curation.root={tmp_path / 'photographs'}",
            "curation.sources=[{kind: refcoco, dataset: refcoco, relabel_splits: {testA: train, testB: train}}]",
            "training.num_steps=400",
            "training.batch_rows=8",
            "evaluation.benchmarks=[{kind: referring, splits: [train]}]",
        ],
    )
    result = run_recipe(recipe, PlainDisplay(io.StringIO()))
    outputs = {outcome.name: Objects.open(outcome.url) for outcome in result.outcomes}
    corpus = Corpus.open(outputs["curate"])
    assert len({sample.image_id for sample in corpus.samples()}) == NUM_PHOTOGRAPHS
    assert not list(corpus.rejects())
    scores = {
        (score["metric"], score["variant"]): score["value"]
        for score in json.loads(outputs["evaluate"].read("scores.json"))
        if score["family"] is None and score["split"] is None and score["task"] is None
    }
    assert scores["cIoU", "standard"] >= 0.8, scores
    assert scores["cIoU", "untrained"] < 0.3
