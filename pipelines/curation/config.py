"""What is curated, and how much of it may be bad."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipelines.curation.leakage import LeakageConfig
from pipelines.curation.registry import SourceConfig, check_kind
from pipelines.curation.steps.filters import FilterConfig
from pipelines.curation.steps.images import MAX_IMAGE_PX
from storage.recipe import RecipeModel

__all__ = ["CurationConfig"]


class CurationConfig(RecipeModel):
    """Sources that become one corpus."""

    root: str | None = Field(default=None, json_schema_extra={"hashed": False})
    """URL of the folder that every source without a root of its own is relative to."""
    parent: str | None = Field(default=None, json_schema_extra={"hashed": False})
    """URL of a corpus that is gone on from: its rows of source files that are as they were stay, work is done for the
    others alone. `latest`: of the corpora in the workspace that the same rules made, the one of which most rows can
    stay. Its key is hashed, not its place, nor how it was found. Null: all is read."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """The sources; each names its family by `kind`."""
    max_reject_share: float = Field(default=0.5, ge=0, le=1, json_schema_extra={"hashed": False})
    """Share of rejects among the records of one source file beyond which no corpus is published."""
    max_image_px: int = Field(default=50_000_000, ge=1, le=MAX_IMAGE_PX)
    """Largest height x width of an image, in px; larger ones are rejected before they are decoded."""
    filters: FilterConfig = FilterConfig()
    """Quality rules for training samples."""
    leakage: LeakageConfig = LeakageConfig()
    """How training is kept apart from evaluation."""
    images_per_shard: int = Field(default=512, ge=1)
    """Images of one shard: the unit of work, and of what an interrupted run keeps."""
    num_threads: int = Field(default=16, ge=1, le=256, json_schema_extra={"hashed": False})
    """Files of pixels that a task reads at once while they are hashed."""

    @property
    def root_of_lists(self) -> str:
        """URL of the folder with lists of evaluation ids.

        Raises:
            UsageError: neither the curation nor a source names one.
        """
        return self.root or self.sources[0].root_url

    def with_roots(self) -> CurationConfig:
        """The same configuration, with a root in every source.

        Raises:
            UsageError: a source has none, and neither has the curation.
        """
        located = tuple(source.model_copy(update={"root": source.root or self.root}) for source in self.sources)
        for source in located:
            _ = source.root_url
        return self.model_copy(update={"sources": located})

    @field_validator("sources", mode="before")
    @classmethod
    def _known_kinds(cls, value: object) -> object:
        for source in value if isinstance(value, list | tuple) else ():
            check_kind(source)
        return value
