"""The stages of a recipe, from sources to scores: where each output lies and how it is made."""

from __future__ import annotations

import json

from jobs.config import Recipe
from jobs.flow import Located, Outputs, Stage, Timings
from jobs.report import report_inputs, shown_recipe
from pipelines.calibration.steps import calibration_key, codec_for, is_calibrated
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curation_key
from pipelines.distillation.forecast import ImageCounts, forecast_teaching
from pipelines.distillation.plan import TeachPlan, coverage_key, coverage_path, feature_fingerprint, store_key
from pipelines.evaluation.config import evaluation_key
from pipelines.progress import Progress
from pipelines.report import build_report, report_key
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.generate import scenes_key
from pipelines.training.config import training_key
from storage.codecs import Codec
from storage.corpus import Corpus
from storage.errors import UsageError
from storage.objects import Objects
from teachers.registry import TeacherCard, TeacherConfig, teacher_card

__all__ = ["COMMANDS", "FORECASTS", "plan_stages", "teach_name"]

FORECASTS = "runs/forecasts"
"""Prefix, below the workspace, of what each run of `teach` expected before it began."""

COMMANDS = ("scenes", "curate", "teach", "train", "evaluate", "report")
"""Verbs of the command line in the order of the flow."""


def plan_stages(recipe: Recipe, timings: Timings, until: str | None = None) -> list[Stage]:
    """The stages of a recipe in order.

    Args:
        recipe: what to run.
        timings: where seconds are kept, which the report shows.
        until: the last command of interest, such as `teach`; None: all.

    Raises:
        UsageError: a source has no root, and the recipe no scenes.
    """
    workspace = Objects.open(recipe.workspace)
    if recipe.scenes is None:
        recipe.curation.with_roots()
    stages: list[Stage] = []
    if recipe.scenes is not None:
        stages.append(_scenes(workspace, recipe.scenes))
    stages.append(_curate(workspace, recipe))
    for teacher in recipe.teachers:
        if _needs_calibration(recipe):
            stages.append(_calibrate(workspace, recipe, teacher))
        stages.append(_teach(workspace, recipe, teacher))
    stages.append(_train(workspace, recipe))
    stages.append(_evaluate(workspace, recipe))
    stages.append(_report(workspace, recipe, timings))
    last = len(COMMANDS) if until is None else COMMANDS.index(until)
    return [stage for stage in stages if COMMANDS.index(stage.command) <= last]


def _scenes(workspace: Objects, config: ScenesConfig) -> Stage:
    key = scenes_key(config)
    located = Located(key, workspace.child(f"scenes/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.scenes.pipeline import generate

        generate(config, target.objects, progress)

    return Stage("scenes", "scenes", (), lambda outputs, progress: located, run)


def _curate(workspace: Objects, recipe: Recipe) -> Stage:
    config = recipe.curation
    # Scenes have a content key of their own. A folder of somebody else's is read and hashed every time.
    own_scenes = recipe.scenes is not None and not config.root
    hashed = not own_scenes or any(source.root or source.image_root for source in config.sources)

    def inputs(outputs: Outputs) -> dict[str, str] | None:
        return None if hashed else {"scenes": outputs["scenes"].key}

    def rooted(outputs: Outputs) -> CurationConfig:
        return config.model_copy(update={"root": outputs["scenes"].objects.url}) if own_scenes else config

    def locate(outputs: Outputs, progress: Progress | None) -> Located | None:
        if hashed and progress is None:
            return None
        if progress is not None and hashed:
            progress.update(0, 0, unit="reading the sources")
        key = curation_key(rooted(outputs), inputs(outputs))
        return Located(key, workspace.child(f"curate/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.curation.pipeline import curate

        curate(rooted(outputs), target.objects, progress, inputs(outputs))

    return Stage("curate", "curate", ("scenes",) if own_scenes else (), locate, run)


def _needs_calibration(recipe: Recipe) -> bool:
    return is_calibrated(recipe.features) and recipe.features.calibration is None


def _calibrate(workspace: Objects, recipe: Recipe, teacher: TeacherConfig) -> Stage:
    def locate(outputs: Outputs, progress: Progress | None) -> Located:
        key = calibration_key(_feature_fingerprint(recipe, teacher), recipe.features)
        return Located(key, workspace.child(f"calibrate/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.calibration.pipeline import calibrate

        corpus = Corpus.open(outputs["curate"].objects)
        fingerprint = _feature_fingerprint(recipe, teacher)
        calibrate(corpus, teacher, recipe.features, target.objects, fingerprint, progress)

    return Stage(f"calibrate {teacher.kind}", "teach", ("curate",), locate, run)


def _teach(workspace: Objects, recipe: Recipe, teacher: TeacherConfig) -> Stage:
    calibrated = f"calibrate {teacher.kind}" if _needs_calibration(recipe) else None

    def codec(outputs: Outputs) -> Codec:
        return codec_for(recipe.features, outputs[calibrated].objects if calibrated else None)

    def locate(outputs: Outputs, progress: Progress | None) -> Located | None:
        if calibrated and not outputs[calibrated].complete:
            return None
        store_address = store_key(_feature_fingerprint(recipe, teacher), codec(outputs).encoding)
        store = workspace.child(f"features/{store_address}")
        key = coverage_key(store_address, outputs["curate"].key, recipe.features)
        return Located(key, store.child(coverage_path(key)), store)

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.distillation.pipeline import teach

        corpus = Corpus.open(outputs["curate"].objects)

        def note(images: ImageCounts, plan: TeachPlan) -> None:
            num_channels = _card(teacher).num_channels
            forecast = forecast_teaching(teacher.kind, images, plan, num_channels, recipe.features, recipe.costs)
            workspace.put(f"{FORECASTS}/{target.key}.json", json.dumps(forecast.to_json(), indent=1).encode())

        teach(corpus, teacher, recipe.features, codec(outputs), target.readable, progress, note)

    return Stage(teach_name(teacher), "teach", ("curate", *([calibrated] if calibrated else [])), locate, run)


def _feature_fingerprint(recipe: Recipe, teacher: TeacherConfig) -> str:
    return feature_fingerprint(_card(teacher).fingerprint, recipe.features, teacher.student_source)


def _card(teacher: TeacherConfig) -> TeacherCard:
    try:
        return teacher_card(teacher)
    except OSError as error:
        raise UsageError(
            f"teacher {teacher.kind}: no checkpoint {teacher.checkpoint!r} ({error}); give the folder of one in "
            "transformers' format, or null for a small random one"
        ) from error


def _train(workspace: Objects, recipe: Recipe) -> Stage:
    def locate(outputs: Outputs, progress: Progress | None) -> Located:
        key = training_key(recipe.student, recipe.training, training_inputs(recipe, outputs))
        return Located(key, workspace.child(f"train/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.training.pipeline import train

        train(
            Corpus.open(outputs["curate"].objects),
            {teacher.kind: outputs[teach_name(teacher)].readable.url for teacher in recipe.teachers},
            recipe.student,
            recipe.training,
            target.objects,
            progress,
            training_inputs(recipe, outputs),
        )

    def complete(outputs: Outputs, target: Located) -> bool:
        """A run that was killed right behind its checkpoint has states to clear yet."""
        return target.complete and next(iter(target.objects.child("state").list()), None) is None

    return Stage("train", "train", ("curate", *map(teach_name, recipe.teachers)), locate, run, complete=complete)


def training_inputs(recipe: Recipe, outputs: Outputs) -> dict[str, str]:
    """Content keys of what training reads, by name."""
    features = {f"features/{teacher.kind}": outputs[teach_name(teacher)].key for teacher in recipe.teachers}
    return {"corpus": outputs["curate"].key, **features}


def teach_name(teacher: TeacherConfig) -> str:
    """Name of the stage that computes a teacher's features."""
    return f"teach {teacher.kind}"


def _evaluate(workspace: Objects, recipe: Recipe) -> Stage:
    def locate(outputs: Outputs, progress: Progress | None) -> Located:
        key = evaluation_key(recipe.evaluation, outputs["curate"].key, outputs["train"].key)
        return Located(key, workspace.child(f"evaluate/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.evaluation.pipeline import evaluate

        corpus = Corpus.open(outputs["curate"].objects)
        evaluate(corpus, outputs["train"].objects, recipe.evaluation, target.objects, progress)

    return Stage("evaluate", "evaluate", ("curate", "train"), locate, run)


def _report(workspace: Objects, recipe: Recipe, timings: Timings) -> Stage:
    inputs = ("curate", *map(teach_name, recipe.teachers), "train", "evaluate")

    def locate(outputs: Outputs, progress: Progress | None) -> Located | None:
        key = report_key(shown_recipe(recipe), {name: located.key for name, located in outputs.items()})
        return Located(key, workspace.child(f"report/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        build_report(report_inputs(recipe, outputs, timings), target.objects)

    return Stage("report", "report", inputs, locate, run, needs_ray=False)
