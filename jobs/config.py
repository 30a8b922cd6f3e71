"""The recipe: one tree that says what the whole flow does. Its leaves live beside the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from jobs.kubernetes.config import KubernetesConfig
from jobs.loading import read_recipe_tree, validate_recipe
from jobs.session import ClusterConfig
from model.config import StudentConfig
from pipelines.curation.config import CurationConfig
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.costs import CostsConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.report.inputs import Target
from pipelines.retraining.config import RetrainConfig
from pipelines.scenes.config import ScenesConfig
from pipelines.training.config import TrainingConfig
from storage.errors import UsageError
from storage.recipe import RecipeModel
from teachers.device import on_device
from teachers.registry import TeacherConfig

__all__ = ["Recipe", "load_recipe"]


class Recipe(RecipeModel):
    """What runs, from sources to report."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64, json_schema_extra={"hashed": False})
    """Short name; part of the address of the run's record."""
    workspace: str = Field(default="runs", min_length=1, json_schema_extra={"hashed": False})
    """URL below which every output lies: a local folder, `s3://bucket/prefix`, `gs://`, `az://` or `memory://`."""
    scenes: ScenesConfig | None = None
    """Synthetic source files to write first, where every source without a root lies; null: the sources exist."""
    curation: CurationConfig
    """From source files to a corpus."""
    teachers: tuple[TeacherConfig, ...] = ()
    """Teachers whose features are computed, each of another `kind`."""
    features: FeaturesConfig = FeaturesConfig.model_validate({})
    """How features are encoded and stored."""
    student: StudentConfig = StudentConfig()
    """Sizes of the student."""
    training: TrainingConfig
    """From corpus and features to a checkpoint."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """From a checkpoint to scores."""
    retrain: RetrainConfig | None = Field(default=None, json_schema_extra={"hashed": False})
    """When a student that is trained again takes the place of the one in use; null: as by default."""
    notes: tuple[str, ...] = ()
    """What a reader of the report has to know first."""
    targets: tuple[Target, ...] = ()
    """Scores that the run promises; the report says which are met."""
    costs: CostsConfig = Field(default=CostsConfig(), json_schema_extra={"hashed": False})
    """Prices and rates for forecasts."""
    cluster: ClusterConfig = Field(default=ClusterConfig(), json_schema_extra={"hashed": False})
    """Where Ray runs."""
    kubernetes: KubernetesConfig | None = Field(default=None, json_schema_extra={"hashed": False})
    """Pods, accounts and images for `sailloft schedule --kuberay`; null: the recipe says nothing of it."""

    @model_validator(mode="after")
    def _distinct_teachers(self) -> Self:
        kinds = [teacher.kind for teacher in self.teachers]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"teachers: expected each kind once, got {', '.join(kinds)}")
        return self

    @model_validator(mode="after")
    def _compares_what_is_scored(self) -> Self:
        if self.retrain is not None:
            self.retrain.check_benchmarks(self.evaluation.by_name())
        return self

    @model_validator(mode="after")
    def _teachers_on_their_device(self) -> Self:
        # The process that names features by fingerprints has no accelerator; the recipe knows what the teachers get.
        beside = self.training.teacher_mode == "online"
        device = "cuda" if (self.training.use_gpu if beside else self.features.num_gpus_per_actor) else "cpu"
        # Frozen for everybody else: from here on a resolved recipe has no `auto` dtype.
        object.__setattr__(self, "teachers", tuple(on_device(teacher, device) for teacher in self.teachers))
        return self


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, merges and validates a recipe.

    Args:
        recipe: path of a YAML file, or the name of a packaged recipe.
        overrides: items `a.b=c`, applied in order.

    Raises:
        UsageError: it can't be read, trains a teacher, or has a wrong field; the message names each one.
    """
    tree = read_recipe_tree(recipe, overrides)
    if "network" in tree and "curation" not in tree:
        raise UsageError(f"recipe {recipe}: expected a run, got one for `sailloft train-teacher {recipe} OUT`")
    return validate_recipe(Recipe, tree, recipe)
