"""`sailloft view`: pages in the browser, on this machine alone."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass

import typer

from storage.errors import UsageError

__all__ = ["Viewed", "view"]


@dataclass(frozen=True, slots=True)
class Viewed:
    """What the command line says.

    Attributes:
        url: of the output.
        port: of loopback; 0: any free one.
        reviewer: name that a review begins with; None: it asks.
        reviewers_per_item: who have to decide on each item.
        against: URL of a second checkpoint or evaluation.
        corpus: URL of the corpus beside it.
        device: where a student runs.
        open_browser: whether the address is opened, too.
    """

    url: str
    port: int
    reviewer: str | None
    reviewers_per_item: int
    against: str | None
    corpus: str | None
    device: str
    open_browser: bool


def view(viewed: Viewed) -> None:
    """Serves the page of an output, or of a workspace, until interrupted.

    Raises:
        UsageError: the extra `view` isn't installed, a wrong name or port, or an output that no page shows.
        ObjectNotFound: no output there.
    """
    try:
        from pipelines.viewer.pages import PageOptions, open_page
        from pipelines.viewer.serving import serve
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn"):
            raise
        raise UsageError(f"sailloft view needs {missing}; pip install 'sailloft[view]'") from error

    options = PageOptions(viewed.reviewer, viewed.reviewers_per_item, viewed.against, viewed.corpus, viewed.device)
    page = open_page(viewed.url, options)

    def announce(address: str) -> None:
        typer.echo(f"open {address}\nonly this machine reaches it; Ctrl+C ends it, and nothing is lost")
        if viewed.open_browser:
            webbrowser.open(address)

    serve(page, viewed.port, announce)
