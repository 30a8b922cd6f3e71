"""Whether anything in a folder was opened, as the kernel saw it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["opened_in"]

_IN_ACCESS, _IN_OPEN = 0x01, 0x20
_IN_NONBLOCK = os.O_NONBLOCK
_EVENT_BYTES = 16  # before the name, of which the last four say how long it is


@contextmanager
def opened_in(folder: Path) -> Generator[list[str]]:
    """Names of what is opened or read in a folder, by Python or not, complete when the block ends.

    Where the kernel has no inotify, the list stays empty.
    """
    names: list[str] = []
    if sys.platform != "linux":
        yield names
        return
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(_IN_NONBLOCK)
    if watch < 0 or libc.inotify_add_watch(watch, bytes(folder), _IN_ACCESS | _IN_OPEN) < 0:
        raise OSError(ctypes.get_errno(), "inotify", str(folder))
    try:
        yield names
    finally:
        names.extend(_names(watch))
        os.close(watch)


def _names(watch: int) -> list[str]:
    found: list[str] = []
    while True:
        try:
            data = os.read(watch, 2**16)
        except BlockingIOError:
            return found
        while data:
            end = _EVENT_BYTES + int.from_bytes(data[12:16], sys.byteorder)
            found.append(os.fsdecode(data[_EVENT_BYTES:end].rstrip(b"\0")) or ".")
            data = data[end:]
