"""Gathers what the report shows from the outputs of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.config import Recipe
from jobs.flow import Located, Outcome
from pipelines.progress import Progress

__all__ = ["make_report"]


def make_report(recipe: Recipe, outcomes: Sequence[Outcome], outputs: Mapping[str, Located], progress: Progress) -> str:
    return ""
