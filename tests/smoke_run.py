"""The smoke recipe, run once by whichever test asks first."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

from jobs.config import load_recipe
from jobs.display import Displays, LogDisplay, PlainDisplay
from jobs.logs import LogFormat, LogSettings, set_up_logging
from jobs.runner import RunResult, run_recipe
from tests.metrics_page import Shown

__all__ = ["SmokeRun", "run_smoke"]


@dataclass(frozen=True)
class SmokeRun:
    """What a run left."""

    workspace: Path
    result: RunResult
    shown: str
    """What people saw."""
    log: Path
    """Its log, as JSON."""
    shown_before: Shown
    """What the session showed to Prometheus before: it serves other tests too."""


def run_smoke(workspace: str, log: Path | None = None) -> tuple[RunResult, str]:
    """Runs the recipe; gives the result, and what people saw."""
    stream = io.StringIO()
    recipe = load_recipe("smoke", [f"workspace={workspace}"])
    if log is None:
        return run_recipe(recipe, PlainDisplay(stream)), stream.getvalue()
    set_up_logging(LogSettings(LogFormat.JSON, logging.INFO, str(log)))
    try:
        result = run_recipe(recipe, Displays([PlainDisplay(stream), LogDisplay()]))
    finally:
        set_up_logging(LogSettings())
    return result, stream.getvalue()
