"""Recipes of a retrain: as it is written, going on from the newest corpus, and going on from a student."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.config import Recipe
from jobs.loading import merge, validate_recipe
from pipelines.retraining.config import RetrainConfig
from pipelines.training.config import TrainingConfig, training_key
from storage.keys import content_key
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.registry import Registry
from storage.retirement import successor_of

__all__ = ["from_corpus", "from_student", "retrain_config", "retrain_key"]

_SOME_STUDENT = "champion"
"""In the place of a URL, where it doesn't matter which student training starts from."""


def retrain_config(recipe: Recipe) -> RetrainConfig:
    """How a recipe's students are compared; raises UsageError if the evaluation lacks what is compared."""
    config = recipe.retrain or RetrainConfig()
    config.check_benchmarks(recipe.evaluation.by_name())
    return config


def from_corpus(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe whose curation goes on from the corpus of the newest version, unless it names a parent itself.

    What that corpus knows isn't worked on again. If it was retired, its successor stands in. If it is gone, or nothing
    is registered, all is read.
    """
    state = registry.state()
    if state is None or recipe.curation.parent is not None:
        return recipe
    corpus = registry.version(state.num_versions).corpora[-1]
    objects = Objects.open(corpus.url)
    successor = successor_of(objects)
    manifest = read_manifest(successor or objects)
    if manifest is None or (successor is None and manifest.key != corpus.key):
        return recipe
    parent = corpus.url if successor is None else successor.url
    return recipe.model_copy(update={"curation": recipe.curation.model_copy(update={"parent": parent})})


def from_student(recipe: Recipe, checkpoint: str) -> Recipe:
    """The recipe whose training starts from a student, with the settings that `retrain.training` has for that.

    Args:
        recipe: as it is written.
        checkpoint: URL of the student.

    Raises:
        UsageError: a setting of `retrain.training` is wrong.
    """
    changes: dict[str, object] = {**retrain_config(recipe).training, "init": checkpoint, "pixel_tokens": "kept"}
    tree = merge(recipe.training.model_dump(mode="json"), changes)
    training = validate_recipe(TrainingConfig, tree, f"{recipe.name}, retrain.training")
    return recipe.model_copy(update={"training": training})


def retrain_key(recipe: Recipe, inputs: Mapping[str, str]) -> str:
    """Content key of what a retrain is of: corpus, features and recipe, whichever student it starts from.

    Args:
        recipe: as it is written.
        inputs: content keys of what training reads, by name.
    """
    warm = from_student(recipe, _SOME_STUDENT)
    return content_key(
        {
            "stage": "retrain",
            "first": training_key(recipe.student, recipe.training, inputs),
            "later": training_key(warm.student, warm.training, inputs),
        }
    )
