"""The application around a page: its routes and files, behind the guard, and errors as pages."""

from __future__ import annotations

import logging
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipelines.viewer.pages import Page
from pipelines.viewer.security import Guard
from pipelines.viewer.templates import Templates
from storage.errors import SailloftError

__all__ = ["create_application"]

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent


def create_application(page: Page, token: str, port: int) -> ASGIApp:
    """The application that shows a page.

    Args:
        page: what is shown.
        token: without which nothing is shown.
        port: of loopback, where it will be served.
    """
    templates = Templates(_HERE / "templates")

    def first(request: Request) -> Response:
        return RedirectResponse(f"{page.prefix}/", 303)

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return templates.page("error.html.j2", error.status_code, title="Not found", message=str(error.detail))

    def failed(request: Request, error: Exception) -> Response:
        logger.warning("%s %s: %s", request.method, request.url.path, error)
        return templates.page("error.html.j2", 500, title="That didn't work", message=str(error))

    application = Starlette(
        routes=[
            Route("/", first),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
            Mount(f"{page.prefix}/static", StaticFiles(directory=page.static)),
            Mount(page.prefix, routes=list(page.routes())),
        ],
        exception_handlers={HTTPException: refused, SailloftError: failed},
    )
    return Guard(application, token, port)
