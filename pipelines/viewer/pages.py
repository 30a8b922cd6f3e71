"""The page modules by the kind of output that they show: a new one is a package and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starlette.routing import BaseRoute

from pipelines.viewer.benchmark_review.page import ReviewPage
from storage.errors import ObjectNotFound, UsageError
from storage.manifest import MANIFEST_NAME, read_manifest
from storage.objects import Objects

__all__ = ["PAGES", "Page", "PageOptions", "open_page"]


class Page(Protocol):
    """What shows one output."""

    prefix: str
    """Path below which its routes lie, such as `/review`."""
    static: Path
    """Folder of its scripts and style sheets, served below `<prefix>/static`."""

    def routes(self) -> Sequence[BaseRoute]:
        """Its routes, below the prefix."""
        ...


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What the command line says beside the address.

    Attributes:
        reviewer: name that a review begins with; None: it asks.
        reviewers_per_item: who have to decide on each item.
    """

    reviewer: str | None = None
    reviewers_per_item: int = 2


def _review(objects: Objects, options: PageOptions) -> Page:
    return ReviewPage.open(objects, options.reviewer, options.reviewers_per_item)


PAGES: Mapping[str, Callable[[Objects, PageOptions], Page]] = {"benchmark_drafts": _review}
"""What opens a page, by the kind in the output's manifest."""


def open_page(url: str, options: PageOptions) -> Page:
    """The page of an output.

    Raises:
        ObjectNotFound: no output there.
        UsageError: of a kind that no page shows.
        CorruptObject: it is damaged.
    """
    objects = Objects.open(url)
    manifest = read_manifest(objects)
    if manifest is None:
        raise ObjectNotFound(
            f"{objects.url}/{MANIFEST_NAME}: no such object; expected the address of an output, as the command that "
            "made it printed"
        )
    if manifest.kind not in PAGES:
        raise UsageError(f"{objects.url}: expected an output of kind {', '.join(PAGES)}, got {manifest.kind}")
    return PAGES[manifest.kind](objects, options)
