"""File names of a source, kept inside its folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from pipelines.curation.records import RecordError
from pipelines.curation.steps.fields import shown
from storage.errors import CorruptObject, ObjectNotFound
from storage.objects import Objects
from storage.schema import RejectReason

__all__ = ["SourceFolder", "safe_join"]

_MAX_NAME_BYTES = 255  # of one path segment, on every common file system


def safe_join(folder: str, name: str) -> str:
    """The path of `name` below `folder`, both relative to a source's root, with forward slashes.

    Raises:
        RecordError: the name is empty, absolute, holds `..`, control characters, a backslash or a drive.

    >>> safe_join("images/train2014", "COCO_train2014_000000000154.jpg")
    'images/train2014/COCO_train2014_000000000154.jpg'
    """
    segments = name.split("/")
    unsafe = (
        not name
        or name.startswith(("/", "~"))
        or ":" in segments[0]
        or "\\" in name
        or any(segment in ("", ".", "..") or len(segment.encode()) > _MAX_NAME_BYTES for segment in segments)
        or any(ord(character) < 32 or ord(character) == 127 for character in name)
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

    @property
    def _local(self) -> Path | None:
        return Objects.open(self.url).local_path

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
            return Path(_resolved(local, path)).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(path) from None
        except OSError as error:
            raise _unreadable(path, error) from None

    def names(self, folder: str) -> Iterator[str]:
        """Paths of all files below a folder of this one, sorted; hidden ones and links out of it are left out.

        Raises:
            InfrastructureError: the store can't be reached.
        """
        local = self._local
        if local is None:
            prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
            yield from sorted(info.key for info in Objects.open(self.url).list(prefix))
            return
        root = os.path.realpath(local)
        found: list[str] = []
        for parent, folders, names in os.walk(local / folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = os.path.join(parent, name)
                if not name.startswith(".") and os.path.realpath(path).startswith(root + os.sep):
                    found.append(Path(path).relative_to(local).as_posix())
        yield from sorted(found)

    def read(self, path: str, extent: tuple[int, ...] | None = None) -> bytes:
        """The bytes of a file below the folder.

        Args:
            path: of the file.
            extent: offset and size in bytes of the part that is wanted; None: all of it.

        Raises:
            RecordError: IMAGE_MISSING: no such file; PATH_UNSAFE: a link leads out of the folder;
                IMAGE_UNREADABLE: it can't be opened, or ends before the part does.
            InfrastructureError: the store can't be reached.
        """
        local = self._local
        if local is None:
            try:
                objects = Objects.open(self.url)
                return objects.read(path) if extent is None else objects.read_range(path, *extent)
            except ObjectNotFound:
                raise _absent(path) from None
            except CorruptObject as error:
                raise RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: {error}") from error
        return _read_local(local, path, extent)


def _read_local(folder: Path, path: str, extent: tuple[int, ...] | None) -> bytes:
    try:
        resolved = _resolved(folder, path)
        if extent is None:
            return Path(resolved).read_bytes()
        start, size = extent
        with Path(resolved).open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: ends before byte {start + size}")
        return data
    except (FileNotFoundError, NotADirectoryError):
        raise _absent(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _resolved(folder: Path, path: str) -> str:
    """Where a path leads; raises OSError, and RecordError where that is outside of the folder."""
    resolved = os.path.realpath(folder / path, strict=True)
    root = os.path.realpath(folder)
    if os.path.commonpath([resolved, root]) != root:
        raise RecordError(
            RejectReason.PATH_UNSAFE,
            f"{path}: a link leads out of the source's folder; copy the file, or name its folder as image_root",
        )
    return resolved


def _absent(path: str) -> RecordError:
    return RecordError(RejectReason.IMAGE_MISSING, f"{path}: no such file in the source's folder")


def _unreadable(path: str, error: OSError) -> RecordError:
    reason = error.strerror or errno.errorcode.get(error.errno or 0, "unreadable")
    return RecordError(RejectReason.IMAGE_UNREADABLE, f"{path}: {reason}")
