"""Members of a zip archive, each read by one range; stored or deflated, and checked against its CRC."""

from __future__ import annotations

import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress

from pipelines.curation.records import RecordError
from pipelines.curation.steps.members import ArchiveFile, Member, MemberIndex, check_size, plain_name
from storage.schema import RejectReason

__all__ = ["ZipArchive", "iterate_zip"]

# What zipfile raises on damaged directories, by reading and by fuzzing.
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, MemoryError, EOFError, IndexError,
            struct.error, OSError)  # fmt: skip
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"
_SLACK_BYTES = 512
"""Room for what stands before a member's data, so that one read brings both."""
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_IS_LINK = 0xA


class ZipArchive:
    """A zip archive whose central directory was read.

    Args:
        file: the archive.

    Raises:
        RecordError: IMAGE_UNREADABLE: it is cut off, damaged, or no zip archive.
        InfrastructureError: the store can't be reached.
    """

    def __init__(self, file: ArchiveFile) -> None:
        self._file = file
        infos, self._size = _directory(file)
        self._index = MemberIndex(file.path, map(_name, infos))
        # Columns: a ZipInfo of each member would take ten times the memory.
        self._offsets = array("Q", (info.header_offset for info in infos))
        self._stored = array("Q", (info.compress_size for info in infos))
        self._sizes = array("Q", (info.file_size for info in infos))
        self._checksums = array("Q", (info.CRC for info in infos))
        self._flags = array("H", (info.flag_bits for info in infos))
        self._methods = array("H", (info.compress_type for info in infos))
        self._is_link = bytes(info.external_attr >> 28 == _IS_LINK for info in infos)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, member: str) -> bytes:
        """The bytes of a member.

        Raises:
            RecordError: IMAGE_MISSING, FIELD_INVALID where several have that name, PATH_UNSAFE for a link,
                IMAGE_TOO_LARGE before anything is decompressed, or IMAGE_UNREADABLE.
            InfrastructureError: the store can't be reached.
        """
        place = self._index.place(member)
        path = f"{self._file.path}/{member}"
        self._check(place, path)
        stored, size = self._stored[place], self._sizes[place]
        data = self._data(place, path)
        if self._methods[place] == zipfile.ZIP_DEFLATED:
            data = _inflated(data, size, path)
        elif stored != size:
            raise _unreadable(path, f"expected as many bytes as are stored, {stored}, got {size}")
        if zlib.crc32(data) != self._checksums[place]:
            raise _unreadable(path, "its CRC doesn't match; fetch the archive again")
        return data

    def _check(self, place: int, path: str) -> None:
        if self._is_link[place]:
            raise RecordError(RejectReason.PATH_UNSAFE, f"{path}: expected a plain file in the archive, got a link")
        if self._flags[place] & _ENCRYPTED:
            raise _unreadable(path, "it is encrypted; unpack the archive with its password")
        if self._methods[place] not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _unreadable(
                path, f"expected it stored or deflated, got compression {self._methods[place]}; pack the archive anew"
            )
        check_size(path, max(self._stored[place], self._sizes[place]))

    def _data(self, place: int, path: str) -> bytes:
        """The bytes of a member as they are stored; what stands before them has its length in itself alone."""
        start, stored = self._offsets[place], self._stored[place]
        length = min(_LOCAL_HEADER.size + _SLACK_BYTES + stored, max(self._size - start, 0))
        found = self._file.read(start, length)
        if len(found) < _LOCAL_HEADER.size or not found.startswith(_SIGNATURE):
            raise _unreadable(path, "its header isn't where the directory says; fetch the archive again")
        _, num_name, num_extra = _LOCAL_HEADER.unpack_from(found)
        skip = _LOCAL_HEADER.size + num_name + num_extra
        if start + skip + stored > self._size:
            raise _unreadable(path, f"ends at byte {start + skip + stored} of {self._size}; fetch the archive again")
        if skip + stored > len(found):
            return self._file.read(start + skip, stored)
        return found[skip : skip + stored]


def iterate_zip(file: ArchiveFile) -> Iterator[Member]:
    """The members of a zip archive, in the order of its directory; raises as `ZipArchive` does."""
    for name in map(_name, _directory(file)[0]):
        yield Member(name, f"member={name}")


def _directory(file: ArchiveFile) -> tuple[list[zipfile.ZipInfo], int]:
    """The members that aren't folders, and the size of the archive."""
    with file.open() as opened:
        try:
            with zipfile.ZipFile(opened) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
            size = opened.seek(0, 2)
            if any(not 0 <= info.header_offset < size or info.CRC < 0 for info in infos):
                raise zipfile.BadZipFile("a member lies outside of the file")
        except _DAMAGED as error:
            raise _unreadable(
                file.path,
                f"expected a zip archive, got bytes that can't be read as one ({error}); fetch the archive again",
            ) from None
    return infos, size


def _name(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & _UTF8 and not name.isascii():
        # Many programs write UTF-8 without saying so; the standard's other encoding then gives gibberish.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return plain_name(name)


def _inflated(data: bytes, size: int, path: str) -> bytes:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise _unreadable(path, f"can't be decompressed ({error}); fetch the archive again") from None
    if len(found) != size or not decoder.eof:
        raise _unreadable(path, f"expected {size} bytes, as the directory says, got fewer or more")
    return found


def _unreadable(path: str, what: str) -> RecordError:
    return RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: {what}")
