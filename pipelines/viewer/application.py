"""The application around a page: its routes and files, behind the guard, and errors as pages."""

from __future__ import annotations

import logging
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pipelines.viewer.mounting import page_routes
from pipelines.viewer.pages import Page, TakesUploads
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

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return templates.page("error.html.j2", error.status_code, title="Not found", message=str(error.detail))

    def failed(request: Request, error: Exception) -> Response:
        logger.warning("%s %s: %s", request.method, request.url.path, error)
        return templates.page("error.html.j2", 500, title="That didn't work", message=str(error))

    application = Starlette(
        routes=[
            Mount("/static", StaticFiles(directory=_HERE / "static")),
            *page_routes(page),
        ],
        exception_handlers={HTTPException: refused, SailloftError: failed},
    )
    uploads = page.uploads if isinstance(page, TakesUploads) else {}
    return Guard(application, token, port, {f"{page.prefix}{path}": size for path, size in uploads.items()})
