"""Objects under a URL: a local folder, memory, S3, Google Cloud Storage or Azure, all through obstore.

Outputs are written create-only. On S3 that is `If-None-Match: *`; on a local disk the bytes go to a
hidden temporary file that is flushed to the disk and hard-linked to its name, which never overwrites
and is never listed half-written (see `storage.local_files`). `https://` can be read and neither
listed nor written.

Credentials come from the environment alone. They never appear in URLs, errors or pickles.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import obstore
from obstore import exceptions

from storage import local_files
from storage.errors import CorruptObject, InfrastructureError, ObjectNotFound, UsageError
from storage.object_clients import Repeats, locate, store_of
from storage.store_failures import is_trouble, our_error
from storage.traffic import note_traffic

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["NewObject", "ObjectInfo", "Objects", "is_key"]

_BUFFER_BYTES = 2**20
_COALESCE_BYTES = 256 * 1024  # ranges closer than this come in one request
_PAGE_OBJECTS = 1000
"""What a listing brings at most with one request."""

# Named here because inside the class `list` is the method.
_Pieces: TypeAlias = list[bytes]
_Buffer = TypeVar("_Buffer", bytes, memoryview)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: its key relative to the listing `Objects`, and its size."""

    key: str
    size_bytes: int
    modified_s: float = field(default=0.0, compare=False)
    """When it was written, by the store's clock, in seconds since 1970."""


class Objects:
    """A prefix inside an object store.

    Cheap to make and picklable: only the URL travels, and the client is opened where it is used.
    Thread-safe. A process that has used one must not fork; spawn instead.

    Args:
        url: a local path, `file://`, `memory://name`, `s3://bucket/…`, `gs://bucket/…`,
            `az://account/container/…`, or `https://host/…`, which can only be read. A `memory://` store
            lives as long as the process, one per name.

    Raises:
        UsageError: a URL of another form.
    """

    __slots__ = ("_location", "url")

    url: str
    """The URL as a string; local folders are absolute paths."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        text = os.fspath(url)
        self._location = locate(text)
        self.url = self._location.root if self._location.scheme == "file" else text.rstrip("/")

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> Objects:
        """Opens the prefix at `url`; nothing is read or created yet."""
        return cls(url)

    def __repr__(self) -> str:
        return f"Objects({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objects) and self._location == other._location

    def __hash__(self) -> int:
        return hash(self._location)

    def __reduce__(self) -> tuple[type[Objects], tuple[str]]:
        return Objects, (self.url,)

    @property
    def can_list(self) -> bool:
        """Whether `list` works; a web server has no listing."""
        return not self._location.scheme.startswith("http")

    @property
    def local_path(self) -> Path | None:
        """The folder, if this is a local one."""
        return Path(self._location.root) if self._location.scheme == "file" else None

    def child(self, path: str) -> Objects:
        """The prefix `path` below this one."""
        _check_key(path.rstrip("/"))
        return Objects(f"{self.url}/{path.rstrip('/')}")

    def read(self, key: str) -> bytes:
        """All bytes of an object.

        Raises:
            ObjectNotFound: no such object.
            InfrastructureError: the store can't be reached or refuses.
        """
        store, path = self._readable(key)
        self._note("get")
        try:
            return self._taken(bytes(obstore.get(store, path).bytes()))
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "read") from None

    def read_buffer(self, key: str) -> memoryview:
        """All bytes of an object without a copy behind the read; see `read_buffers`, raises as `read`."""
        store, path = self._readable(key)
        self._note("get")
        try:
            if self._location.scheme == "file":
                local = os.path.join(self._location.root, path)
                return self._taken(next(local_files.read_buffers(local, [(0, os.stat(local).st_size)])))
            return self._taken(memoryview(obstore.get(store, path).bytes()))
        except (exceptions.BaseError, OSError, EOFError, ValueError) as error:
            raise self.failure(error, key, "read") from None

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; see `read_ranges`."""
        return self.read_ranges(key, [(start, length)])[0]

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> _Pieces:
        """`read_buffers`, as bytes."""
        return [bytes(buffer) for buffer in self.read_buffers(key, ranges)]

    def read_buffers(
        self,
        key: str,
        ranges: Sequence[tuple[int, int]],
        allocators: Sequence[Callable[[int], memoryview]] | None = None,
    ) -> Iterator[memoryview]:
        """Several (start, length) byte ranges of one object, in the given order.

        Nothing is copied behind the read. Those of a local file are read one by one, as they are asked for,
        into writable buffers of their own, each of its allocator if they are given. Others are fetched together when
        the first is asked for; they are read-only, and ranges that lie close together share a buffer.

        Raises:
            ObjectNotFound: no such object.
            CorruptObject: the object ends before a range does.
            InfrastructureError: the store can't be reached or refuses.
        """
        if self._location.scheme == "file":
            try:
                local = f"{self._location.root}/{self._path(key)}"
                for buffer in local_files.read_buffers(local, ranges, allocators):
                    self._note("get")
                    yield self._taken(buffer)
            except EOFError:
                self._check_extent(key, ranges)
                raise CorruptObject(f"{self.url}/{key}: was cut off while it was read; rewrite it") from None
            except OSError as error:
                raise self.failure(error, key, "read") from None
            return
        yield from self._fetch(key, ranges)

    def _fetch(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        store, path = self._readable(key)
        wanted = _coalesced([span for span in ranges if span[1] > 0])
        if not wanted:
            return [memoryview(b"")] * len(ranges)
        self._note("get", len(wanted))
        try:
            # Merged here, since obstore panics where a range that it merged lies past the end.
            buffers = obstore.get_ranges(
                store,
                path,
                starts=[start for start, _ in wanted],
                lengths=[length for _, length in wanted],
                coalesce=0,
            )
            found = [self._taken(memoryview(buffer)) for buffer in buffers]
        except (exceptions.BaseError, OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError) and not is_trouble(error):
                self._check_extent(key, wanted)
            raise self.failure(error, key, "read") from None
        if [len(data) for data in found] != [length for _, length in wanted]:
            self._check_extent(key, wanted)
            raise CorruptObject(f"{self.url}/{key}: the store returned fewer bytes than asked for; try again")
        starts = [start for start, _ in wanted]
        pieces: list[memoryview] = []
        for start, length in ranges:
            group = max(bisect_right(starts, start) - 1, 0)
            offset = start - starts[group]
            pieces.append(found[group][offset : offset + length] if length > 0 else memoryview(b""))
        return pieces

    def open_file(
        self, key: str, size_bytes: int | None = None, read_ahead_bytes: int = _BUFFER_BYTES
    ) -> io.BufferedIOBase:
        """An object as a seekable binary file; close it.

        A small one of an object store comes by one request.

        Args:
            key: of the object.
            size_bytes: its size, if the caller knows it; of a large one no byte is then read before it is asked for.
            read_ahead_bytes: fetched at least by a request of a large one; 1: what is asked for and no more.

        Raises:
            ObjectNotFound: no such object.
            CorruptObject: it isn't of the size that was given; told where it is noticed.
            InfrastructureError: the store can't be reached or refuses; while it is read, too.
        """
        if self._location.scheme == "file":
            try:
                return Path(self._location.root, self._path(key)).open("rb")
            except OSError as error:
                raise self.failure(error, key, "read") from None
        if size_bytes is not None and size_bytes > _BUFFER_BYTES:
            return io.BufferedReader(_ObjectFile(self, key, size_bytes), read_ahead_bytes)
        data, found_bytes = self._beginning(key)
        if size_bytes not in (None, found_bytes):
            raise CorruptObject(f"{self.url}/{key}: expected {size_bytes} bytes, found {found_bytes}; rewrite it")
        if len(data) == found_bytes:
            return io.BytesIO(data)
        return io.BufferedReader(_ObjectFile(self, key, found_bytes, data), read_ahead_bytes)

    def _beginning(self, key: str) -> tuple[bytes, int]:
        """The first bytes of an object, at most as many as are read at a time, and how many it has."""
        store, path = self._readable(key)
        self._note("get")
        try:
            found = obstore.get(store, path, options={"range": (0, _BUFFER_BYTES)})
            return self._taken(bytes(found.bytes())), found.meta["size"]
        except (exceptions.BaseError, OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError) and not is_trouble(error) and self.size(key) == 0:
                return b"", 0  # S3 answers a range of an empty object with 416
            raise self.failure(error, key, "read") from None

    def copy(self, key: str, source: Objects, source_key: str) -> bool:
        """Makes an object a copy of one elsewhere, unless one is there; within one store no bytes travel.

        Returns:
            Whether it was copied.

        Raises:
            ObjectNotFound: no such source.
            InfrastructureError: a store can't be reached or refuses.
        """
        if self._location.scheme == "file" and source.local_path is not None:
            try:
                self._note("copy")
                return local_files.link(
                    str(source.local_path / source._path(source_key)), f"{self._location.root}/{self._path(key)}"
                )
            except OSError as error:
                raise source.failure(error, source_key, "copy") from None
        if (self._location.scheme, self._location.root) == (source._location.scheme, source._location.root):
            store, path = self._writable(key)
            _, source_path = source._readable(source_key)
            if self.exists(key):
                return False
            try:
                self._note("copy")
                obstore.copy(store, source_path, path)
            except (exceptions.BaseError, OSError, ValueError) as error:
                raise source.failure(error, source_key, "copy") from None
            return True
        return self.create(key, source.read(source_key))

    def read_tail(self, key: str, length: int) -> bytes:
        """The last `length` bytes of an object, or all of it if it is shorter."""
        store, path = self._readable(key)
        if length <= 0:
            return b""
        self._note("get")
        try:
            return self._taken(bytes(obstore.get(store, path, options={"range": {"suffix": length}}).bytes()))
        except (exceptions.BaseError, OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError) and not is_trouble(error) and self.size(key) == 0:
                return b""  # S3 answers a suffix range of an empty object with 416
            raise self.failure(error, key, "read") from None

    def size(self, key: str) -> int:
        """Size of an object in bytes; raises ObjectNotFound."""
        return self.info(key).size_bytes

    def info(self, key: str) -> ObjectInfo:
        """Size of an object and when it was written; raises ObjectNotFound."""
        store, path = self._readable(key)
        self._note("head")
        try:
            meta = obstore.head(store, path)
            return ObjectInfo(key, meta["size"], meta["last_modified"].timestamp())
        except FileNotFoundError as error:
            raise self.failure(error, key, "look up") from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(self._told_why(error, store, path), key, "look up") from None

    def _told_why(self, error: Exception, store: ObjectStore, path: str) -> Exception:
        """The failure of a HEAD with the server's reason, which its answer had no room for: one byte is asked for."""
        if is_trouble(error):
            return error
        self._note("get")
        try:
            obstore.get_range(store, path, start=0, length=1)
        except (exceptions.BaseError, OSError, ValueError) as reason:
            return reason
        return error

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self.size(key)
        except ObjectNotFound:
            return False
        return True

    def create(self, key: str, data: bytes | bytearray) -> bool:
        """Writes an object unless one is there; atomic, never overwrites; `data` must not change afterwards.

        A local file is flushed to the disk before it is there. Where the answer of a store is lost, it is asked again.

        Returns:
            True: written. False: an object of that key exists already, whose bytes are unchanged.
        """
        path = self._new_path(key)
        self._note("put", written_bytes=len(data))
        try:
            if self._location.scheme == "file":
                return local_files.create(os.path.join(self._location.root, path), data)
            return self._create(path, data)
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "create") from None

    def _create(self, path: str, data: bytes | bytearray) -> bool:
        store, repeats = store_of(self._location, patient=False), Repeats()
        while True:
            try:
                obstore.put(store, path, data, mode="create", use_multipart=False)
            except exceptions.BaseError as error:
                if not isinstance(error, exceptions.AlreadyExistsError) or is_trouble(error):
                    repeats.wait(error)
                    continue
                if not repeats.num:
                    return False
                # An answer was lost on its way: what stands there may be what was written then.
                self._note("get")
                return bytes(obstore.get(store_of(self._location), path).bytes()) == data
            else:
                return True

    def new(self, key: str) -> NewObject:
        """An object that is given piece by piece and then created as `create` does it.

        The pieces of a local file go to the disk at once; those of others are kept until the end.
        """
        path = self._new_path(key)
        if self._location.scheme != "file":
            return NewObject(self, key, None)
        try:
            return NewObject(self, key, local_files.NewFile(os.path.join(self._location.root, path)))
        except OSError as error:
            raise self.failure(error, key, "create") from None

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites an object. For records of a run; outputs are made with `create`."""
        store, path = self._writable(key)
        self._note("put", written_bytes=len(data))
        try:
            obstore.put(store, path, data, use_multipart=False)
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "write") from None

    def delete(self, key: str) -> None:
        """Removes an object; one that isn't there is fine."""
        self._delete_together([key])

    def delete_many(self, keys: Sequence[str]) -> None:
        """Removes objects, of S3 a thousand by one request, in which their order isn't kept; absent ones are fine."""
        if self._location.scheme in ("file", "memory"):
            for key in keys:
                self.delete(key)
            return
        for start in range(0, len(keys), _PAGE_OBJECTS):
            self._delete_together(keys[start : start + _PAGE_OBJECTS])

    def _delete_together(self, keys: Sequence[str]) -> None:
        paths = [self._new_path(key) for key in keys]
        self._note("delete", 1 if self._location.scheme == "s3" else len(keys))
        try:
            store, repeats = store_of(self._location, patient=False), Repeats()
            while True:
                try:
                    obstore.delete(store, paths)
                except exceptions.BaseError as error:
                    repeats.wait(error)
                else:
                    return
        except (exceptions.BaseError, OSError, ValueError) as error:
            failure = self.failure(error, keys[0], "delete")
            if not isinstance(failure, ObjectNotFound):
                raise failure from None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects below the folder `prefix` (whole path segments), sorted by key.

        Objects still being written are not among them. An absent folder holds nothing.
        """
        yield from sorted(self.iterate(prefix), key=lambda info: info.key)

    def iterate(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As `list`, while the store answers and in its order, which for object stores is by key: none are gathered."""
        base = self._listed(prefix)
        skip = len(self._location.prefix) + 1 if self._location.prefix else 0
        num_found = 0
        if base is not None:
            self._note("list")
        try:
            for chunk in [] if base is None else obstore.list(store_of(self._location), prefix=base or None):
                for meta in chunk:
                    if num_found and num_found % _PAGE_OBJECTS == 0:
                        self._note("list")
                    num_found += 1
                    yield ObjectInfo(meta["path"][skip:], meta["size"], meta["last_modified"].timestamp())
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, prefix, "list") from None

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Names of the folders right below the folder `prefix`, sorted; a request per thousand, not a look into any."""
        base = self._listed(prefix)
        if base is None:
            return []
        self._note("list")
        try:
            found = obstore.list_with_delimiter(store_of(self._location), prefix=base or None)["common_prefixes"]
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, prefix, "list") from None
        return sorted(path.rpartition("/")[2] for path in found)

    def _listed(self, prefix: str) -> str | None:
        """The path to list, "" for the root; None: there is nothing."""
        if not self.can_list:
            raise UsageError(f"{self.url}: a web server can't be listed; give the object store behind it")
        if self._location.scheme == "file" and not os.path.isdir(self._location.root):
            return None
        return self._path(prefix.rstrip("/")) if prefix.rstrip("/") else self._location.prefix

    def _path(self, key: str) -> str:
        _check_key(key)
        return f"{self._location.prefix}/{key}" if self._location.prefix else key

    def _readable(self, key: str) -> tuple[ObjectStore, str]:
        path = self._path(key)
        # Opening a local store makes its folder, which mere reading must not do.
        if self._location.scheme == "file" and not os.path.isdir(self._location.root):
            raise self.failure(FileNotFoundError(), key, "read")
        return store_of(self._location), path

    def _writable(self, key: str) -> tuple[ObjectStore, str]:
        path = self._new_path(key)
        return store_of(self._location), path

    def _new_path(self, key: str) -> str:
        if self._location.scheme in ("https", "http"):
            raise UsageError(f"{self.url}/{key}: https:// is read-only; write through the object store behind it")
        return self._path(key)

    def _note(self, kind: str, requests: int = 1, written_bytes: int = 0) -> None:
        note_traffic(self._location.scheme, kind, requests, written_bytes=written_bytes)

    def _taken(self, data: _Buffer) -> _Buffer:
        """Counts what a request has brought."""
        note_traffic(self._location.scheme, "get", 0, read_bytes=len(data))
        return data

    def failure(self, error: BaseException, key: str, action: str) -> InfrastructureError:
        """Our error for one of the store's, about one object; raised by whoever caught it."""
        return our_error(error, f"{self.url}/{key}", self._location.scheme, action)

    def _check_extent(self, key: str, ranges: Sequence[tuple[int, int]]) -> None:
        size_bytes = self.size(key)
        end = max(start + length for start, length in ranges)
        if end > size_bytes:
            raise CorruptObject(
                f"{self.url}/{key}: expected at least {end} bytes, found {size_bytes}; it is cut off, rewrite it"
            )


class NewObject:
    """An object in the making, see `Objects.new`; if it is given up, nothing is left of it."""

    def __init__(self, objects: Objects, key: str, file: local_files.NewFile | None) -> None:
        self._objects, self._key, self._file = objects, key, file
        self._data = bytearray()
        self.size_bytes = 0
        """What it has so far."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Adds bytes at the end; raises InfrastructureError."""
        self.size_bytes += len(data)
        if self._file is None:
            self._data += data
            return
        try:
            self._file.write(data)
        except OSError as error:
            raise self._objects.failure(error, self._key, "create") from None

    def finish(self) -> bool:
        """Creates the object; returns as `Objects.create`, raises InfrastructureError."""
        if self._file is None:
            return self._objects.create(self._key, self._data)
        note_traffic("file", "put", written_bytes=self.size_bytes)
        try:
            return self._file.finish()
        except OSError as error:
            raise self._objects.failure(error, self._key, "create") from None


class _ObjectFile(io.RawIOBase):
    """An object of a remote store as a raw file; every read is a request, but of the beginning where it is known."""

    def __init__(self, objects: Objects, key: str, size: int, beginning: bytes = b"") -> None:
        self._objects, self._key, self._size, self._place = objects, key, size, 0
        self._beginning = beginning

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._place < len(self._beginning):
            known = self._beginning[self._place : self._place + len(buffer)]
            buffer[: len(known)] = known
            self._place += len(known)
            return len(known)
        length = min(len(buffer), max(self._size - self._place, 0))
        if length:
            buffer[:length] = self._objects.read_range(self._key, self._place, length)
            self._place += length
        return length


def is_key(text: str) -> bool:
    """Whether a text can be an object's key, which never leads out of the prefix above it.

    >>> [is_key(text) for text in ("a/b.json", "../b.json", "/etc/passwd", "a//b", "")]
    [True, False, False, False, False]
    """
    is_plain = all(segment not in ("", ".", "..") for segment in text.split("/"))
    return is_plain and "\\" not in text and "\0" not in text


def _check_key(key: str) -> None:
    if not is_key(key):
        raise UsageError(f"object key {key!r}: expected path segments separated by single slashes, none of them `..`")


def _coalesced(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges by their start, with those that lie close together made one."""
    merged: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if merged and start <= sum(merged[-1]) + _COALESCE_BYTES:
            first, so_far = merged[-1]
            merged[-1] = first, max(so_far, start + length - first)
        else:
            merged.append((start, length))
    return merged
