"""Serving on loopback, and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from pipelines.viewer.application import create_application
from pipelines.viewer.pages import Page
from pipelines.viewer.security import new_token
from storage.errors import UsageError

__all__ = ["LOOPBACK", "bound_socket", "serve"]

LOOPBACK = "127.0.0.1"


def bound_socket(port: int) -> socket.socket:
    """A socket of loopback.

    Args:
        port: to listen on; 0: any free one.

    Raises:
        UsageError: somebody else listens there.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A server that was killed a moment ago doesn't keep its port.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except OSError as error:
        listening.close()
        raise UsageError(
            f"--port {port}: expected a free port of {LOOPBACK}, got: {error}; choose another one"
        ) from None
    return listening


def serve(page: Page, port: int, announce: Callable[[str], None]) -> None:
    """Serves a page until the process is interrupted.

    Args:
        page: what is shown.
        port: of loopback; 0: any free one.
        announce: told the address, with its token, once the port is bound.

    Raises:
        UsageError: the port isn't free.
    """
    with bound_socket(port) as listening:
        number: int = listening.getsockname()[1]
        token = new_token()
        config = uvicorn.Config(
            create_application(page, token, number),
            log_level="warning",
            access_log=False,  # it would write the token down
            server_header=False,
            lifespan="off",
            ws="none",
        )
        announce(f"http://{LOOPBACK}:{number}/?token={token}")
        uvicorn.Server(config).run(sockets=[listening])
