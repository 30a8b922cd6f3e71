"""`sailloft train-teacher`: a small teacher of a recipe, trained on scenes and written as a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from jobs.display import Display
from jobs.loading import read_recipe_tree, validate_recipe
from jobs.new_folder import make_folder, target_folder
from jobs.told import Told
from pipelines.teacher_training import TeacherTrainingConfig, train_teacher
from pipelines.teacher_training.card import TeacherFigures
from pipelines.teacher_training.writing import write_teacher
from storage.errors import UsageError
from storage.keys import Json

__all__ = ["load_teacher_recipe", "make_teacher"]

_STAGE = "train-teacher"


def load_teacher_recipe(recipe: str, overrides: Sequence[str] = ()) -> TeacherTrainingConfig:
    """Reads, merges and validates the recipe of a teacher.

    Args:
        recipe: path of a YAML file, or the name of a packaged recipe such as `tiny-sam2`.
        overrides: items `a.b=c`, applied in order.

    Raises:
        UsageError: it can't be read, is the recipe of a run, or has a wrong field.
    """
    tree = read_recipe_tree(recipe, overrides)
    if "curation" in tree:
        raise UsageError(f"recipe {recipe}: expected one that trains a teacher, got one for `sailloft run {recipe}`")
    return validate_recipe(TeacherTrainingConfig, tree, recipe)


def make_teacher(
    recipe: str,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    device: str = "cpu",
    display: Display,
    dry_run: bool = False,
) -> Told:
    """Trains the teacher of a recipe and writes its folder, which comes to be whole or not at all.

    Args:
        recipe: path of a YAML file, or the name of a packaged recipe.
        output: folder to make.
        overrides: items `a.b=c`, applied in order.
        device: torch device, such as `cuda`.
        display: shows how far it is.
        dry_run: only show the resolved recipe.

    Returns:
        What was made and how good it is, and the next command.

    Raises:
        UsageError: a recipe or path that can't be used.
        DataError: the loss is no longer finite.
        InfrastructureError: the output can't be written.
    """
    target = target_folder(output)
    config = load_teacher_recipe(recipe, overrides)
    if dry_run:
        tree = config.model_dump(mode="json")
        text = yaml.safe_dump(tree, sort_keys=False, width=100)
        return Told(f"{text}\n{target} would be made", {"dry_run": True, "recipe": tree, "folder": str(target)})
    trained = train_teacher(config, display.stage(_STAGE), device)
    with make_folder(target) as folder:
        figures = write_teacher(folder, config, trained)
    display.note(_STAGE, f"wrote {output}")
    return _summary(figures, output)


def _summary(figures: TeacherFigures, output: Path) -> Told:
    lines = [f"made      {figures.name}, {figures.num_parameters:,} parameters, in {output}"]
    for source, scores in figures.scores.items():
        lines.append(f"{source:<8}  " + "  ".join(f"{name}={value:.3f}" for name, value in scores.items()))
    lines.append(f"next      in a recipe: {{kind: {figures.kind}, checkpoint: {shlex.quote(str(output))}}}")
    data: dict[str, Json] = {
        "folder": str(output),
        "name": figures.name,
        "kind": figures.kind,
        "num_parameters": figures.num_parameters,
        "scores": {source: dict(scores) for source, scores in figures.scores.items()},
    }
    return Told("\n".join(lines), data)
