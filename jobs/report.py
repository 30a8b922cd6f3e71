"""Gathers what the report shows from the outputs of a run."""

from __future__ import annotations

from typing import cast

from jobs.config import Recipe
from jobs.flow import Outputs, Timings
from pipelines.evaluation.inference import read_predictions
from pipelines.report import ReportInputs
from pipelines.training.notes import SPEED, VALIDATION, read_metrics, read_notes, training_logs
from storage.corpus import Corpus
from storage.errors import InfrastructureError
from storage.features import FeatureStore
from storage.keys import Json
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects

__all__ = ["report_inputs", "shown_recipe"]


def shown_recipe(recipe: Recipe) -> dict[str, Json]:
    """The resolved recipe as the report shows it: without what changes no output, but with its name."""
    return {"name": recipe.name, **cast("dict[str, Json]", recipe.hashed_fields())}


def report_inputs(recipe: Recipe, outputs: Outputs, timings: Timings) -> ReportInputs:
    """Opens every output of a run for the report.

    Args:
        recipe: what was run.
        outputs: all of them, by the stage's name.
        timings: where their seconds are kept.
    """
    manifests = [(name, _manifest(located.objects)) for name, located in outputs.items()]
    evaluation = outputs["evaluate"].objects
    logs = training_logs(Objects.open(recipe.workspace), outputs["train"].key)
    return ReportInputs(
        title=f"Sailloft: {recipe.name}",
        recipe=shown_recipe(recipe),
        corpus=Corpus.open(outputs["curate"].objects),
        # Where teachers ran beside the student, no stage has made their features.
        features=[
            (teacher.kind, FeatureStore.open(outputs[f"teach {teacher.kind}"].readable))
            for teacher in recipe.teachers
            if f"teach {teacher.kind}" in outputs
        ],
        evaluations=[_manifest(evaluation)],
        predictions=read_predictions(evaluation),
        metrics=read_metrics(outputs["train"].objects),
        validation=read_notes(logs, VALIDATION),
        speed=read_notes(logs, SPEED),
        stage_seconds={name: timings.read(located.key)[0] for name, located in outputs.items()},
        notes=recipe.notes,
        manifests=manifests,
        targets=recipe.targets,
    )


def _manifest(objects: Objects) -> Manifest:
    manifest = read_manifest(objects)
    if manifest is None:
        raise InfrastructureError(f"{objects.url}: the output is gone; run the same command again")
    return manifest
