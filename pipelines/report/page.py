"""The report: one self-contained HTML page, and its place in the store.

Everything that comes from data is escaped by the template; the page forbids itself to load anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import cast

import yaml
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipelines.quantities import bytes_text, seconds_text
from pipelines.report.examples import Gallery, feature_rows, prompt_extremes, prompt_groups, segmentation_groups
from pipelines.report.inputs import ReportInputs
from pipelines.report.scores import (
    count_table,
    examined,
    gap_lines,
    promises,
    reject_groups,
    relabelled_splits,
    score_bar,
    score_rows,
    variant_text,
)
from pipelines.report.speed import training_speed
from pipelines.report.zoo import breakdowns
from pipelines.training_curves import loss_curves, validation_curves
from storage.keys import Json, content_key
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["REPORT_NAME", "VERSION", "build_report", "render_report", "report_key"]

VERSION = 5
"""Raised whenever the same inputs give another page."""
REPORT_NAME = "report.html"


def report_key(recipe: Mapping[str, Json], inputs: Mapping[str, str]) -> str:
    """The address of a report; times and notes stay out of it, since they differ between equal runs.

    Args:
        recipe: the resolved recipe.
        inputs: content keys of the outputs shown, by the names of their stages.
    """
    return content_key(
        {"schema_version": SCHEMA_VERSION, "stage": "report", "version": VERSION, "config": recipe, "inputs": inputs}
    )


def build_report(inputs: ReportInputs, output: Objects) -> Manifest:
    """Writes `report.html` and its manifest; a report that is there already is left as it is.

    Args:
        inputs: what the page shows.
        output: prefix of this report, its address included.
    """
    found = read_manifest(output)
    if found is not None:
        return found
    if not output.exists(REPORT_NAME):
        output.create(REPORT_NAME, render_report(inputs).encode())
    keys = {name: manifest.key for name, manifest in inputs.manifests}
    recipe = cast("dict[str, Json]", _plain(inputs.recipe))
    return publish(
        output,
        Manifest(
            kind="report",
            key=report_key(recipe, keys),
            schema_version=SCHEMA_VERSION,
            recipe=recipe,
            inputs=keys,
            files=(FileEntry.of(REPORT_NAME, output.read(REPORT_NAME)),),
            facts={},
        ),
    )


def render_report(inputs: ReportInputs) -> str:
    """The page as HTML."""
    gallery = Gallery(inputs.corpus)
    num = inputs.num_examples
    scores = score_rows(inputs.evaluations)
    main, *others = examined(scores) or [None]
    segmentation = segmentation_groups(inputs.predictions, gallery, num)
    prompted = prompt_groups(inputs.predictions, gallery, num)
    extremes = prompt_extremes(inputs.predictions, gallery, num)
    cuts = breakdowns(inputs.predictions)
    candidates = [row.image_id for row in sorted(inputs.predictions, key=lambda row: (-row.score, row.sample_id))]
    candidates += cast("list[str]", inputs.corpus.image_table(["image_id"])["image_id"].to_pylist())
    features = feature_rows(inputs.features, gallery, candidates, num)
    curves = [*validation_curves(inputs.validation), *loss_curves(inputs.metrics)]
    splits, counts = count_table(inputs.corpus)
    rejects = reject_groups(inputs.corpus)
    stages, total_seconds = _stages(inputs.stage_seconds or {})
    sections = [
        ("scores", "Scores", main),
        ("predictions", "Predictions", segmentation),
        ("prompts", "Visual prompts", prompted),
        ("zoo", "Failures", cuts or extremes),
        ("teachers", "Teachers", features),
        ("training", "Training", curves),
        ("data", "Data", True),
        ("run", "Run", True),
    ]
    return _template().render(
        title=inputs.title,
        style=Markup(_resource("page.css")),
        sections=[(name, text) for name, text, there in sections if there],
        notes=list(inputs.notes),
        relabelled=relabelled_splits(inputs.corpus),
        main=main,
        examined=main is not None,
        others=others,
        hero=segmentation[0].cards[0] if segmentation else None,
        level=_level(inputs.evaluations),
        tested_splits=sorted(
            {row.split for row in inputs.predictions if main is not None and row.benchmark == main.benchmark}
        ),
        promises=promises(inputs.targets, scores),
        scores=scores,
        gaps=gap_lines(inputs.evaluations),
        segmentation=segmentation,
        prompted=prompted,
        breakdowns=cuts,
        extremes=extremes,
        features=features,
        curves=curves,
        speed=training_speed(inputs.speed),
        splits=splits,
        counts=counts,
        num_samples=sum(total for *_, total in counts),
        num_images=inputs.corpus.image_table(["image_id"]).num_rows,
        num_rejects=sum(group.count for group in rejects),
        rejects=rejects,
        stages=stages,
        total_seconds=total_seconds,
        manifests=_outputs(inputs.manifests),
        recipe=yaml.safe_dump(_plain(inputs.recipe), sort_keys=False, allow_unicode=True, width=100),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score_bar": score_bar, "variant_text": variant_text}
    return environment.from_string(_resource("page.html.j2"))


def _resource(name: str) -> str:
    return files("pipelines.report").joinpath(name).read_text(encoding="utf-8")


def _plain(value: object) -> object:
    """The value as JSON knows it: enums as their text, tuples as lists."""
    return json.loads(json.dumps(value, default=str))


def _level(evaluations: Sequence[Manifest]) -> str:
    """Coverage of the intervals, such as "95"."""
    level = evaluations[0].recipe.get("interval_level", 0.95) if evaluations else 0.95
    return f"{100 * cast(float, level):g}"


def _stages(seconds: Mapping[str, float | None]) -> tuple[list[tuple[str, str, float]], str]:
    longest = max((value for value in seconds.values() if value), default=1.0)
    rows = [(name, seconds_text(value), (value or 0.0) / longest) for name, value in seconds.items()]
    return rows, seconds_text(sum(value or 0.0 for value in seconds.values()))


def _outputs(manifests: Sequence[tuple[str, Manifest]]) -> list[tuple[str, str, str, int, str]]:
    return [
        (name, manifest.kind, manifest.key, len(manifest.files), bytes_text(sum(e.size_bytes for e in manifest.files)))
        for name, manifest in manifests
    ]
