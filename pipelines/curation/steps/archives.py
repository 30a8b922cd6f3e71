"""Pictures inside zip, tar and Parquet files: a path may lead through such a file to one of its members.

`train2014.zip/COCO_train2014_000000000009.jpg` is the member of that name in `train2014.zip`, if that is a file; a
folder may be called so, too. A member is found by its whole path in the archive, or else, if only one fits, by its path
below a top folder: archives of a folder hold that folder (see `MemberIndex`). Archives in archives aren't opened.

What was learnt of an archive is kept in the process, for all threads; it isn't part of any pickle.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipelines.curation.records import RecordError
from pipelines.curation.steps.members import Archive, ArchiveFile, Member
from pipelines.curation.steps.parquet_archive import ParquetArchive, iterate_parquet_pictures
from pipelines.curation.steps.tar_archive import TarArchive, iterate_tar
from pipelines.curation.steps.zip_archive import ZipArchive, iterate_zip
from storage.schema import RejectReason

__all__ = ["KeptArchives", "StampedFile", "archive_paths", "is_archive", "iterate_members", "kept_archives"]

_T = TypeVar("_T")
_SUFFIX = r"\.(?:zip|tar|tar\.gz|tgz|parquet)"
_LEADS_IN = re.compile(_SUFFIX + "(?=/)", re.IGNORECASE)
_IS_ARCHIVE = re.compile(_SUFFIX + r"\Z", re.IGNORECASE)
_MAX_ARCHIVES = 1024
_MAX_MEMBERS = 1_000_000
"""Members of all archives that are known at a time; each takes some 300 bytes."""
_FRESH_S = 30.0
"""How long a remote archive is believed to be as it was."""

_OPENERS: dict[str, Callable[[ArchiveFile], Archive]] = {
    "zip": ZipArchive,
    "tar": TarArchive,
    "parquet": ParquetArchive,
}
_LISTINGS: dict[str, Callable[[ArchiveFile], Iterator[Member]]] = {
    "zip": iterate_zip,
    "tar": iterate_tar,
    "parquet": iterate_parquet_pictures,
}


class StampedFile(ArchiveFile, Protocol):
    """A file that can tell whether it is still the same."""

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by in the process: its folder's URL and its path there."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether a look at its stamp is a request."""
        ...

    def stamp(self) -> tuple[int, ...] | None:
        """Changes when the file does; None: there is no such file."""
        ...


def archive_paths(path: str) -> Iterator[tuple[str, str]]:
    """The archives that a path may lead into, each with the rest of the path.

    >>> list(archive_paths("a.zip/b.tar/c.jpg")), list(archive_paths("a.zip"))
    ([('a.zip', 'b.tar/c.jpg'), ('a.zip/b.tar', 'c.jpg')], [])
    """
    for found in _LEADS_IN.finditer(path):
        yield path[: found.end()], path[found.end() + 1 :]


def is_archive(path: str) -> bool:
    """Whether a file of that name is an archive.

    >>> is_archive("train2014.ZIP"), is_archive("train.tar.gz"), is_archive("a.jpg")
    (True, True, False)
    """
    return _IS_ARCHIVE.search(path) is not None


def iterate_members(file: ArchiveFile) -> Iterator[Member]:
    """The members of an archive, in its order; folders aren't among them.

    Raises:
        RecordError: IMAGE_UNREADABLE: the archive is damaged, cut off, compressed as a whole, or of another format.
        InfrastructureError: the store can't be reached.
    """
    yield from _by_suffix(_LISTINGS, file)(file)


@dataclass(slots=True)
class _Known:
    stamp: tuple[int, ...] | None
    seen_s: float
    archive: Archive | RecordError | None
    """None: there is no such file."""

    @property
    def num_members(self) -> int:
        return 0 if self.archive is None or isinstance(self.archive, RecordError) else len(self.archive)


class KeptArchives:
    """Archives that were used last, up to a number of them and of their members. Threads share it.

    Args:
        max_archives: that are known at a time.
        max_members: of all of them; a single archive may have more.
    """

    def __init__(self, max_archives: int = _MAX_ARCHIVES, max_members: int = _MAX_MEMBERS) -> None:
        self._max_archives, self._max_members = max_archives, max_members
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._num_members = 0
        self._lock = threading.Lock()
        # Many threads ask for one archive at once: one reads its index, the others wait for that.
        self._opening = tuple(threading.Lock() for _ in range(64))

    def __len__(self) -> int:
        return len(self._known)

    def read(self, file: StampedFile, member: str) -> bytes | None:
        """The bytes of a member; None: there is no such archive.

        Raises:
            RecordError: no such member, an ambiguous name, a link, or one too large, damaged or encrypted.
            InfrastructureError: the store can't be reached.
        """
        archive = self._find(file)
        if archive is None:
            with self._opening[hash(file.key) % len(self._opening)]:
                archive = self._find(file) or self._open(file)
        if isinstance(archive.archive, RecordError):
            raise RecordError(archive.archive.reason, archive.archive.detail)
        return None if archive.archive is None else archive.archive.read(member)

    def _find(self, file: StampedFile) -> _Known | None:
        with self._lock:
            known = self._known.get(file.key)
            if known is None:
                return None
            self._known.move_to_end(file.key)
        now_s = time.monotonic()
        if file.is_remote and now_s - known.seen_s < _FRESH_S:
            return known
        if file.stamp() != known.stamp:
            return None
        known.seen_s = now_s
        return known

    def _open(self, file: StampedFile) -> _Known:
        stamp = file.stamp()
        archive: Archive | RecordError | None = None
        if stamp is not None:
            try:
                archive = _by_suffix(_OPENERS, file)(file)
            except RecordError as error:
                archive = error
        known = _Known(stamp, time.monotonic(), archive)
        with self._lock:
            self._forget(file.key)
            self._known[file.key] = known
            self._num_members += known.num_members
            while len(self._known) > 1 and (
                len(self._known) > self._max_archives or self._num_members > self._max_members
            ):
                self._forget(next(iter(self._known)))
        return known

    def _forget(self, key: tuple[str, str]) -> None:
        old = self._known.pop(key, None)
        self._num_members -= 0 if old is None else old.num_members


kept_archives = KeptArchives()
"""Those of this process."""


def _by_suffix(table: dict[str, Callable[[ArchiveFile], _T]], file: ArchiveFile) -> Callable[[ArchiveFile], _T]:
    suffix = file.path.lower().rpartition(".")[2]
    if suffix not in table:
        raise RecordError(
            RejectReason.IMAGE_UNREADABLE,
            f"{file.path}: members of a compressed tar archive can't be read one by one; unpack its compression, so "
            "that it is a plain .tar",
        )
    return table[suffix]
