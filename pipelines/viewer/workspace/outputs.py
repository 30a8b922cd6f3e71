"""Pages of the outputs of a workspace, below its own: opened when they are first asked for."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from pipelines.viewer.mounting import page_routes
from pipelines.viewer.pages import Grows, Page

__all__ = ["OutputPages"]

_KEPT_PAGES = 8
"""An open page holds tables of what it shows."""


@dataclass(slots=True)
class _Opened:
    page: Page
    router: Router
    looked_s: float
    """When it was last known to show all that there is, by the monotonic clock."""


class OutputPages:
    """An ASGI application for all outputs; the path parameter `key` says which.

    Args:
        open_page: the page of an output, by its key and by the path below which it is to lie; None: no such output.
        below: path of this application; the key comes behind it.
        look_every_s: an output that may grow is looked at this often, while its pages are asked for.
    """

    def __init__(self, open_page: Callable[[str, str], Page | None], below: str, look_every_s: float = 10.0) -> None:
        self._open_page, self._below, self._look_every_s = open_page, below, look_every_s
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._opening: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        router = await run_in_threadpool(self._router, scope["path_params"]["key"])
        await router(scope, receive, send)

    def _router(self, key: str) -> Router:
        with self._lock:
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:  # an output that takes long to open holds up nobody but those who ask for it
            opened = self._opened.get(key)
            if opened is None or self._has_grown(opened):
                opened = self._open(key)
            with self._lock:
                self._opened[key] = opened
                self._opened.move_to_end(key)
                while len(self._opened) > _KEPT_PAGES:
                    self._opened.popitem(last=False)
            return opened.router

    def _has_grown(self, opened: _Opened) -> bool:
        if not isinstance(opened.page, Grows) or time.monotonic() - opened.looked_s < self._look_every_s:
            return False
        opened.looked_s = time.monotonic()
        return opened.page.has_grown()

    def _open(self, key: str) -> _Opened:
        looked_s = time.monotonic()
        path = f"{self._below}/{key}"
        page = self._open_page(key, path)
        if page is None:
            self._opening.pop(key, None)  # addresses that somebody makes up leave nothing behind
            raise HTTPException(404, "There is no such output in this workspace, or no page that shows it.")
        return _Opened(page, Router(page_routes(page, path)), looked_s)
