"""A loopback web server over a folder that answers ranges and lists nothing, as object stores' public addresses do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

__all__ = ["WebServer", "serve_folder", "serve_folder_apart"]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class WebServer:
    """A running server."""

    url: str
    counts: Counter[str] = field(default_factory=Counter[str])
    """Requests by method."""


def _new_server(folder: Path, counts: Counter[str]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # header and body are sent apart

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

        def _answer(self, *, with_body: bool) -> None:
            counts[self.command] += 1
            path = folder / unquote(self.path).lstrip("/")
            if not path.is_file():
                self.send_response(HTTPStatus.NOT_FOUND)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with path.open("rb") as file:
                total = os.fstat(file.fileno()).st_size
                start, stop = 0, total
                wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
                if wanted:
                    first, last = wanted.groups()
                    start = int(first) if first else max(0, total - int(last))
                    stop = min(total, int(last) + 1) if first and last else total
                self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
                self.send_header("Content-Length", str(stop - start))
                self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
                self.end_headers()
                if with_body and stop > start:
                    self.connection.sendfile(file, start, stop - start)

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def serve_folder(folder: Path) -> Generator[WebServer]:
    """Serves the files of a folder on loopback as long as the context lasts."""
    counts: Counter[str] = Counter()
    server = _new_server(folder, counts)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield WebServer(f"http://127.0.0.1:{server.server_port}", counts)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serve_folder_apart(folder: Path) -> Generator[str]:
    """The same in a process of its own, so that it takes nothing from the reader's; gives its URL."""
    with subprocess.Popen([sys.executable, "-m", "tests.web_server", str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.terminate()


def _main() -> None:
    server = _new_server(Path(sys.argv[1]), Counter())
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _main()
