"""The benchmarks by kind: one line each."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from pipelines.evaluation.benchmarks.captions import RegionCaptionConfig
from pipelines.evaluation.benchmarks.choices import MultipleChoiceConfig
from pipelines.evaluation.benchmarks.grounded import GroundedCaptionConfig
from pipelines.evaluation.benchmarks.perbench import PerBenchConfig
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.regions import CategoryConfig, DescriptionConfig
from pipelines.evaluation.benchmarks.text_loss import TextLossConfig
from pipelines.evaluation.benchmarks.visual_text import VisualTextReferringConfig

__all__ = ["AnyBenchmarkConfig"]

AnyBenchmarkConfig: TypeAlias = Annotated[
    ReferringConfig
    | DescriptionConfig
    | CategoryConfig
    | MultipleChoiceConfig
    | VisualTextReferringConfig
    | RegionCaptionConfig
    | GroundedCaptionConfig
    | PerBenchConfig
    | TextLossConfig,
    Field(discriminator="kind"),
]
"""The part of a recipe that describes one benchmark, told apart by `kind`."""
