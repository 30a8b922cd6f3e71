"""Routes of a report: one page, which carries its styles and pictures within it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from storage.objects import Objects

__all__ = ["ReportPage"]

_REPORT = "report.html"
"""As `pipelines.report` names it, which takes seconds to import."""
_POLICY = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""It was written by a run, not by this server: nothing in it may run, load, post, or count as one of our pages."""


class ReportPage:
    """The page of a report.

    Args:
        objects: prefix of the report.
        below: path below which the page lies.
    """

    static = None

    def __init__(self, objects: Objects, below: str = "") -> None:
        self.prefix = f"{below}/report"
        self._objects = objects

    def routes(self) -> Sequence[BaseRoute]:
        """Its one route."""
        return [Route("/", self._report)]

    def _report(self, request: Request) -> Response:
        return HTMLResponse(self._objects.read(_REPORT), headers={"Content-Security-Policy": _POLICY})
