"""Members of an uncompressed tar archive: where they lie in it, from one pass over its headers."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from array import array
from collections.abc import Iterator
from io import BufferedIOBase
from typing import cast

from pipelines.curation.records import RecordError
from pipelines.curation.steps.members import ArchiveFile, Member, MemberIndex, check_size, plain_name
from storage.schema import RejectReason

__all__ = ["TarArchive", "escaped", "iterate_headers", "iterate_tar"]

# What tarfile raises on damaged headers, by reading and by fuzzing.
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError, EOFError, IndexError, KeyError,
            TypeError, AttributeError, struct.error, OSError)  # fmt: skip
_MAX_HEADER_BYTES = 2**20
"""Of one header, long names and attributes included; more is taken for damage."""
_PLAIN, _LINK, _OTHER = range(3)


def iterate_headers(file: BufferedIOBase) -> Iterator[tarfile.TarInfo]:
    """The members of a tar archive that aren't folders.

    tarfile takes a damaged header behind the first one for the end of the archive, and loses what follows; here only
    the mark of the end, or the end of the file, is one.

    Args:
        file: seekable; it may be read elsewhere between two members.

    Raises:
        tarfile.ReadError: it is compressed, cut off, damaged, or no tar archive.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        with tarfile.open(fileobj=cast(BufferedIOBase, _Headers(file)), mode="r:") as archive:
            end = 0
            while (member := archive.next()) is not None:
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # it would keep every one
                if member.size < 0 or archive.offset <= end:
                    raise tarfile.ReadError(f"a header at byte {member.offset} of a member of {member.size} bytes")
                end = archive.offset
                if _kind(member) == _PLAIN and member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} ends at byte {member.offset_data + member.size}")
                if not member.isdir():
                    yield member
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"a damaged header at byte {archive.offset}")
    except tarfile.TarError as error:
        raise tarfile.ReadError(f"{error}; it has {size} bytes") from None
    except _DAMAGED as error:
        raise tarfile.ReadError(f"{type(error).__name__}: {error}; it has {size} bytes") from None


class _Headers(io.RawIOBase):
    """The file as tarfile sees it: a header that claims gigabytes is damage and isn't read."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class TarArchive:
    """A tar archive whose headers were read.

    Args:
        file: the archive.

    Raises:
        RecordError: IMAGE_UNREADABLE: it is compressed, or damaged from its beginning on.
        InfrastructureError: the store can't be reached.
    """

    def __init__(self, file: ArchiveFile) -> None:
        self._file = file
        self._offsets, self._sizes, self._kinds = array("Q"), array("Q"), array("B")
        self._damage: RecordError | None = None
        self._index = MemberIndex(file.path, self._read_headers())
        if self._damage is not None and not self._offsets:
            raise self._damage

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, member: str) -> bytes:
        """The bytes of a member.

        Raises:
            RecordError: IMAGE_MISSING, FIELD_INVALID where several have that name, PATH_UNSAFE for a link,
                IMAGE_TOO_LARGE, or IMAGE_UNREADABLE, also for what may stand behind damage.
            InfrastructureError: the store can't be reached.
        """
        try:
            place = self._index.place(member)
        except RecordError as error:
            if self._damage is None or error.reason is not RejectReason.IMAGE_MISSING:
                raise
            raise RecordError(self._damage.reason, self._damage.detail) from None
        path = f"{self._file.path}/{member}"
        error = _error_of(self._kinds[place], path)
        if error is not None:
            raise error
        check_size(path, self._sizes[place])
        return self._file.read(self._offsets[place], self._sizes[place])

    def _read_headers(self) -> Iterator[str]:
        with self._file.open() as opened:
            try:
                for member in iterate_headers(opened):
                    self._offsets.append(member.offset_data)
                    self._sizes.append(member.size)
                    self._kinds.append(_kind(member))
                    yield plain_name(member.name)
            except tarfile.ReadError as error:
                self._damage = _damaged(self._file.path, error)


def iterate_tar(file: ArchiveFile) -> Iterator[Member]:
    """The members of a tar archive, each with its extent.

    Raises:
        RecordError: IMAGE_UNREADABLE: it is compressed, cut off, damaged, or no tar archive.
        InfrastructureError: the store can't be reached.
    """
    with file.open() as opened:
        try:
            for member in iterate_headers(opened):
                name = plain_name(member.name)
                error = _error_of(_kind(member), f"{file.path}/{escaped(name)}")
                yield Member(name, f"member={escaped(name)}", (member.offset_data, member.size), error)
        except tarfile.ReadError as error:
            raise _damaged(file.path, error) from None


def escaped(name: str) -> str:
    """A name that can be written as Unicode: names of members needn't be."""
    return name.encode(errors="backslashreplace").decode()


def _kind(member: tarfile.TarInfo) -> int:
    if member.issym() or member.islnk():
        return _LINK
    return _PLAIN if member.isfile() and member.sparse is None else _OTHER


def _error_of(kind: int, path: str) -> RecordError | None:
    if kind == _LINK:
        return RecordError(RejectReason.PATH_UNSAFE, f"{path}: expected a plain file in the archive, got a link")
    if kind == _OTHER:
        return RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: expected a plain file in the archive")
    return None


def _damaged(path: str, error: tarfile.ReadError) -> RecordError:
    return RecordError(
        RejectReason.IMAGE_UNREADABLE,
        f"{path}: expected an uncompressed tar archive, got bytes that can't be read as one ({error}); "
        "fetch it again, or unpack its compression",
    )
