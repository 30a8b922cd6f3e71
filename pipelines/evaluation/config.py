"""The recipe of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

from pydantic import Field, model_validator

from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.registry import AnyBenchmarkConfig
from pipelines.evaluation.records import Benchmark, Score
from pipelines.evaluation.score_sheet import PublishedAs
from pipelines.evaluation.suites import SUITES, SuiteName
from storage.keys import Json, content_key
from storage.recipe import RecipeModel
from storage.schema import SCHEMA_VERSION

__all__ = ["VERSION", "EvaluationConfig", "evaluation_key", "published_as"]

VERSION = 4
"""Raised whenever the same inputs give other predictions or scores."""


class EvaluationConfig(RecipeModel):
    """Benchmarks and how they are run."""

    suite: SuiteName | None = Field(default=None, json_schema_extra={"hashed": False})
    """Published benchmarks by name, in place of `benchmarks`; `evaluation: perbench` is short for it."""
    benchmarks: tuple[AnyBenchmarkConfig, ...] = (ReferringConfig(),)
    """What the student is examined in."""
    wording: Literal["short", "varied"] = "varied"
    """The set of sentences that the student was trained on; the first of each task is asked."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Upper bound of an answer's length, in tokens."""
    questions_per_batch: int = Field(default=64, ge=1)
    """Questions given to the student at once."""
    questions_per_shard: int = Field(default=256, ge=1)
    """Questions per file of predictions: what is redone after a kill."""
    num_resamples: int = Field(default=1000, ge=1)
    """Bootstrap draws per interval."""
    interval_level: float = Field(default=0.95, gt=0, lt=1)
    """Coverage of the intervals."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""
    device: str = Field(default="cpu", json_schema_extra={"hashed": False})
    """Device of the student, such as `cpu` or `cuda`."""
    num_actors: int = Field(default=1, ge=1, json_schema_extra={"hashed": False})
    """Students that answer at the same time."""
    cpus_per_actor: float = Field(default=1.0, ge=0, json_schema_extra={"hashed": False})
    """CPUs that Ray reserves for each."""
    gpus_per_actor: float = Field(default=0.0, ge=0, json_schema_extra={"hashed": False})
    """GPUs that Ray reserves for each."""

    @model_validator(mode="before")
    @classmethod
    def _suite_by_name(cls, value: object) -> object:
        tree = {"suite": value} if isinstance(value, str) else value
        if not isinstance(tree, Mapping):
            return tree
        fields = cast("Mapping[str, object]", tree)
        suite = fields.get("suite")
        if suite is None or suite not in SUITES:  # an unknown one is told by the field's own check
            return dict(fields)
        return {**fields, "benchmarks": SUITES[suite]}

    @model_validator(mode="after")
    def _names_differ(self) -> EvaluationConfig:
        if len(self.by_name()) < len(self.benchmarks):
            names = ", ".join(benchmark.name or benchmark.kind for benchmark in self.benchmarks)
            raise ValueError(f"benchmarks: expected different names, got {names}; set `name`")
        return self

    def by_name(self) -> dict[str, AnyBenchmarkConfig]:
        """The benchmarks by the names that tables show."""
        return {benchmark.name or benchmark.kind: benchmark for benchmark in self.benchmarks}

    def built(self) -> dict[str, Benchmark]:
        """The benchmarks themselves, by their names."""
        return {name: benchmark.build() for name, benchmark in self.by_name().items()}


def evaluation_key(config: EvaluationConfig, corpus_key: str, checkpoint_key: str) -> str:
    """The address of an evaluation.

    Args:
        config: its recipe.
        corpus_key: key of the corpus' manifest.
        checkpoint_key: key of the checkpoint's manifest, or of its files' bytes where it has none.
    """
    return content_key(
        {
            "schema_version": SCHEMA_VERSION,
            "stage": "evaluate",
            "version": VERSION,
            "config": cast("Json", config.hashed_fields()),
            "inputs": {"corpus": corpus_key, "checkpoint": checkpoint_key},
        }
    )


def published_as(config: EvaluationConfig, scores: Sequence[Score]) -> PublishedAs:
    """Which published rows stand beside which of the scores."""
    benchmarks = config.by_name()
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    for score in scores:
        place = benchmarks[score.benchmark].published_as(score.metric)
        if place is not None:
            found.setdefault(score.benchmark, {})[score.metric] = place
    return found
