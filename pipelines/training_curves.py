"""What a training run noted at its steps, as curves: names in words, their order, and drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup

from pipelines.charts import line_chart, number, overlaid_chart

__all__ = ["Curve", "Overlay", "loss_curves", "overlaid_losses", "overlaid_validation", "validation_curves"]

Rows: TypeAlias = Sequence[Mapping[str, object]]
"""A row per noted step, with its `step` and a value per name."""

_CURVE_TEXT = {
    "loss": "all terms together",
    "text": "text: next token",
    "mask_bce": "masks: cross-entropy",
    "mask_dice": "masks: dice",
    "learning_rate": "learning rate",
    "gradient_norm": "norm of the gradient",
}
_CURVE_ORDER = ("loss", "mask_bce", "mask_dice", "text")
_NO_CURVE = ("step", "epoch", "wait_s", "step_s", "tokens")
_VALIDATION_TEXT = {
    "cIoU": "validation: cIoU",
    "gIoU": "validation: gIoU",
    "N_acc": "validation: no target, recognised",
    "T_acc": "validation: target, recognised",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One column of the training's metrics."""

    label: str
    first: str
    last: str
    chart: Markup


@dataclass(frozen=True, slots=True)
class Overlay:
    """One column of the metrics of several runs."""

    label: str
    lasts: tuple[str | None, ...]
    """The last value of each run; None: it has no such curve."""
    chart: Markup


def loss_curves(metrics: Rows) -> list[Curve]:
    """One curve per numeric column of the metrics, the loss and its terms first."""
    return [curve for name in _names([metrics]) for curve in _curve(metrics, name, _curve_text(name))]


def validation_curves(validation: Rows) -> list[Curve]:
    """One curve per score during training."""
    return [curve for name, text in _VALIDATION_TEXT.items() for curve in _curve(validation, name, text)]


def overlaid_losses(runs: Sequence[Rows]) -> list[Overlay]:
    """The curves of `loss_curves`, each of all runs that have it."""
    return [overlay for name in _names(runs) for overlay in _overlay(runs, name, _curve_text(name))]


def overlaid_validation(runs: Sequence[Rows]) -> list[Overlay]:
    """The curves of `validation_curves`, each of all runs that have it."""
    return [overlay for name, text in _VALIDATION_TEXT.items() for overlay in _overlay(runs, name, text)]


def _names(runs: Sequence[Rows]) -> list[str]:
    """Columns in the order in which they are shown."""
    names = dict.fromkeys(name for rows in runs for row in rows for name in row if name not in _NO_CURVE)
    ordered = [name for name in _CURVE_ORDER if name in names]
    ordered += [name for name in names if name.startswith("distillation/")]
    ordered += [name for name in names if name.startswith("loss/")]
    return ordered + [name for name in names if name not in ordered]


def _curve(rows: Rows, name: str, label: str) -> list[Curve]:
    """The curve of a column; none of fewer than two points."""
    steps, values = _points(rows, name)
    chart = line_chart(steps, values, label)
    return [Curve(label, number(values[0]), number(values[-1]), chart)] if chart else []


def _overlay(runs: Sequence[Rows], name: str, label: str) -> list[Overlay]:
    """The curves of a column; none if no run has two points."""
    curves = [_points(rows, name) for rows in runs]
    chart = overlaid_chart(curves, label)
    lasts = tuple(number(values[-1]) if values else None for _, values in curves)
    return [Overlay(label, lasts, chart)] if chart else []


def _points(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and values where a column has a finite value."""
    found = [
        (float(step), float(value))
        for index, row in enumerate(rows)
        if isinstance(value := row.get(name), int | float)
        and math.isfinite(value)
        and isinstance(step := row.get("step", index), int | float)
    ]
    return [step for step, _ in found], [value for _, value in found]


def _curve_text(name: str) -> str:
    if name.startswith("loss/"):
        return f"loss on {name.removeprefix('loss/').replace('_', ' ')}"
    return _CURVE_TEXT.get(name, name.replace("distillation/", "distillation: ").replace("_", " "))
