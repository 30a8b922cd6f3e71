"""The charts of a study: validation cIoU over steps, and each score as a bar, for the runs that belong together."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.study import Study, StudyChart
from jobs.study_table import StudyResult
from pipelines.report.study_charts import Band, Bar, band_chart, bar_panels

__all__ = ["study_charts"]

_CAPTION = "validation cIoU over training steps; bands: least to largest over seeds"


def study_charts(study: Study, result: StudyResult) -> dict[str, str]:
    """SVG documents by file name; nothing of what isn't measured yet.

    Args:
        study: says which runs are drawn together; all of them, if it doesn't.
        result: what has been measured so far.
    """
    charts = study.charts or (StudyChart(name="all", title=study.question, runs=result.runs[:8]),)
    found: dict[str, str] = {}
    for chart in charts:
        finished = [run for run in chart.runs if run in result.finished_runs()]
        bands = [band for run in finished if (band := _band(result, run)) is not None]
        if bands:
            found[f"curves-{chart.name}.svg"] = band_chart(chart.title, bands, _CAPTION)
        if finished:
            found[f"scores-{chart.name}.svg"] = bar_panels(chart.title, _panels(result, finished))
    return found


def _band(result: StudyResult, run: str) -> Band | None:
    """Mean, least and largest over seeds, at the steps that all of them were examined after."""
    curves = [dict(one.curve) for one in result.of(run).values() if one.curve]
    if not curves:
        return None
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[step] for curve in curves] for step in steps]
    return Band(run, steps, [sum(own) / len(own) for own in values], list(map(min, values)), list(map(max, values)))


def _panels(result: StudyResult, runs: Sequence[str]) -> dict[str, list[Bar]]:
    panels: dict[str, list[Bar]] = {}
    for metric in result.metrics:
        for run in runs:
            estimate = result.estimate(run, metric)
            panels.setdefault(metric, []).append(Bar(run, estimate.value, estimate.low, estimate.high))
    return panels
