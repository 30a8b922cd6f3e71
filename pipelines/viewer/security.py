"""What stands before every page: only this machine, only with the token, and a browser that loads nothing else.

The token is in the address that the command prints; the first answer puts it into a cookie and takes it out of the
address. A page of another site can't read the cookie (HttpOnly, SameSite=Strict), can't reach the server under a name
of its own (the `Host` is checked, against DNS rebinding) and can't post (the `Origin` is checked).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "cookie_name", "new_token"]

_POLICY = "Content-Security-Policy"
_HEADERS = {
    _POLICY: "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without a referrer a form is posted with the origin `null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TOKEN_BYTES = 32
_MAX_BODY_BYTES = 256 * 1024
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_REFUSED = (
    "403: this page needs the token in its address. Open the address that `sailloft view` printed; a server that was "
    "started again has another one.\n"
)


def new_token() -> str:
    """A token that can't be guessed."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def cookie_name(port: int) -> str:
    """Name of the cookie of the server at a port: cookies don't tell ports apart by themselves."""
    return f"sailloft_view_{port}"


class Guard:
    """Lets through requests to this machine that carry the token.

    Args:
        app: the application behind it.
        token: to be shown.
        port: of loopback, where it is served.
        uploads: how many bytes may be posted to a path, where that is more than a form or JSON of ours takes.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, uploads: Mapping[str, int] | None = None) -> None:
        self._app, self._token, self._cookie = app, token, cookie_name(port)
        self._uploads = uploads or {}
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no page speaks over web sockets
            await PlainTextResponse("404\n", 404)(scope, receive, send)
            return
        response = self._refusal(Request(scope))
        await (self._app if response is None else response)(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that goes no further; None: it may."""
        headers = request.headers
        if headers.get("host") not in self._hosts:
            return PlainTextResponse("403: unknown host\n", 403)
        shown = request.query_params.get("token")
        if shown is not None:
            if request.method != "GET" or not self._is_token(shown):
                return PlainTextResponse(_REFUSED, 403)
            return self._admitted(request)
        if not self._is_token(request.cookies.get(self._cookie, "")):
            return PlainTextResponse(_REFUSED, 403)
        if request.method not in _SAFE_METHODS:
            return self._refused_write(request.url.path, headers)
        return None

    def _is_token(self, shown: str) -> bool:
        return secrets.compare_digest(shown.encode(), self._token.encode())

    def _admitted(self, request: Request) -> Response:
        """To the same page without the token, with the cookie."""
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        path = "/" + request.url.path.lstrip("/")  # `//host` would lead elsewhere
        response = RedirectResponse(f"{path}?{urlencode(rest)}" if rest else path, 303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return response

    def _refused_write(self, path: str, headers: Headers) -> Response | None:
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            return PlainTextResponse("403: posted from another site\n", 403)
        length = headers.get("content-length", "")
        limit = self._uploads.get(path, _MAX_BODY_BYTES)
        # A body in chunks has no length beforehand, whatever is said of it.
        if "transfer-encoding" in headers or not length.isdecimal() or int(length) > limit:
            return PlainTextResponse(f"413: expected a body of at most {limit} bytes\n", 413)
        return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                if name != _POLICY or name not in headers:  # a page that isn't ours brings a policy of its own
                    headers[name] = value
        await send(message)

    return sending
