"""Routes and files of a page, for the application that shows it or for a page that other pages lie below."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from pipelines.viewer.pages import Page

__all__ = ["page_routes"]


def page_routes(page: Page, below: str = "") -> list[BaseRoute]:
    """What a page answers to, and its beginning.

    Args:
        page: whose prefix lies below the given path.
        below: path of all these routes.
    """
    place = page.prefix.removeprefix(below)

    def first(request: Request) -> Response:
        return RedirectResponse(f"{page.prefix}/", 303)

    files = [] if page.static is None else [Mount(f"{place}/static", StaticFiles(directory=page.static))]
    return [Route("/", first), *files, Mount(place, routes=list(page.routes()))]
