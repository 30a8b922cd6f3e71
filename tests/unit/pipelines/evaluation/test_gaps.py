"""Benchmarks that miss samples: each is named with what is missing and what is there in its place."""

from __future__ import annotations

import pytest

from pipelines.evaluation.benchmarks.choices import MultipleChoiceConfig
from pipelines.evaluation.benchmarks.grounded import GroundedCaptionConfig
from pipelines.evaluation.benchmarks.perbench import PerBenchConfig
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.registry import AnyBenchmarkConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.gaps import find_gaps
from pipelines.evaluation.pipeline import plan_questions
from pipelines.evaluation.records import Gap
from pipelines.evaluation.suites import SUITES
from storage.schema import Task, Turn


@pytest.fixture
def gaps_of(scenes, save_corpus, wording):
    def find(*benchmarks: AnyBenchmarkConfig) -> list[Gap]:
        corpus, config = save_corpus(scenes), EvaluationConfig(benchmarks=benchmarks)
        return find_gaps(corpus, config, plan_questions(corpus, config, wording))

    return find


@pytest.mark.parametrize(
    ("benchmark", "reason"),
    [
        (
            ReferringConfig(families=("refcoco",)),
            "no sample of family refcoco; the corpus has bench, none, talk, toy",
        ),
        (
            ReferringConfig(families=("toy",), splits=("testA", "testB")),
            "no sample of split testA, testB; there are val",
        ),
        (
            GroundedCaptionConfig(families=("talk",)),
            "no sample of task grounded_caption; there are category, description",
        ),
    ],
)
def test_a_benchmark_without_a_question_is_named_with_the_reason(gaps_of, benchmark, reason: str) -> None:
    named = benchmark.model_copy(update={"name": "mine"})
    assert gaps_of(ReferringConfig(), named) == [Gap(benchmark="mine", whole=True, reason=reason)]


def test_samples_that_cannot_be_asked_about_are_counted(scenes, gaps_of) -> None:
    scenes[0].add(Task.MULTIPLE_CHOICE, Turn(text="Which?", answer="a", options=("a", "b")), ["red"], family="loose")
    (gap,) = gaps_of(MultipleChoiceConfig(families=("loose",)))
    assert gap.reason.startswith("1 samples of multiple_choice, none of which can be asked about")


def test_parts_that_are_missing_are_named(gaps_of) -> None:
    config = PerBenchConfig(families=("bench", "toy"), splits=("val", "test"))
    (gap,) = gaps_of(config)
    assert not gap.whole
    assert gap.reason == "no question of family toy, split test, task description"


def test_what_has_all_its_samples_is_not_mentioned(gaps_of) -> None:
    assert gaps_of(ReferringConfig(), MultipleChoiceConfig(splits=("val",))) == []


@pytest.mark.parametrize("benchmark", SUITES["published"], ids=lambda benchmark: benchmark.name)
def test_every_published_benchmark_says_what_it_asks_about(gaps_of, benchmark: AnyBenchmarkConfig) -> None:
    (gap,) = gaps_of(benchmark)
    assert gap.whole
    assert "no sample of family" in gap.reason
