"""Routes of a workspace: its newest runs and its outputs, all runs, one run whole, curves of trainings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from pipelines.lineage.outputs import Presence, read_outputs
from pipelines.recorded_runs import read_runs
from pipelines.training.notes import VALIDATION, read_metrics, read_notes, training_logs
from pipelines.training_curves import overlaid_losses, overlaid_validation
from pipelines.viewer.lists import Asked
from pipelines.viewer.pages import Page
from pipelines.viewer.templates import Templates
from pipelines.viewer.workspace.outputs import OutputPages
from pipelines.viewer.workspace.shown import PAGED, outputs_of, run_of
from storage.objects import Objects
from storage.run_records import find_runs, read_run

__all__ = ["WorkspacePage"]

_HERE = Path(__file__).parent
_FIRST_RUNS, _RUNS = 8, 50
"""Runs at the beginning, and of a page of all."""
_MAX_CURVES = 6
"""Trainings in one picture: so many colours can be told apart."""
_KEPT_METRICS = 16


class WorkspacePage:
    """The pages of a workspace.

    Args:
        workspace: its prefix.
        open_page: the page of an output, by its URL and by the path below which it lies.
        below: path below which this page lies.
    """

    static = _HERE / "static"

    def __init__(self, workspace: Objects, open_page: Callable[[str, str], Page], below: str = "") -> None:
        self.prefix = f"{below}/workspace"
        self._workspace, self._open_page = workspace, open_page
        self._outputs = OutputPages(self._page_of, f"{self.prefix}/output")
        self._templates = Templates(_HERE / "templates", self.prefix)
        self._metrics = lru_cache(_KEPT_METRICS)(self._read_metrics)

    def routes(self) -> Sequence[BaseRoute]:
        """All routes, below the prefix."""
        return [
            Route("/", self._first),
            Route("/runs", self._list_runs),
            Route("/runs/{run}", self._run),
            Route("/curves", self._curves),
            Mount("/output/{key}", app=self._outputs),
        ]

    def _first(self, request: Request) -> Response:
        runs = find_runs(self._workspace)
        newest = read_runs(self._workspace, runs[: -_FIRST_RUNS - 1 : -1])
        return self._templates.page(
            "first.html.j2",
            **self._shared(),
            num_runs=len(runs),
            runs=[run_of(run) for run in newest],
            outputs=outputs_of(read_outputs(self._workspace)),
            max_curves=_MAX_CURVES,
        )

    def _list_runs(self, request: Request) -> Response:
        asked = Asked.of(request, ())
        runs = [run for run in reversed(find_runs(self._workspace)) if asked.words in run]
        shown = runs[(asked.number - 1) * _RUNS : asked.number * _RUNS]
        return self._templates.page(
            "runs.html.j2",
            **self._shared(),
            **asked.shown(len(runs), _RUNS),
            runs=[run_of(run) for run in read_runs(self._workspace, shown)],
        )

    def _run(self, request: Request) -> Response:
        name = request.path_params["run"]
        run = read_run(self._workspace, name) if name in find_runs(self._workspace) else None
        if run is None:
            raise HTTPException(404, "There is no record of such a run in this workspace.")
        shown = run_of(run, read_outputs(self._workspace))
        return self._templates.page("run.html.j2", **self._shared(), run=shown)

    def _curves(self, request: Request) -> Response:
        listed = outputs_of(read_outputs(self._workspace))
        present = [row for rows in listed.values() for row in rows if row.has_curves]
        asked = request.query_params.getlist("of")
        chosen = [row.key for row in present if row.key in asked][:_MAX_CURVES]
        if unknown := set(asked) - {row.key for row in present}:
            raise HTTPException(404, f"There is no such checkpoint in this workspace: {min(unknown)}.")
        pairs = [self._metrics(key) for key in chosen]
        return self._templates.page(
            "curves.html.j2",
            **self._shared(),
            checkpoints=present,
            chosen=chosen,
            num_asked=len(set(asked)),
            max_curves=_MAX_CURVES,
            validation=overlaid_validation([validation for _, validation in pairs]),
            losses=overlaid_losses([metrics for metrics, _ in pairs]),
        )

    def _read_metrics(self, key: str) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
        """Rows of a training's metrics and of its validation; a checkpoint never changes."""
        metrics = read_metrics(self._workspace.child(f"train/{key}"))
        return metrics, read_notes(training_logs(self._workspace, key), VALIDATION)

    def _page_of(self, key: str, below: str) -> Page | None:
        outputs = read_outputs(self._workspace)
        output = outputs.by_key.get(key)
        if output is None or output.presence is not Presence.PRESENT or output.kind not in PAGED:
            return None
        return self._open_page(outputs.objects(output).url, below)

    def _shared(self) -> dict[str, Any]:
        return {"workspace": self._workspace.url}
