"""A loopback HTTP proxy before an object server: latency, a narrow line, refusals, lost and torn requests, and a log.

    with FaultyProxy(server.environment["AWS_ENDPOINT_URL"], Faults(latency_s=0.02)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        ...
        assert proxy.counts()["GET"] == 12

Requests pass as they are, `Host` included, so that their AWS signatures hold. It runs in a thread of
its own and serves any number of connections at once.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ["Faults", "FaultyProxy", "Refusal", "Request"]

_CHUNK_BYTES = 256 * 1024
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the server's; without a body to HEAD, as HTTP has it."""

    status: int
    code: str
    message: str

    @property
    def body(self) -> bytes:
        """As S3 words it."""
        error = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'.encode()


_SLOW_DOWN = Refusal(503, "SlowDown", "Please reduce your request rate.")


@dataclass(frozen=True, slots=True)
class Faults:
    """What the proxy does to requests; shares are of all requests, and of one request at most one fault befalls it."""

    latency_s: float = 0.0
    """Before each answer."""
    bytes_per_s: float | None = None
    """Of all bodies together, in both directions; None: as fast as it goes."""
    slow_down_share: float = 0.0
    """Answered by 503 SlowDown and not passed on."""
    refused_share: float = 0.0
    """Answered by `refusal` and not passed on."""
    refusal: Refusal = Refusal(403, "AccessDenied", "Access Denied.")
    reset_share: float = 0.0
    """The connection is reset and nothing is passed on."""
    timeout_share: float = 0.0
    """No answer for `timeout_s`, then the connection is reset; nothing is passed on."""
    timeout_s: float = 2.0
    lost_answer_share: float = 0.0
    """The server does what it was asked, and the connection is reset instead of the answer."""
    torn_upload_share: float = 0.0
    """Of uploads: half the body reaches the server, then both connections are reset."""

    def draw(self, method: str, generator: random.Random) -> str | None:
        """Which fault befalls a request, if any."""
        shares = {
            "slow_down": self.slow_down_share,
            "refused": self.refused_share,
            "reset": self.reset_share,
            "timeout": self.timeout_share,
            "lost_answer": self.lost_answer_share,
            "torn_upload": self.torn_upload_share if method == "PUT" else 0.0,
        }
        point = generator.random()
        for name, share in shares.items():
            if point < share:
                return name
            point -= share
        return None


@dataclass(slots=True)
class Request:
    """One request, noted before any of its answer goes out and completed as it goes by."""

    method: str
    target: str
    """Path and query."""
    fault: str | None
    """What befell it: a fault by its name, or `server` if the server couldn't be reached or broke off."""
    status: int | None = None
    """Of the answer; None: there was none."""
    sent_bytes: int = 0
    """Body of the request."""
    received_bytes: int = 0
    """Body of the answer."""


@dataclass(frozen=True, slots=True)
class _Head:
    """First line and header fields of a message."""

    raw: bytes
    first: list[str]
    fields: dict[str, str]

    @property
    def length(self) -> int | None:
        """Bytes of the body; None: it comes in chunks."""
        if "chunked" in self.fields.get("transfer-encoding", ""):
            return None
        return int(self.fields.get("content-length", "0"))


class _Lost(Exception):
    """The connection to the client has to be reset."""


class FaultyProxy:
    """A proxy on a free port of loopback, up within a `with` block.

    Args:
        endpoint: `http://host:port` of the server.
        faults: what happens to requests; may be set anew while the proxy runs.
        seed: of the draws which request meets which fault.
    """

    def __init__(self, endpoint: str, faults: Faults | None = None, seed: int = 0) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(f"endpoint: expected http:// on loopback, got {endpoint!r}")
        self._server_address = (parts.hostname, parts.port or 80)
        self.faults = faults or Faults()
        self.requests: list[Request] = []
        self.url = ""
        self._generator = random.Random(seed)
        self._idle: deque[_Streams] = deque()
        self._free_at_s = 0.0
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> FaultyProxy:
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="proxy", daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{ready.result(timeout=10)}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)

    def counts(self) -> Counter[str]:
        """Requests by method."""
        return Counter(request.method for request in self.requests)

    def fault_counts(self) -> Counter[str]:
        """Requests by what befell them, those that went well not counted."""
        return Counter(request.fault for request in self.requests if request.fault is not None)

    def clear(self) -> None:
        """Empties the log."""
        self.requests = []

    async def _serve(self, ready: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2 * _CHUNK_BYTES)
        ready.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for _, writer in self._idle:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one_request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the proxy stops
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Passes one request on; says whether the connection stays open."""
        head = await _read_head(reader)
        method, target = head.first[0], head.first[1]
        faults, fault = self.faults, self.faults.draw(method, self._generator)
        request = Request(method, target, fault)
        self.requests.append(request)
        try:
            await self._answer(request, head, reader, writer, faults)
        except _Lost:
            return False
        return head.fields.get("connection", "").lower() != "close"

    async def _answer(
        self,
        request: Request,
        head: _Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        faults: Faults,
    ) -> None:
        if faults.latency_s:
            await asyncio.sleep(faults.latency_s)
        if request.fault == "reset":
            raise _Lost
        if request.fault == "timeout":
            await asyncio.sleep(faults.timeout_s)
            raise _Lost
        if request.fault in ("slow_down", "refused"):
            async for chunk in self._body(reader, head):
                request.sent_bytes += len(chunk)
            await _refuse(request, _SLOW_DOWN if request.fault == "slow_down" else faults.refusal, writer)
            return
        if request.fault == "torn_upload":
            await self._tear(request, head, reader)
            raise _Lost
        upstream, answer = await self._ask(request, head, reader)
        if request.fault == "lost_answer":
            upstream[1].transport.abort()
            raise _Lost
        await self._give(request, answer, upstream, writer)

    async def _ask(self, request: Request, head: _Head, reader: asyncio.StreamReader) -> tuple[_Streams, _Head]:
        """Passes the request to the server; its streams and the head of its answer."""
        # An idle connection may have been closed by the server since; without a body the request can be sent again.
        idle = self._idle.popleft() if self._idle and head.length == 0 else None
        for streams in (idle, None) if idle else (None,):
            try:
                from_server, to_server = streams or await self._connect()
            except OSError as error:
                request.fault = "server"
                raise _Lost from error
            try:
                to_server.write(head.raw)
                async for chunk in self._body(reader, head):
                    request.sent_bytes += len(chunk)
                    to_server.write(chunk)
                    await to_server.drain()
                await to_server.drain()
                return (from_server, to_server), await _read_head(from_server)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                to_server.transport.abort()
                if streams is None:
                    request.fault = "server"
                    raise _Lost from error
        raise AssertionError("unreachable")

    async def _give(self, request: Request, answer: _Head, upstream: _Streams, writer: asyncio.StreamWriter) -> None:
        """Passes the server's answer to the client."""
        request.status = int(answer.first[1])
        writer.write(answer.raw)
        if request.method != "HEAD" and request.status not in (204, 304):
            try:
                async for chunk in self._body(upstream[0], answer):
                    request.received_bytes += len(chunk)
                    writer.write(chunk)
                    await writer.drain()
            except asyncio.IncompleteReadError as error:
                request.fault = "server"
                raise _Lost from error
        await writer.drain()
        if answer.fields.get("connection", "").lower() == "close":
            upstream[1].transport.abort()
        else:
            self._idle.append(upstream)

    async def _tear(self, request: Request, head: _Head, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            _, to_server = await self._connect()
            to_server.write(head.raw)
            half = await reader.readexactly((head.length or 0) // 2)
            request.sent_bytes = len(half)
            to_server.write(half)
            await to_server.drain()
            to_server.transport.abort()

    async def _connect(self) -> _Streams:
        return await asyncio.open_connection(*self._server_address, limit=2 * _CHUNK_BYTES)

    async def _body(self, source: asyncio.StreamReader, head: _Head) -> AsyncIterator[bytes]:
        """The body of a message as it comes, at the pace of the line; with the sizes of chunks if it comes in such."""
        if head.length is not None:
            async for chunk in self._exactly(source, head.length):
                yield chunk
            return
        size = -1
        while size != 0:
            line = await source.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line
            async for chunk in self._exactly(source, size + 2):  # with the line's end
                yield chunk

    async def _exactly(self, source: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
        while length > 0:
            chunk = await source.read(min(length, _CHUNK_BYTES))
            if not chunk:
                raise asyncio.IncompleteReadError(b"", length)
            length -= len(chunk)
            await self._paced(len(chunk))
            yield chunk

    async def _paced(self, num_bytes: int) -> None:
        """Waits until the line has carried that much more."""
        if self.faults.bytes_per_s is None:
            return
        now_s = self._loop.time()
        self._free_at_s = max(now_s, self._free_at_s) + num_bytes / self.faults.bytes_per_s
        await asyncio.sleep(self._free_at_s - now_s)


async def _refuse(request: Request, refusal: Refusal, writer: asyncio.StreamWriter) -> None:
    request.status = refusal.status
    body = b"" if request.method == "HEAD" else refusal.body
    writer.write(b"HTTP/1.1 %d Refused\r\nContent-Type: application/xml\r\n" % refusal.status)
    writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return _Head(raw, first.split(" ", 2), fields)
