"""File names of a source, kept inside its folder, and what lies under them: files, and members of archives."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path

from pipelines.curation.records import RecordError
from pipelines.curation.steps.archives import archive_paths, kept_archives
from pipelines.curation.steps.fields import shown
from pipelines.curation.steps.members import check_size
from storage.errors import CorruptObject, ObjectNotFound
from storage.objects import Objects
from storage.schema import RejectReason

__all__ = ["FolderFile", "SourceFolder", "safe_join"]

_MAX_NAME_BYTES = 255  # of one path segment, on every common file system
_KINDS = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "device"),
          (stat.S_ISBLK, "device"))  # fmt: skip


def safe_join(folder: str, name: str) -> str:
    """The path of `name` below `folder`, both relative to a source's root, with forward slashes.

    Raises:
        RecordError: the name is empty, absolute, holds `..`, control characters, a backslash or a drive, or is no
            valid Unicode.

    >>> safe_join("images/train2014", "COCO_train2014_000000000154.jpg")
    'images/train2014/COCO_train2014_000000000154.jpg'
    """
    segments = name.split("/")
    unsafe = (
        not name
        or name.startswith(("/", "~"))
        or ":" in segments[0]
        or "\\" in name
        or any(ord(character) < 32 or ord(character) == 127 or 0xD800 <= ord(character) < 0xE000 for character in name)
        or any(segment in ("", ".", "..") or len(segment.encode()) > _MAX_NAME_BYTES for segment in segments)
    )
    if unsafe:
        raise RecordError(
            RejectReason.PATH_UNSAFE, f"file name: expected a plain path below the source's folder, got {shown(name)}"
        )
    return f"{folder.strip('/')}/{name}" if folder.strip("/") else name


@dataclass(frozen=True)
class SourceFolder:
    """A source's folder at any URL, from which nothing outside of it is read (picklable).

    Args:
        url: as `Objects` takes it; never created by reading.
    """

    url: str

    def __reduce__(self) -> tuple[type[SourceFolder], tuple[str]]:
        return SourceFolder, (self.url,)  # where its links lead is another machine's business

    @cached_property
    def _local(self) -> Path | None:
        return Objects.open(self.url).local_path

    @cached_property
    def _root(self) -> str:
        """Where the folder itself leads; looked up once, so that files cost a look at their own folders alone."""
        return os.path.realpath(self._local or "")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self._local is not None

    def exists(self) -> bool:
        """Whether the folder is there (object stores have none: always)."""
        return self._local is None or self._local.is_dir()

    def open(self, path: str) -> BufferedIOBase:
        """A file below the folder, to be read and closed; raises as `read` does."""
        local = self._local
        if local is None:
            try:
                return Objects.open(self.url).open_file(path)
            except ObjectNotFound:
                raise _absent(path) from None
        try:
            return os.fdopen(_opened(_resolved(self._root, path), path), "rb")
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(path) from None
        except OSError as error:
            raise _unreadable(path, error) from None

    def names(self, folder: str) -> Iterator[str]:
        """Paths of all files below a folder of this one, sorted; hidden ones and links to folders are left out.

        Links to files are named, wherever they lead: `read` refuses those that lead out, so that their records are
        rejects.

        They come while the folders are read: no more is held than the names in one folder and those above it.

        Raises:
            RecordError: a folder is absent, leads out of this one, or can't be read.
            InfrastructureError: the store can't be reached.
        """
        folder = folder.strip("/")
        local = self._local
        if local is None:
            # Stores list by key.
            yield from (info.key for info in Objects.open(self.url).iterate(folder))
            return
        try:
            top = _resolved(self._root, folder)
            yield from _walk(top, f"{folder}/" if folder else "")
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(folder) from None
        except OSError as error:
            raise _unreadable(folder, error) from None

    def read(self, path: str, extent: tuple[int, ...] | None = None) -> bytes:
        """The bytes of a file below the folder, or of a member of an archive there (see `archives`).

        Args:
            path: of the file or member.
            extent: offset and size in bytes of the part that is wanted of the file, or, where the path leads into an
                archive, of the archive; None: all of the file or member.

        Raises:
            RecordError: IMAGE_MISSING: no such file or member; PATH_UNSAFE: a link leads out of the folder, or a
                member is a link; IMAGE_UNREADABLE: it can't be opened, ends before the part does, or is damaged or
                encrypted in its archive; IMAGE_TOO_LARGE: a part or member beyond reason; FIELD_INVALID: a name
                that several members have.
            InfrastructureError: the store can't be reached.
        """
        for archive, member in archive_paths(path):
            file = FolderFile(self, archive)
            found = kept_archives.read(file, member) if extent is None else file.read_if_there(*extent)
            if found is not None:
                return found
        return self.read_file(path, extent)

    def read_file(self, path: str, extent: tuple[int, ...] | None = None) -> bytes:
        """As `read`, of files alone."""
        if extent is not None:
            check_size(path, extent[1])
        local = self._local
        if local is None:
            try:
                objects = Objects.open(self.url)
                return objects.read(path) if extent is None else objects.read_range(path, *extent)
            except ObjectNotFound:
                raise _absent(path) from None
            except CorruptObject as error:
                raise RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: {error}") from error
        return _read_local(self._root, path, extent)

    def stamp(self, path: str) -> tuple[int, ...] | None:
        """What changes when a file does; None: there is no such file. Raises as `read` does."""
        local = self._local
        if local is None:
            try:
                return (Objects.open(self.url).size(path),)
            except ObjectNotFound:
                return None
        try:
            found = os.stat(_resolved(self._root, path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(path, error) from None
        return (found.st_size, found.st_mtime_ns, found.st_ino) if stat.S_ISREG(found.st_mode) else None


@dataclass(frozen=True)
class FolderFile:
    """One file of a source's folder, as archives read it."""

    folder: SourceFolder
    path: str

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by in the process."""
        return self.folder.url, self.path

    @property
    def is_remote(self) -> bool:
        """Whether a look at its stamp is a request."""
        return not self.folder.is_local

    def stamp(self) -> tuple[int, ...] | None:
        """Changes when the file does; None: there is no such file."""
        return self.folder.stamp(self.path)

    def open(self) -> BufferedIOBase:
        """The file, to be closed; raises as `SourceFolder.open` does."""
        return self.folder.open(self.path)

    def read(self, start: int, size: int) -> bytes:
        """Bytes of it; raises as `SourceFolder.read` does."""
        return self.folder.read_file(self.path, (start, size))

    def read_if_there(self, start: int, size: int) -> bytes | None:
        """As `read`; None: there is no such file."""
        if not self.is_remote and self.stamp() is None:
            return None
        try:
            return self.read(start, size)
        except RecordError as error:
            if error.reason is RejectReason.IMAGE_MISSING:
                return None
            raise


def _walk(top: str, prefix: str) -> Iterator[str]:
    """Paths of the files below a folder, in the order of a sort of all of them."""
    waiting = [_entries(top, prefix)]
    while waiting:
        for path, below in waiting[-1]:
            if below is None:
                yield path
            else:
                waiting.append(_entries(below, path))
                break
        else:
            waiting.pop()


def _entries(folder: str, prefix: str) -> Iterator[tuple[str, str | None]]:
    """Files, and folders with a slash at their end and where they are, of one folder."""
    found: list[tuple[str, str | None]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append((f"{prefix}{entry.name}/", entry.path))
            elif not entry.is_symlink() or not os.path.isdir(entry.path):
                found.append((f"{prefix}{entry.name}", None))
    # By the path as it will stand: "a.jpg" comes before "a/b.jpg".
    return iter(sorted(found))


def _read_local(root: str, path: str, extent: tuple[int, ...] | None) -> bytes:
    try:
        with os.fdopen(_opened(_resolved(root, path), path), "rb") as file:
            if extent is None:
                return file.read()
            start, size = extent
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: ends before byte {start + size}")
        return data
    except (FileNotFoundError, NotADirectoryError):
        raise _absent(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _resolved(root: str, path: str) -> str:
    """Where a path leads; raises OSError, and RecordError where that is outside of the folder.

    Args:
        root: of the folder, without links.
        path: below it.
    """
    place = root
    for segment in path.split("/"):
        place = f"{place}/{segment}"
        if segment == ".." or stat.S_ISLNK(os.lstat(place).st_mode):
            break
    else:
        return place
    resolved = os.path.realpath(f"{root}/{path}", strict=True)
    if os.path.commonpath([resolved, root]) != root:
        raise RecordError(
            RejectReason.PATH_UNSAFE,
            f"{path}: a link leads out of the source's folder; copy the file, or name its folder as image_root",
        )
    return resolved


def _opened(place: str, path: str) -> int:
    """Descriptor of a file; raises OSError, and RecordError of what isn't one.

    Whoever opens a FIFO waits until somebody writes into it, and a device may have no end.
    """
    mode = os.stat(place).st_mode
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        raise RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: expected a file, found a {kind}")
    return os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # should it have become a FIFO just now


def _absent(path: str) -> RecordError:
    return RecordError(RejectReason.IMAGE_MISSING, f"{path}: no such file in the source's folder")


def _unreadable(path: str, error: OSError) -> RecordError:
    reason = error.strerror or errno.errorcode.get(error.errno or 0, "unreadable")
    return RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: {reason}")
