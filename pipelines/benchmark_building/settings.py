"""The settings of the builder."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipelines.benchmark_building.captioners.registry import CaptionerConfig
from pipelines.benchmark_building.captioners.template import TemplateCaptionerConfig
from pipelines.benchmark_building.records import BenchmarkTask
from storage.recipe import RecipeModel

__all__ = ["BuildConfig"]


class BuildConfig(RecipeModel):
    """From a corpus to drafts that wait for their review."""

    num_per_task: int = Field(default=500, ge=1)
    """Drafts of each task that pass the checks."""
    tasks: tuple[BenchmarkTask, ...] = tuple(BenchmarkTask)
    """Tasks of the benchmark."""
    families: tuple[str, ...] | None = None
    """Families of the corpus whose regions are used; null: all."""
    splits: tuple[str, ...] | None = None
    """Splits that pictures are taken from, in the sources' own words; null: all."""
    min_area_share: float = Field(default=0.005, ge=0, le=1)
    """Smallest region, as a share of its picture."""
    max_area_share: float = Field(default=0.5, gt=0, le=1)
    """Largest region, as a share of its picture."""
    min_side_px: int = Field(default=16, ge=1)
    """Shortest side of a region's box, in px."""
    max_items_per_picture: int = Field(default=3, ge=1)
    """Drafts that pass on one picture."""
    max_pictures: int = Field(default=5_000, ge=1)
    """Pictures that are looked at: those with the smallest hashes."""
    min_caption_words: int = Field(default=12, ge=1)
    """A detailed caption has at least as many words."""
    max_caption_words: int = Field(default=150, ge=1)
    """And at most as many."""
    num_options: int = Field(default=4, ge=2, le=8)
    """Options of a multiple choice."""
    seed: int = Field(default=0, ge=0)
    """Of the order of pictures and regions."""
    captioner: CaptionerConfig = TemplateCaptionerConfig()
    """Who writes the drafts."""
    num_threads: int = Field(default=4, ge=1, json_schema_extra={"hashed": False})
    """Drafts that are asked for at a time, where the captioner can answer several."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_area_share > self.max_area_share:
            raise ValueError(
                f"min_area_share: expected at most max_area_share, {self.max_area_share}, got {self.min_area_share}"
            )
        if self.min_caption_words > self.max_caption_words:
            raise ValueError(
                f"min_caption_words: expected at most max_caption_words, {self.max_caption_words}, "
                f"got {self.min_caption_words}"
            )
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: expected each of {', '.join(BenchmarkTask)} once at most, and one at least")
        return self
