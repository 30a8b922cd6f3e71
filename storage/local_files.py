"""Files of a local disk, read into buffers of their own and created whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

__all__ = ["NewFile", "create", "is_unfinished", "link", "read_buffers", "unfinished_files"]

_MARK = "#"
"""Between a name and a number: so object_store, too, names a file that isn't finished, and doesn't list it."""


def read_buffers(
    path: str, ranges: Sequence[tuple[int, int]], allocators: Sequence[Callable[[int], memoryview]] | None = None
) -> Iterator[memoryview]:
    """Several (start, length) byte ranges of a file, each in a writable buffer of its own.

    Each is read when it is asked for, so that whoever works on one at a time finds it in the
    processor's cache.

    Args:
        path: of the file.
        ranges: to read, in this order.
        allocators: give the buffer of each; None: new ones.

    Raises:
        EOFError: the file ends before a range does.
        OSError: it can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for (start, length), allocate in zip(ranges, allocators or [_new] * len(ranges), strict=True):
            yield _read(descriptor, start, allocate(max(length, 0)))
    finally:
        os.close(descriptor)


def _new(length: int) -> memoryview:
    return np.empty(length, np.uint8).data  # not a bytearray, which would be filled with zeros first


def _read(descriptor: int, start: int, buffer: memoryview) -> memoryview:
    done, length = 0, len(buffer)
    while done < length:
        num_read = os.preadv(descriptor, [buffer[done:]], start + done)
        if num_read == 0:
            raise EOFError
        done += num_read
    return buffer


def create(path: str, data: bytes | bytearray | memoryview) -> bool:
    """Writes a file unless one is there; see `NewFile`.

    Returns:
        Whether the file was written; False if one was there.

    Raises:
        OSError: no space, no permission.
    """
    if os.path.lexists(path):
        return False
    file = NewFile(path)
    try:
        file.write(data)
        return file.finish()
    finally:
        file.discard()


def link(source: str, path: str) -> bool:
    """Gives a file, which never changes, a second name unless one is there; copies it to another disk.

    Returns:
        Whether there is a new file; False if one was there.

    Raises:
        OSError: no such source, no space, no permission.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        with open(source, "rb") as file:
            return create(path, file.read())
    _flush_folder(os.path.dirname(path))
    return True


class NewFile:
    """A file that comes to be piece by piece; others see all of it or nothing, even after a crash of the machine.

    The bytes go to a file beside it, which is flushed to the disk and then hard-linked to the name: a
    rename would overwrite. Whoever gives up before the end leaves nothing.

    Args:
        path: where the file shall be; folders are made.

    Raises:
        OSError: no space, no permission; of every method.
    """

    def __init__(self, path: str) -> None:
        self._path, self._folder = path, os.path.dirname(path)
        os.makedirs(self._folder, exist_ok=True)
        self._unfinished = f"{path}{_MARK}{secrets.randbits(63)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._unfinished, flags, 0o666)
        self._discard = weakref.finalize(self, _discard, self._descriptor, self._unfinished)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Adds bytes at the end."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self) -> bool:
        """Puts the file at its place; returns False if one was there, whose bytes are unchanged."""
        os.fsync(self._descriptor)
        try:
            os.link(self._unfinished, self._path)
        except FileExistsError:
            return False
        finally:
            self.discard()
        _flush_folder(self._folder)
        return True

    def discard(self) -> None:
        """Gives up what isn't finished."""
        self._discard()


def _discard(descriptor: int, path: str) -> None:
    os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _flush_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of one still being written, or left by a killed process.

    >>> is_unfinished("0#123"), is_unfinished("0"), is_unfinished("#a")
    (True, False, False)
    """
    _, mark, number = name.rpartition(_MARK)
    return bool(mark) and number.isdigit()


def unfinished_files(folder: str, older_than_s: float) -> Iterator[str]:
    """Paths of files below a folder that were begun and have not been written to for some time."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if is_unfinished(name):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - os.stat(path).st_mtime >= older_than_s:
                        yield path
