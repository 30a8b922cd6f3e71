"""The page modules by the kind of output that they show: a new one is a package and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from starlette.routing import BaseRoute

from pipelines.viewer.places import FEATURES, WORKSPACE, kind_at, store_at
from storage.errors import UsageError
from storage.objects import Objects

__all__ = ["PAGES", "Grows", "Page", "PageOptions", "TakesUploads", "open_page"]


class Page(Protocol):
    """What shows one output."""

    prefix: str
    """Path below which its routes lie, such as `/review`."""

    @property
    def static(self) -> Path | None:
        """Folder of its scripts and style sheets, served below `<prefix>/static`; None: it has none."""
        ...

    def routes(self) -> Sequence[BaseRoute]:
        """Its routes, below the prefix."""
        ...


@runtime_checkable
class TakesUploads(Protocol):
    """A page to which larger files may be posted."""

    uploads: Mapping[str, int]
    """Paths below its prefix, and the upper bound of a body in bytes."""


@runtime_checkable
class Grows(Protocol):
    """A page of an output to which more may be written, and which shows what was there when it was opened."""

    def has_grown(self) -> bool:
        """Whether more is there by now."""
        ...


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What the command line says beside the address.

    Attributes:
        reviewer: name that a review begins with; None: it asks.
        reviewers_per_item: who have to decide on each item.
        against: URL of a second output of the same kind, to compare with.
        corpus: URL of the corpus whose pictures a checkpoint is tried on, or features or predictions are shown with;
            None: their own, where it lies in the same workspace.
        device: where a student runs.
        below: path below which the page lies; pages that have a command of their own to open them needn't heed it.
    """

    reviewer: str | None = None
    reviewers_per_item: int = 2
    against: str | None = None
    corpus: str | None = None
    device: str = "cpu"
    below: str = ""


# Each page is imported when it is opened: some need libraries that take seconds.


def _review(objects: Objects, options: PageOptions) -> Page:
    from pipelines.viewer.benchmark_review.page import ReviewPage

    return ReviewPage.open(objects, options.reviewer, options.reviewers_per_item)


def _corpus(objects: Objects, options: PageOptions) -> Page:
    from pipelines.viewer.corpus.page import CorpusPage

    return CorpusPage.open(objects, options.below)


def _trial(objects: Objects, options: PageOptions) -> Page:
    from pipelines.viewer.checkpoint.page import TrialPage

    return TrialPage.open(objects, options.against, options.corpus, options.device)


def _evaluation(objects: Objects, options: PageOptions) -> Page:
    from pipelines.viewer.evaluation.page import EvaluationPage

    return EvaluationPage.open(objects, options.against, options.corpus, options.below)


def _features(objects: Objects, options: PageOptions) -> Page:
    from pipelines.viewer.features.page import FeaturesPage

    return FeaturesPage.open(store_at(objects), options.corpus, options.below)


def _report(objects: Objects, options: PageOptions) -> Page:
    from pipelines.viewer.report.page import ReportPage

    return ReportPage(objects, options.below)


def _workspace(objects: Objects, options: PageOptions) -> Page:
    from pipelines.viewer.workspace.page import WorkspacePage

    def open_output(url: str, below: str) -> Page:
        return open_page(url, replace(options, below=below))

    return WorkspacePage(objects, open_output, options.below)


PAGES: Mapping[str, Callable[[Objects, PageOptions], Page]] = {
    "benchmark_drafts": _review,
    "checkpoint": _trial,
    "corpus": _corpus,
    "evaluation": _evaluation,
    FEATURES: _features,
    "report": _report,
    "teach": _features,
    WORKSPACE: _workspace,
}
"""What opens a page, by the kind of what lies there, see `kind_at`."""

_PAIRED = ("checkpoint", "evaluation")
"""Kinds of which two can be shown side by side."""


def open_page(url: str, options: PageOptions) -> Page:
    """The page of an output, or of a workspace.

    Raises:
        ObjectNotFound: nothing there.
        UsageError: of a kind that no page shows.
        CorruptObject: it is damaged.
    """
    objects = Objects.open(url)
    kind = _kind_of(objects)
    if options.against is not None:
        other = _kind_of(Objects.open(options.against))
        if kind not in _PAIRED or kind != other:
            raise UsageError(
                f"--against {options.against}: expected two outputs of one kind, {' or '.join(_PAIRED)}, got a {kind} "
                f"and a {other}"
            )
    return PAGES[kind](objects, options)


def _kind_of(objects: Objects) -> str:
    """The kind of what lies there, which a page shows; raises as `open_page`."""
    kind = kind_at(objects)
    if kind not in PAGES:
        raise UsageError(f"{objects.url}: expected an output of kind {', '.join(PAGES)}, got {kind}")
    return kind
