"""The stage on a real local Ray: answers, resume, and nothing to do the second time."""

from __future__ import annotations

import sys

import pytest

from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.regions import DescriptionConfig
from pipelines.evaluation.config import EvaluationConfig, evaluation_key
from pipelines.evaluation.inference import Student
from pipelines.evaluation.pipeline import evaluate
from storage.errors import DataError
from storage.manifest import verify_manifest
from storage.objects import Objects

# Ray Data warns of its own deprecated settings when it copies its context to an actor.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

CONFIG = EvaluationConfig(
    benchmarks=(ReferringConfig(), DescriptionConfig()),
    questions_per_shard=3,
    questions_per_batch=2,
    num_actors=2,
    cpus_per_actor=0.5,
)


class _Log:
    def __init__(self) -> None:
        self.done: list[int] = []

    def update(self, done: int, total: int, **facts: object) -> None:
        self.done.append(done)


@pytest.fixture
def load(oracle):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[type(oracle).__module__])
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    student = oracle

    def load_oracle(checkpoint: Objects, device: str, untrained: bool) -> Student:
        assert device == "cpu"
        return student

    return load_oracle


@pytest.fixture
def checkpoint(tmp_path) -> Objects:
    objects = Objects.open(str(tmp_path / "checkpoint"))
    objects.create("config.json", b"{}")
    return objects


@pytest.mark.ray
def test_killed_run_continues_and_ends_with_the_same_bytes(
    local_ray, scenes, save_corpus, checkpoint, load, tmp_path
) -> None:
    corpus = save_corpus(scenes)
    whole, resumed = (Objects.open(str(tmp_path / name)) for name in ("whole", "resumed"))
    log = _Log()
    manifest = evaluate(corpus, checkpoint, CONFIG, whole, log, load=load)
    assert log.done[0] == 0
    assert log.done[-1] == manifest.facts["num_questions"] == 19
    assert manifest.key == evaluation_key(CONFIG, corpus.manifest.key, manifest.inputs["checkpoint"])
    verify_manifest(whole)

    first = "predictions/trained-00000.parquet"
    resumed.create(first, whole.read(first))
    log = _Log()
    again = evaluate(corpus, checkpoint, CONFIG, resumed, log, load=load)
    assert log.done[0] == 3
    assert again == manifest

    def refuse(checkpoint: Objects, device: str, untrained: bool) -> Student:
        raise AssertionError("asked again")

    assert evaluate(corpus, checkpoint, CONFIG, whole, load=refuse) == manifest


def test_memory_store_is_examined_in_this_process(scenes, save_corpus, checkpoint, load, tmp_path) -> None:
    log = _Log()
    output = Objects.open(f"memory://evaluation-{tmp_path.name}")
    manifest = evaluate(save_corpus(scenes), checkpoint, CONFIG, output, log, load=load)
    verify_manifest(output)
    assert log.done[-1] == manifest.facts["num_questions"] == 19


def test_benchmarks_without_a_sample_are_an_error(scenes, save_corpus, checkpoint, tmp_path) -> None:
    config = EvaluationConfig(benchmarks=(ReferringConfig(splits=("testZ",)),))
    with pytest.raises(DataError, match="no sample of this corpus fits the benchmarks referring"):
        evaluate(save_corpus(scenes), checkpoint, config, Objects.open(str(tmp_path / "out")))
