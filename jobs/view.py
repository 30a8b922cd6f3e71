"""`sailloft view`: pages in the browser, on this machine alone."""

from __future__ import annotations

import webbrowser

import typer

from storage.errors import UsageError

__all__ = ["view"]


def view(url: str, port: int, reviewer: str | None, reviewers_per_item: int, open_browser: bool) -> None:
    """Serves the page of an output until interrupted.

    Args:
        url: of the output.
        port: of loopback; 0: any free one.
        reviewer: name that a review begins with; None: it asks.
        reviewers_per_item: who have to decide on each item.
        open_browser: whether the address is opened, too.

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

    page = open_page(url, PageOptions(reviewer, reviewers_per_item))

    def announce(address: str) -> None:
        typer.echo(f"open {address}\nonly this machine reaches it; Ctrl+C ends it, and nothing is lost")
        if open_browser:
            webbrowser.open(address)

    serve(page, port, announce)
