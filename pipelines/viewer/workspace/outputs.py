"""Pages of the outputs of a workspace, below its own: opened when they are first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from pipelines.viewer.mounting import page_routes
from pipelines.viewer.pages import Page

__all__ = ["OutputPages"]

_KEPT_PAGES = 8
"""An open page holds tables of what it shows."""


class OutputPages:
    """An ASGI application for all outputs; the path parameter `key` says which.

    Args:
        open_page: the page of an output, by its key and by the path below which it is to lie; None: no such output.
        below: path of this application; the key comes behind it.
    """

    def __init__(self, open_page: Callable[[str, str], Page | None], below: str) -> None:
        self._open_page, self._below = open_page, below
        self._opened: OrderedDict[str, Router] = OrderedDict()
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        router = await run_in_threadpool(self._router, scope["path_params"]["key"])
        await router(scope, receive, send)

    def _router(self, key: str) -> Router:
        with self._lock:
            if key not in self._opened:
                path = f"{self._below}/{key}"
                page = self._open_page(key, path)
                if page is None:
                    raise HTTPException(404, "There is no such output in this workspace, or no page that shows it.")
                self._opened[key] = Router(page_routes(page, path))
            self._opened.move_to_end(key)
            while len(self._opened) > _KEPT_PAGES:
                self._opened.popitem(last=False)
            return self._opened[key]
