"""Tables of image ids in which window after window of a corpus is looked up: each is fetched and unpacked once."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import io
import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from storage.errors import InfrastructureError

__all__ = ["IdTables"]

ipc: Any = pyarrow.ipc


@dataclass(frozen=True, slots=True)
class _Copy:
    start: int
    size_bytes: int
    num_rows: int


class IdTables:
    """Tables by name, kept in a file without a name on the local disk; safe to read from several threads.

    A table all of whose images were found in some windows concerns no other window, since a corpus has each image
    once. So a table that belongs to one window is looked at by those before it, and by none after it.

    Args:
        num_windows: of the corpus; if it has a single one, nothing is kept.
    """

    def __init__(self, num_windows: int) -> None:
        self._file = None
        if num_windows > 1:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed with this object)
            weakref.finalize(self, self._file.close)
        self._end, self._lock = 0, threading.Lock()
        self._copies: dict[str, _Copy] = {}
        self._found: dict[str, dict[int, int]] = {}

    def read(self, name: str, fetch: Callable[[], pa.Table]) -> pa.Table:
        """A table, fetched if it isn't here yet.

        Raises:
            InfrastructureError: the local disk is full.
        """
        if self._file is None:
            return fetch()
        copy = self._copies.get(name)
        if copy is None:
            table = fetch()
            self._keep(name, table)
            return table
        data = os.pread(self._file.fileno(), copy.size_bytes, copy.start)
        return ipc.open_stream(data).read_all()

    def note(self, name: str, window: int, num_found: int) -> None:
        """How many rows of a table are images of a window."""
        if name in self._copies:
            self._found.setdefault(name, {})[window] = num_found

    def may_hold(self, name: str, window: int) -> bool:
        """Whether a table can have images of a window."""
        if name not in self._copies:
            return True
        elsewhere = sum(count for other, count in self._found.get(name, {}).items() if other != window)
        return elsewhere < self._copies[name].num_rows

    def _keep(self, name: str, table: pa.Table) -> None:
        assert self._file is not None
        sink = io.BytesIO()
        # Ids are digits of hashes: half of their bytes say nothing.
        with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as stream:
            stream.write_table(table)
        data = sink.getvalue()
        try:
            with self._lock:
                written = 0
                while written < len(data):  # a disk that fills takes a part, and fails the next time
                    written += os.pwrite(self._file.fileno(), data[written:], self._end + written)
                self._copies[name] = _Copy(self._end, len(data), table.num_rows)
                self._end += len(data)
        except OSError as error:
            raise InfrastructureError(
                f"{tempfile.gettempdir()}: no room for {len(data)} bytes of image ids: {error}; free space there, "
                "or let TMPDIR name another folder"
            ) from error
