"""The stages of a recipe, from sources to scores: where each output lies and how it is made."""

from __future__ import annotations

import json
from functools import cache

from jobs.config import Recipe
from jobs.flow import Located, Outputs, Stage, Timings
from jobs.report import report_inputs, shown_recipe
from pipelines.calibration.steps import calibration_key, codec_for, is_calibrated
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import find_target
from pipelines.curation.parents import LATEST
from pipelines.curation.successors import in_place_of
from pipelines.distillation.forecast import ImageCounts, PlanTotals, forecast_teaching
from pipelines.distillation.plan import TeachPlan, coverage_key, coverage_path, feature_fingerprint, store_key
from pipelines.distillation.teaching import store_description
from pipelines.evaluation.config import evaluation_key
from pipelines.progress import Progress
from pipelines.report import build_report, report_key
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.generate import scenes_key
from pipelines.training.config import training_key
from pipelines.training.notes import training_logs
from pipelines.training.teacher_modes import TeacherBeside, teacher_beside
from pipelines.training.write_back import StoreToFill
from storage.codecs import Codec
from storage.corpus import Corpus
from storage.errors import UsageError
from storage.forgotten import forgotten_images
from storage.objects import Objects
from teachers.registry import TeacherCard, TeacherConfig, teacher_card

__all__ = [
    "COMMANDS",
    "FORECASTS",
    "evaluation_stage",
    "feature_store",
    "feature_stores",
    "parse_commands",
    "plan_stages",
    "store_codec",
    "teach_name",
    "training_inputs",
]

FORECASTS = "runs/forecasts"
"""Prefix, below the workspace, of what each run of `teach` expected before it began."""

COMMANDS = ("scenes", "curate", "teach", "train", "evaluate", "report")
"""Verbs of the command line in the order of the flow."""


def parse_commands(text: str) -> tuple[str, ...]:
    """Verbs of the command line from a list with commas, in the order of the flow; `curate` draws the scenes too.

    Raises:
        UsageError: an unknown verb, or none.

    >>> parse_commands("teach, curate")
    ('scenes', 'curate', 'teach')
    """
    given = {part.strip() for part in text.split(",") if part.strip()}
    given |= {"scenes"} if "curate" in given else set()
    unknown = sorted(given.difference(COMMANDS))
    if unknown or not given:
        found = ", ".join(unknown) or "none"
        raise UsageError(f"--stages {text!r}: expected some of {', '.join(COMMANDS)}, got {found}")
    return tuple(command for command in COMMANDS if command in given)


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
    mode = recipe.training.teacher_mode
    for teacher in recipe.teachers:
        if mode != "online" and _needs_calibration(recipe):
            stages.append(_calibrate(workspace, recipe, teacher))
        # A store that training completes may be filled before, but needn't be.
        if mode == "cached" or (mode == "hybrid" and until == "teach"):
            stages.append(_teach(workspace, recipe, teacher))
    stages.append(_train(workspace, recipe))
    stages.append(evaluation_stage(workspace, recipe))
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
    elsewhere = not own_scenes or bool(config.parent) or any(s.root or s.image_root for s in config.sources)

    @cache  # what is located is what is made
    def forgotten() -> frozenset[str]:
        return forgotten_images(workspace)

    def inputs(outputs: Outputs) -> dict[str, str] | None:
        return None if elsewhere else {"scenes": outputs["scenes"].key}

    latest: dict[str, str | None] = {}
    """URL of the corpus that the one of a key goes on from, as it was located: by now another may be the latest."""

    def rooted(outputs: Outputs) -> CurationConfig:
        return config.model_copy(update={"root": outputs["scenes"].objects.url}) if own_scenes else config

    def locate(outputs: Outputs, progress: Progress | None) -> Located | None:
        hashed = elsewhere or bool(forgotten())
        if hashed and (progress is None or not (elsewhere or outputs["scenes"].complete)):
            return None
        if progress is not None and hashed:
            progress.update(0, 0, unit="reading the sources")
        corpora = workspace.child("curate")
        target = in_place_of(find_target(rooted(outputs), inputs(outputs), forgotten(), corpora), corpora)
        latest[target.key] = target.parent
        return Located(target.key, target.present or workspace.child(f"curate/{target.key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.curation.pipeline import curate

        parent = latest[target.key] if config.parent == LATEST else config.parent
        curated = rooted(outputs).model_copy(update={"parent": parent})
        curate(curated, target.objects, progress, inputs(outputs), forgotten())

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


def _calibrated(recipe: Recipe, teacher: TeacherConfig) -> list[str]:
    """Name of the stage that calibrates a teacher's encoding, if there is one."""
    return [f"calibrate {teacher.kind}"] if _needs_calibration(recipe) else []


def store_codec(recipe: Recipe, teacher: TeacherConfig, outputs: Outputs) -> Codec | None:
    """How a teacher's features are encoded; None: the encoding has yet to be calibrated."""
    for calibrated in _calibrated(recipe, teacher):
        located = outputs.get(calibrated)
        return None if located is None or not located.complete else codec_for(recipe.features, located.objects)
    return codec_for(recipe.features)


def feature_store(workspace: Objects, recipe: Recipe, teacher: TeacherConfig, codec: Codec) -> Located:
    """Where a teacher's features lie, which several corpora share: key and prefix of the store."""
    address = store_key(_feature_fingerprint(recipe, teacher), codec.encoding)
    store = workspace.child(f"features/{address}")
    return Located(address, store, store)


def feature_stores(workspace: Objects, recipe: Recipe, outputs: Outputs) -> dict[str, Located]:
    """What training reads of each teacher's features, by the teacher's kind: what the store says of the corpus, or in
    `hybrid` the store; nothing in `online`."""
    mode = recipe.training.teacher_mode
    found: dict[str, Located] = {}
    for teacher in recipe.teachers:
        if mode == "cached":
            found[teacher.kind] = outputs[teach_name(teacher)]
        elif mode == "hybrid" and (codec := store_codec(recipe, teacher, outputs)) is not None:
            found[teacher.kind] = feature_store(workspace, recipe, teacher, codec)
    return found


def _teach(workspace: Objects, recipe: Recipe, teacher: TeacherConfig) -> Stage:
    def locate(outputs: Outputs, progress: Progress | None) -> Located | None:
        codec = store_codec(recipe, teacher, outputs)
        if codec is None:
            return None
        store = feature_store(workspace, recipe, teacher, codec)
        key = coverage_key(store.key, outputs["curate"].key, recipe.features)
        return Located(key, store.objects.child(coverage_path(key)), store.objects)

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.distillation.pipeline import teach

        corpus = Corpus.open(outputs["curate"].objects)

        noted = False

        def note(images: ImageCounts, plan: TeachPlan) -> None:
            nonlocal noted
            if noted:
                return  # a later part of the same run
            noted, num_channels = True, _card(teacher).num_channels
            plans = PlanTotals.of(plan).scaled(images.missing)
            forecast = forecast_teaching(teacher.kind, images, plans, num_channels, recipe.features, recipe.costs)
            workspace.put(f"{FORECASTS}/{target.key}.json", json.dumps(forecast.to_json(), indent=1).encode())

        codec = store_codec(recipe, teacher, outputs)
        assert codec is not None  # the calibration comes before
        teach(corpus, teacher, recipe.features, codec, target.readable, progress, note)

    return Stage(teach_name(teacher), "teach", ("curate", *_calibrated(recipe, teacher)), locate, run)


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
    def locate(outputs: Outputs, progress: Progress | None) -> Located | None:
        inputs = training_inputs(workspace, recipe, outputs)
        if inputs is None:
            return None
        key = training_key(recipe.student, recipe.training, inputs)
        return Located(key, workspace.child(f"train/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.training.pipeline import train

        inputs = training_inputs(workspace, recipe, outputs)
        assert inputs is not None  # located by them
        train(
            Corpus.open(outputs["curate"].objects),
            _training_stores(workspace, recipe, outputs),
            recipe.student,
            recipe.training,
            target.objects,
            progress,
            inputs,
            _teachers_beside(workspace, recipe, outputs),
            training_logs(workspace, target.key),
        )

    def complete(outputs: Outputs, target: Located) -> bool:
        """A run that was killed right behind its checkpoint has states to clear yet."""
        return target.complete and next(target.objects.iterate("state"), None) is None

    return Stage("train", "train", ("curate", *_before_training(recipe)), locate, run, complete=complete)


def _before_training(recipe: Recipe) -> list[str]:
    """Stages whose outputs training reads, beside the corpus."""
    mode = recipe.training.teacher_mode
    if mode == "cached":
        return [teach_name(teacher) for teacher in recipe.teachers]
    return [name for teacher in recipe.teachers for name in _calibrated(recipe, teacher)] if mode == "hybrid" else []


def training_inputs(workspace: Objects, recipe: Recipe, outputs: Outputs) -> dict[str, str] | None:
    """Content keys of what training reads, by name; None while an encoding has yet to be calibrated.

    `cached` reads what a store says of the corpus; `hybrid` the store, whatever it holds of it by now; and
    `online` the teachers themselves, on their grid.
    """
    inputs = {"corpus": outputs["curate"].key}
    for teacher in recipe.teachers:
        if recipe.training.teacher_mode == "cached":
            inputs[f"features/{teacher.kind}"] = outputs[teach_name(teacher)].key
        elif recipe.training.teacher_mode == "online":
            inputs[f"teacher/{teacher.kind}"] = _feature_fingerprint(recipe, teacher)
        else:
            codec = store_codec(recipe, teacher, outputs)
            if codec is None:
                return None
            inputs[f"store/{teacher.kind}"] = feature_store(workspace, recipe, teacher, codec).key
    return inputs


def _training_stores(workspace: Objects, recipe: Recipe, outputs: Outputs) -> dict[str, str]:
    """URLs of the feature stores that training reads, by the teacher's kind."""
    if recipe.training.teacher_mode == "cached":
        return {teacher.kind: outputs[teach_name(teacher)].readable.url for teacher in recipe.teachers}
    return {
        beside.config.kind: beside.store.url
        for beside in _teachers_beside(workspace, recipe, outputs)
        if beside.store is not None
    }


def _teachers_beside(workspace: Objects, recipe: Recipe, outputs: Outputs) -> list[TeacherBeside]:
    """The teachers that run beside the student, each with the store that it completes."""
    mode = recipe.training.teacher_mode
    if mode == "cached":
        return []
    if mode == "online":
        return [teacher_beside(teacher, recipe.features) for teacher in recipe.teachers]
    return [_completing(workspace, recipe, teacher, outputs) for teacher in recipe.teachers]


def _completing(workspace: Objects, recipe: Recipe, teacher: TeacherConfig, outputs: Outputs) -> TeacherBeside:
    codec = store_codec(recipe, teacher, outputs)
    assert codec is not None  # the calibration comes before training
    store = feature_store(workspace, recipe, teacher, codec)
    description = store_description(teacher, recipe.features, codec)
    target = StoreToFill(store.objects.url, store.key, description, codec)
    return teacher_beside(teacher, recipe.features, target)


def teach_name(teacher: TeacherConfig) -> str:
    """Name of the stage that computes a teacher's features."""
    return f"teach {teacher.kind}"


def evaluation_stage(workspace: Objects, recipe: Recipe, name: str = "evaluate", student: str = "train") -> Stage:
    """The stage that scores a student on the corpus.

    Args:
        workspace: of the recipe.
        recipe: whose benchmarks are asked.
        name: of the stage.
        student: name of the output that is its checkpoint.
    """

    def locate(outputs: Outputs, progress: Progress | None) -> Located:
        key = evaluation_key(recipe.evaluation, outputs["curate"].key, outputs[student].key)
        return Located(key, workspace.child(f"evaluate/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        from pipelines.evaluation.pipeline import evaluate

        corpus = Corpus.open(outputs["curate"].objects)
        evaluate(corpus, outputs[student].objects, recipe.evaluation, target.objects, progress)

    return Stage(name, "evaluate", ("curate", student), locate, run)


def _report(workspace: Objects, recipe: Recipe, timings: Timings) -> Stage:
    inputs = ("curate", *_before_training(recipe), "train", "evaluate")

    def locate(outputs: Outputs, progress: Progress | None) -> Located | None:
        key = report_key(shown_recipe(recipe), {name: located.key for name, located in outputs.items()})
        return Located(key, workspace.child(f"report/{key}"))

    def run(outputs: Outputs, target: Located, progress: Progress) -> None:
        build_report(report_inputs(recipe, outputs, timings), target.objects)

    return Stage("report", "report", inputs, locate, run, needs_ray=False)
