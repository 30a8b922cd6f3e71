"""A study of three runs, and results as they would come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.study import Study
from jobs.study_table import Measured, StudyResult
from pipelines.evaluation.records import Score, Variant

__all__ = ["small_result", "small_score", "small_study"]

_STUDY = {
    "name": "tiny",
    "question": "Does a start help?",
    "recipe": "smoke",
    "changes": {"training": {"learning_rate": 0.5, "num_steps": 2}},
    "seeds": [3, 5],
    "baseline": "none",
    "runs": [
        {"name": "start", "scored": False, "changes": {"training": {"num_steps": 7}}},
        {"name": "none"},
        {"name": "started", "starts_from": "start"},
    ],
    "metrics": [{"label": "cIoU"}, {"label": "swapped", "variant": "swapped"}],
}


def small_study(**changes: object) -> Study:
    """The study, with other values in the fields given."""
    return Study.model_validate({**_STUDY, **changes})


def small_score(value: float, variant: Variant = Variant.STANDARD, family: str | None = None) -> Score:
    """A cIoU whose interval reaches from 0.1 below it to 0.2 above."""
    return Score(
        benchmark="referring",
        variant=variant,
        family=family,
        task=None,
        split=None,
        metric="cIoU",
        value=value,
        low=value - 0.1,
        high=value + 0.2,
        num_samples=10,
        num_images=5,
    )


def small_result(
    values: Mapping[str, Sequence[float | None]], curves: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> StudyResult:
    """Scores by run, one per seed; None: not finished. Curves likewise, with a validation after every 100 steps."""
    measured = [
        Measured(run, seed, 200, {"cIoU": small_score(value)}, 1.0, _curve(run, seed, curves or {}))
        for run, own in values.items()
        for seed, value in enumerate(own)
        if value is not None
    ]
    runs = tuple(values)
    planned = tuple((run, seed) for run in runs for seed in range(max(map(len, values.values()))))
    return StudyResult("tiny", "Does it?", runs[0], ("cIoU",), runs, planned, tuple(measured))


def _curve(run: str, seed: int, curves: Mapping[str, Sequence[Sequence[float]]]) -> tuple[tuple[int, float], ...]:
    if run not in curves:
        return ()
    return tuple((100 * place, value) for place, value in enumerate(curves[run][seed], start=1))
