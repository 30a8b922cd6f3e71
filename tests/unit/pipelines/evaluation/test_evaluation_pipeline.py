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
from storage.schema import Task, Turn

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


def test_a_benchmark_of_the_recipe_that_finds_nothing_is_told(
    scenes, save_corpus, checkpoint, load, tmp_path, caplog
) -> None:
    asked = ReferringConfig(name="elsewhere", families=("refcoco",))
    config = CONFIG.model_copy(update={"benchmarks": (*CONFIG.benchmarks, asked)})
    output = Objects.open(f"memory://evaluation-{tmp_path.name}-gap")
    manifest = evaluate(save_corpus(scenes), checkpoint, config, output, load=load)
    reason = "no sample of family refcoco; the corpus has bench, none, talk, toy"
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", f"benchmark elsewhere: {reason}; it gets no score")
    ]
    assert manifest.facts["gaps"] == [{"benchmark": "elsewhere", "whole": True, "reason": reason}]
    for name in ("scores.txt", "scores.md", "scores.csv"):
        assert reason in output.read(name).decode()


def test_a_suite_takes_what_there_is_without_a_warning(scenes, save_corpus, checkpoint, load, tmp_path, caplog) -> None:
    scenes[0].add(Task.REFERRING, Turn(text="the red square", targets=((0,),)), ["red"], family="refcoco")
    output = Objects.open(f"memory://evaluation-{tmp_path.name}-suite")
    evaluate(save_corpus(scenes), checkpoint, EvaluationConfig.model_validate("refcoco"), output, load=load)
    assert not caplog.records
    assert "no score: RefCOCO testB: no sample of split testB; there are val" in output.read("scores.txt").decode()


def test_benchmarks_without_a_sample_are_an_error(scenes, save_corpus, checkpoint, tmp_path) -> None:
    config = EvaluationConfig(benchmarks=(ReferringConfig(splits=("testZ",)),))
    with pytest.raises(
        DataError,
        match=r"got none \(referring: no sample of split testZ; there are val\); correct `evaluation.benchmarks`",
    ):
        evaluate(save_corpus(scenes), checkpoint, config, Objects.open(str(tmp_path / "out")))
