"""What archives of pictures have in common: their members, how one is found by name, and how large it may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Protocol

from pipelines.curation.records import RecordError
from storage.schema import RejectReason

__all__ = ["MAX_MEMBER_BYTES", "Archive", "ArchiveFile", "Member", "MemberIndex", "check_size", "plain_name"]

MAX_MEMBER_BYTES = 2**28
"""Size beyond which a member is refused before it is read; the largest picture that is decoded has a third of it."""


class ArchiveFile(Protocol):
    """The file that an archive lies in, wherever that is."""

    @property
    def path(self) -> str:
        """Its path below the source's folder; messages name it."""
        ...

    def open(self) -> BufferedIOBase:
        """The file, seekable, to be closed; raises RecordError and InfrastructureError."""
        ...

    def read(self, start: int, size: int) -> bytes:
        """Bytes of it; raises RecordError where it ends before them, and InfrastructureError."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive, as a listing gives it."""

    name: str
    """Under which it is read, below the archive's own path."""
    locator: str
    """Leads back to it, for reports."""
    extent: tuple[int, int] | None = None
    """Offset and size in bytes in the archive, where its bytes lie there as they are."""
    error: RecordError | None = None
    """Why it can't be read, where that is known already."""


class Archive(Protocol):
    """An archive whose index was read. Threads share it."""

    def __len__(self) -> int:
        """Number of members."""
        ...

    def read(self, member: str) -> bytes:
        """The bytes of a member; raises RecordError and InfrastructureError."""
        ...


class MemberIndex:
    """Finds members by name: by their whole path, or else by their path below a top folder if only one member fits.

    `train2014.zip` often holds `train2014/a.jpg`; that member is found as `train2014/a.jpg` and as `a.jpg`.

    Args:
        archive: messages name it.
        names: paths of all members, in order; None for those that have none.
    """

    def __init__(self, archive: str, names: Iterable[str | None]) -> None:
        self._archive = archive
        self._places: dict[str, int] = {}
        self._below: dict[str, int] | None = None
        for place, name in enumerate(names):
            if name is not None:
                self._places[name] = -1 if name in self._places else place

    def place(self, member: str) -> int:
        """Which of the members it is.

        Raises:
            RecordError: IMAGE_MISSING: there is none; FIELD_INVALID: there are several.
        """
        place = self._places.get(member)
        if place is not None:
            if place < 0:
                raise RecordError(RejectReason.FIELD_INVALID, f"{self._archive}: holds {member} more than once")
            return place
        place = self._below_top().get(member)
        if place is None:
            raise RecordError(
                RejectReason.IMAGE_MISSING, f"{self._archive}: holds no {member}, neither as it is nor below one folder"
            )
        if place < 0:
            raise RecordError(
                RejectReason.FIELD_INVALID,
                f"{self._archive}: holds {member} below several folders; name it with its own",
            )
        return place

    def is_unique(self, name: str) -> bool:
        """Whether exactly one member has this whole path."""
        return self._places.get(name, -1) >= 0

    def _below_top(self) -> dict[str, int]:
        if self._below is None:
            below: dict[str, int] = {}
            for name, place in self._places.items():
                _, slash, rest = name.partition("/")
                if slash:
                    below[rest] = -1 if rest in below else place
            self._below = below
        return self._below


def plain_name(name: str) -> str:
    """The path of a member as it is looked for: `tar` of a folder writes `./a.jpg`.

    >>> plain_name("./train/a.jpg"), plain_name("a.jpg")
    ('train/a.jpg', 'a.jpg')
    """
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def check_size(path: str, size: int) -> None:
    """Refuses a member, or a part of a file, that is larger than any picture.

    Raises:
        RecordError: IMAGE_TOO_LARGE.
    """
    if size > MAX_MEMBER_BYTES:
        raise RecordError(
            RejectReason.IMAGE_TOO_LARGE, f"{path}: expected at most {MAX_MEMBER_BYTES} bytes, got {size}"
        )
