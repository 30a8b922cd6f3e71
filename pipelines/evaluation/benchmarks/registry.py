"""The benchmarks by kind: one line each."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.regions import CategoryConfig, DescriptionConfig, MultipleChoiceConfig
from pipelines.evaluation.benchmarks.visual_text import VisualTextReferringConfig

__all__ = ["AnyBenchmarkConfig"]

AnyBenchmarkConfig: TypeAlias = Annotated[
    ReferringConfig | DescriptionConfig | CategoryConfig | MultipleChoiceConfig | VisualTextReferringConfig,
    Field(discriminator="kind"),
]
"""The part of a recipe that describes one benchmark, told apart by `kind`."""
