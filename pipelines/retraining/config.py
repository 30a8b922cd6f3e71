"""How a student is trained again and when it takes the champion's place, as a recipe."""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.evaluation.records import lower_is_better
from storage.errors import UsageError
from storage.recipe import RecipeModel

__all__ = ["ComparedScore", "GuardedScore", "MlflowRegistryConfig", "RetrainConfig"]

_NOT_CHANGED = ("init", "pixel_tokens")


class ComparedScore(RecipeModel):
    """A score by which champion and challenger are compared."""

    benchmark: str = "referring"
    """Name of the benchmark in `evaluation`."""
    metric: str = "cIoU"
    """Name of the score."""
    variant: Literal["standard", "released"] = "standard"
    """Rules by which answers are judged."""

    @field_validator("metric")
    @classmethod
    def _more_is_better(cls, metric: str) -> str:
        if lower_is_better(metric):
            raise ValueError(f"metric: expected a score of which more is better, got the loss {metric!r}")
        return metric

    def __str__(self) -> str:
        rules = "" if self.variant == "standard" else f" ({self.variant})"
        return f"{self.benchmark} {self.metric}{rules}"


class GuardedScore(ComparedScore):
    """A score that must not fall."""

    max_fall: float = Field(ge=0)
    """Fall that is allowed, in units of the score: 0.01 is a percentage point of a score of 0 to 1."""
    refused_if: Literal["possible", "shown"] = "possible"
    """What a challenger is refused by. `possible`: the interval of the difference reaches below the fall that is
    allowed, so that a larger one can't be excluded; give more than the noise of the score. `shown`: the whole interval
    lies below it."""


class MlflowRegistryConfig(RecipeModel):
    """A registered model of MLflow that mirrors the registry."""

    tracking_uri: str | None = None
    """Server or store; null: what MLFLOW_TRACKING_URI says. Credentials come from the environment."""
    model: str | None = Field(default=None, min_length=1)
    """Name of the registered model; null: the registry's."""

    def uri(self) -> str:
        """Where MLflow is.

        Raises:
            UsageError: nothing says it, or the package isn't installed.
        """
        if find_spec("mlflow") is None:
            raise UsageError("MLflow needs the package mlflow, which isn't installed; pip install 'sailloft[mlflow]'")
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise UsageError("MLflow: expected a server or store, found none; set MLFLOW_TRACKING_URI or name it")
        return uri


class RetrainConfig(RecipeModel):
    """Champion and challenger of a recipe; changes no output of a stage, but `training`."""

    registry: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)
    """Name of the registry below `<workspace>/registry`; null: the recipe's name."""
    decides: ComparedScore = ComparedScore()
    """Score that a challenger has to be better in, beyond noise, to take the champion's place."""
    min_gain: float = Field(default=0.0, ge=0)
    """Gain in it that the lower end of the interval has to exceed, in units of the score."""
    guarded: tuple[GuardedScore, ...] = ()
    """Scores that must not fall."""
    training: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Settings of `training` that differ where training starts from the champion, such as `num_steps` and
    `learning_rate`."""
    lock_expires_s: float = Field(default=60.0, gt=0)
    """Seconds without a sign of life after which a retrain counts as dead, and another one may begin."""
    mlflow: MlflowRegistryConfig | None = None
    """Mirrors versions and aliases; null: they stand in the workspace alone, which stays the truth."""

    @property
    def compared(self) -> tuple[ComparedScore, ...]:
        """All scores that are looked at: the one that decides, then those that are guarded."""
        return (self.decides, *self.guarded)

    def check_benchmarks(self, known: Collection[str]) -> None:
        """Looks whether there are the benchmarks whose scores are compared.

        Args:
            known: names of those that are asked.

        Raises:
            UsageError: one isn't among them.
        """
        wrong = sorted({score.benchmark for score in self.compared} - set(known))
        if wrong:
            raise UsageError(
                f"retrain: expected scores of {', '.join(known)}, as evaluation asks, got {', '.join(wrong)}; correct "
                "decides and guarded, or add the benchmark to evaluation.benchmarks"
            )

    @field_validator("training")
    @classmethod
    def _starts_from_the_champion(cls, changes: dict[str, Any]) -> dict[str, Any]:
        wrong = [name for name in _NOT_CHANGED if name in changes]
        if wrong:
            raise ValueError(f"training: expected no {' or '.join(wrong)}, since training goes on from the champion")
        return changes

    @model_validator(mode="after")
    def _guarded_once(self) -> RetrainConfig:
        names = [str(score) for score in self.guarded]
        if len(set(names)) < len(names):
            raise ValueError(f"guarded: expected each score once, got {', '.join(names)}")
        return self
