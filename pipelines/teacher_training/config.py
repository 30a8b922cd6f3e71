"""What the training of a small teacher is made of."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipelines.teacher_training.data import SceneSource
from pipelines.teacher_training.mask2former import Mask2FormerNetwork
from pipelines.teacher_training.sam2 import Sam2Network
from storage.recipe import RecipeModel

__all__ = ["TeacherTrainingConfig"]


class TeacherTrainingConfig(RecipeModel):
    """The root of a recipe that trains a teacher on scenes."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)
    """Name of the teacher."""
    network: Annotated[Mask2FormerNetwork | Sam2Network, Field(discriminator="kind")]
    """What is trained."""
    sources: tuple[SceneSource, ...] = Field(min_length=1)
    """Scenes that it is trained on and scored on; each step takes one of them."""
    num_steps: int = Field(ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of AdamW's learning rate; linear warm-up, then cosine to 0."""
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's weight decay of matrices and kernels; biases, norms and embeddings have none."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    num_held_out: int = Field(default=300, ge=1)
    """Scenes of each source for the figures; training never sees them."""
    seed: int = Field(default=0, ge=0)
    """Seed of sources, prompts and points; scenes and initial weights have their own."""
    num_threads: int = Field(default=1, ge=1)
    """Threads of torch on the CPU; another number sums in another order and gives other bits."""

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: expected each name once, got {', '.join(names)}")
        if all(source.from_step for source in self.sources):
            raise ValueError("sources: expected one with from_step 0, got none; the first step needs one")
        return self
