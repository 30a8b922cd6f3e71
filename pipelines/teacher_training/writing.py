"""A trained teacher as a folder in transformers' format, with recipe, figures and card."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from pipelines.teacher_training.card import TeacherFigures, write_card
from pipelines.teacher_training.config import TeacherTrainingConfig
from pipelines.teacher_training.loop import TrainedTeacher

__all__ = ["CARD_FILE", "METRICS_FILE", "RECIPE_FILE", "figures_of", "read_figures", "write_teacher"]

CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"
RECIPE_FILE = "recipe.json"

_LIBRARIES = ("torch", "transformers")


def figures_of(config: TeacherTrainingConfig, trained: TrainedTeacher) -> TeacherFigures:
    """What there is to tell of a training."""
    return TeacherFigures(
        name=config.name,
        kind=config.network.kind,
        num_parameters=sum(parameter.numel() for parameter in trained.module.parameters()),
        num_channels=config.network.sizes.num_channels,
        num_steps=config.num_steps,
        num_pictures=trained.num_pictures,
        num_held_out=config.num_held_out,
        input_px={source.name: source.input_px for source in config.sources},
        scores=trained.scores,
        untrained=trained.untrained,
        losses=trained.losses,
        versions={library: version(library) for library in _LIBRARIES},
    )


def read_figures(folder: Path) -> TeacherFigures:
    """The figures that `write_teacher` left in a folder."""
    return TypeAdapter(TeacherFigures).validate_json((folder / METRICS_FILE).read_text(encoding="utf-8"))


def write_teacher(folder: Path, config: TeacherTrainingConfig, trained: TrainedTeacher) -> TeacherFigures:
    """Writes `config.json`, `model.safetensors`, `recipe.json`, `metrics.json` and `README.md`.

    Args:
        folder: an empty folder.
        config: what was trained.
        trained: what came of it.

    Returns:
        The figures that were written.
    """
    figures = figures_of(config, trained)
    trained.module.save_pretrained(folder)
    (folder / RECIPE_FILE).write_text(_json(config.model_dump(mode="json")), encoding="utf-8")
    (folder / METRICS_FILE).write_text(_json(figures.as_json()), encoding="utf-8")
    (folder / CARD_FILE).write_text(write_card(figures), encoding="utf-8")
    return figures


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
