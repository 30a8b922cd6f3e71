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
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from storage import local_files
from storage.errors import CorruptObject, InfrastructureError, ObjectNotFound, UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

__all__ = ["NewObject", "ObjectInfo", "Objects"]

_RETRY: RetryConfig = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
_TIMEOUTS: ClientConfig = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=60),
    # A whole request: a 64 MiB shard at 2 Mbit/s.
    "timeout": timedelta(seconds=300),
}
_S3_ENVIRONMENT = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL"
_S3_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_ENVIRONMENT = {
    "s3": _S3_ENVIRONMENT,
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
}
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY")
_BUFFER_BYTES = 2**20
_COALESCE_BYTES = 256 * 1024  # ranges closer than this come in one request
_ALIASES = {"s3a": "s3", "gcs": "gs", "azure": "az", "abfs": "az", "abfss": "az", "adl": "az"}

# Named here because inside the class `list` is the method.
_Pieces: TypeAlias = list[bytes]

_STORES: dict[tuple[object, ...], ObjectStore] = {}
_STORES_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: its key relative to the listing `Objects`, and its size."""

    key: str
    size_bytes: int
    modified_s: float = field(default=0.0, compare=False)
    """When it was written, by the store's clock, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class _Location:
    scheme: str
    """`file`, `memory`, `s3`, `gs`, `az`, `https` or `http`."""
    root: str
    """Folder, bucket or account/container; the part that a client is opened for."""
    prefix: str
    """Path of every key below the root, without slashes at its ends."""


def _locate(url: str) -> _Location:
    parts = urlsplit(url)
    scheme = _ALIASES.get(parts.scheme, parts.scheme)
    path = parts.path.strip("/")
    if "://" not in url or scheme == "file":
        folder = unquote(parts.path) if "://" in url else os.path.expanduser(url)
        if not folder or parts.netloc not in ("", "localhost"):
            raise UsageError(f"storage URL {url!r}: expected a local path or file:///folder")
        return _Location("file", os.path.abspath(folder), "")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError("storage URL: no user, password, query or fragment allowed; credentials come from AWS_*")
    if scheme == "memory":
        return _Location(scheme, parts.netloc, path)
    if not parts.netloc:
        what = "host" if scheme.startswith("http") else "bucket"
        raise UsageError(f"storage URL {url!r}: expected a {what} after {parts.scheme}://")
    if scheme in ("s3", "gs", "https", "http"):
        return _Location(scheme, parts.netloc, path)
    if scheme == "az" and path:
        container, _, prefix = path.partition("/")
        return _Location(scheme, f"{parts.netloc}/{container}", prefix)
    raise UsageError(
        f"storage URL {url!r}: expected a local path, file://, memory://, s3://bucket, gs://bucket, "
        "az://account/container or https://host"
    )


def _new_store(location: _Location) -> ObjectStore:
    if location.scheme == "file":
        return LocalStore(location.root, mkdir=True)
    if location.scheme == "memory":
        return MemoryStore()
    if location.scheme == "gs":
        return GCSStore(location.root, client_options=_TIMEOUTS, retry_config=_RETRY)
    if location.scheme == "az":
        account, container = location.root.split("/")
        return AzureStore(container, account_name=account, client_options=_TIMEOUTS, retry_config=_RETRY)
    if location.scheme in ("https", "http"):
        web = _TIMEOUTS.copy()
        web["allow_http"] = location.scheme == "http"
        return HTTPStore(f"{location.scheme}://{location.root}", client_options=web, retry_config=_RETRY)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options = _TIMEOUTS.copy()
    if endpoint is None:
        return S3Store(location.root, client_options=options, retry_config=_RETRY)
    if not any(os.environ.get(name) for name in _S3_CREDENTIALS):
        # Otherwise the client would look for an instance's role on the network for minutes.
        raise InfrastructureError(
            f"open s3://{location.root}: AWS_ENDPOINT_URL is set but no credentials are; set {_S3_ENVIRONMENT}"
        )
    options["allow_http"] = endpoint.startswith("http://")
    return S3Store(
        location.root,
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        client_options=options,
        retry_config=_RETRY,
    )


def _store_of(location: _Location) -> ObjectStore:
    """One client per root and environment, so that children share connections."""
    settings = ()
    if location.scheme == "s3":
        settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    key = (location.scheme, location.root, settings)
    with _STORES_LOCK:
        store = _STORES.get(key)
        if store is None:
            try:
                store = _STORES[key] = _new_store(location)
            except (exceptions.BaseError, OSError, ValueError) as error:
                raise _failure(error, f"{location.scheme}://{location.root}", location.scheme, "open") from None
        return store


def _summary(error: BaseException) -> str:
    text = str(error).partition("\n")[0].strip()
    for name in _SECRETS:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, f"<{name}>")
    return text[:500]


def _failure(error: BaseException, url: str, scheme: str, action: str) -> InfrastructureError:
    """Our error for one of obstore's: what was done, where, and what to do about it."""
    text, full = _summary(error), str(error)
    variables = _ENVIRONMENT.get(scheme, "")
    if "NoSuchBucket" in full or "bucket does not exist" in full:
        return InfrastructureError(f"{action} {url}: the bucket doesn't exist; create it or correct the URL")
    if isinstance(error, FileNotFoundError):
        return ObjectNotFound(f"{action} {url}: no such object; run the stage that writes it, or correct the URL")
    if scheme == "file":
        return InfrastructureError(f"{action} {url}: {text}; check permissions and free space")
    if "169.254." in full or "metadata" in text.lower() or "credential" in text.lower():
        return InfrastructureError(f"{action} {url}: no credentials found; set {variables} ({text})")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return InfrastructureError(f"{action} {url}: access refused; check {variables} and the rights on it ({text})")
    if "kind: Connect" in full or "error sending request" in full:
        return InfrastructureError(f"{action} {url}: endpoint unreachable; check AWS_ENDPOINT_URL and network ({text})")
    return InfrastructureError(f"{action} {url}: {text}; if it persists check {variables or 'the URL'}")


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
        self._location = _locate(text)
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
        return self._location.scheme not in ("https", "http")

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
        try:
            return bytes(obstore.get(store, path).bytes())
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "read") from None

    def read_buffer(self, key: str) -> memoryview:
        """All bytes of an object without a copy behind the read; see `read_buffers`, raises as `read`."""
        store, path = self._readable(key)
        try:
            if self._location.scheme == "file":
                local = os.path.join(self._location.root, path)
                return next(local_files.read_buffers(local, [(0, os.stat(local).st_size)]))
            return memoryview(obstore.get(store, path).bytes())
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
                yield from local_files.read_buffers(f"{self._location.root}/{self._path(key)}", ranges, allocators)
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
        try:
            # Merged here, since obstore panics where a range that it merged lies past the end.
            buffers = obstore.get_ranges(
                store,
                path,
                starts=[start for start, _ in wanted],
                lengths=[length for _, length in wanted],
                coalesce=0,
            )
            found = [memoryview(buffer) for buffer in buffers]
        except (exceptions.BaseError, OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):
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

    def open_file(self, key: str) -> io.BufferedIOBase:
        """An object as a seekable binary file, which reads a megabyte at a time; close it.

        Raises:
            ObjectNotFound: no such object.
            InfrastructureError: the store can't be reached or refuses; while it is read, too.
        """
        if self._location.scheme == "file":
            try:
                return Path(self._location.root, self._path(key)).open("rb")
            except OSError as error:
                raise self.failure(error, key, "read") from None
        return io.BufferedReader(_ObjectFile(self, key, self.size(key)), _BUFFER_BYTES)

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
        try:
            return bytes(obstore.get(store, path, options={"range": {"suffix": length}}).bytes())
        except (exceptions.BaseError, OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError) and self.size(key) == 0:
                return b""  # S3 answers a suffix range of an empty object with 416
            raise self.failure(error, key, "read") from None

    def size(self, key: str) -> int:
        """Size of an object in bytes; raises ObjectNotFound."""
        store, path = self._readable(key)
        try:
            return obstore.head(store, path)["size"]
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "look up") from None

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self.size(key)
        except ObjectNotFound:
            return False
        return True

    def create(self, key: str, data: bytes | bytearray) -> bool:
        """Writes an object unless one is there; atomic, never overwrites; `data` must not change afterwards.

        A local file is flushed to the disk before it is there.

        Returns:
            True: written. False: an object of that key exists already, whose bytes are unchanged.
        """
        store, path = self._writable(key)
        try:
            if self._location.scheme == "file":
                return local_files.create(os.path.join(self._location.root, path), data)
            obstore.put(store, path, data, mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return False
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "create") from None
        return True

    def new(self, key: str) -> NewObject:
        """An object that is given piece by piece and then created as `create` does it.

        The pieces of a local file go to the disk at once; those of others are kept until the end.
        """
        _, path = self._writable(key)
        if self._location.scheme != "file":
            return NewObject(self, key, None)
        try:
            return NewObject(self, key, local_files.NewFile(os.path.join(self._location.root, path)))
        except OSError as error:
            raise self.failure(error, key, "create") from None

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites an object. For records of a run; outputs are made with `create`."""
        store, path = self._writable(key)
        try:
            obstore.put(store, path, data, use_multipart=False)
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "write") from None

    def delete(self, key: str) -> None:
        """Removes an object; one that isn't there is fine."""
        store, path = self._writable(key)
        try:
            obstore.delete(store, path)
        except FileNotFoundError:
            return
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, key, "delete") from None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects below the folder `prefix` (whole path segments), sorted by key.

        Objects still being written are not among them. An absent folder holds nothing.
        """
        yield from sorted(self.iterate(prefix), key=lambda info: info.key)

    def iterate(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """As `list`, while the store answers and in its order, which for object stores is by key: none are gathered."""
        if self._location.scheme == "file" and not os.path.isdir(self._location.root):
            return
        if self._location.scheme in ("https", "http"):
            raise UsageError(f"{self.url}: a web server can't be listed; give the object store behind it")
        base = self._path(prefix.rstrip("/")) if prefix.rstrip("/") else self._location.prefix
        skip = len(self._location.prefix) + 1 if self._location.prefix else 0
        try:
            for chunk in obstore.list(_store_of(self._location), prefix=base or None):
                for meta in chunk:
                    yield ObjectInfo(meta["path"][skip:], meta["size"], meta["last_modified"].timestamp())
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self.failure(error, prefix, "list") from None

    def _path(self, key: str) -> str:
        _check_key(key)
        return f"{self._location.prefix}/{key}" if self._location.prefix else key

    def _readable(self, key: str) -> tuple[ObjectStore, str]:
        path = self._path(key)
        # Opening a local store makes its folder, which mere reading must not do.
        if self._location.scheme == "file" and not os.path.isdir(self._location.root):
            raise self.failure(FileNotFoundError(), key, "read")
        return _store_of(self._location), path

    def _writable(self, key: str) -> tuple[ObjectStore, str]:
        if self._location.scheme in ("https", "http"):
            raise UsageError(f"{self.url}/{key}: https:// is read-only; write through the object store behind it")
        return _store_of(self._location), self._path(key)

    def failure(self, error: BaseException, key: str, action: str) -> InfrastructureError:
        """Our error for one of the store's, about one object; raised by whoever caught it."""
        return _failure(error, f"{self.url}/{key}", self._location.scheme, action)

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
        try:
            return self._file.finish()
        except OSError as error:
            raise self._objects.failure(error, self._key, "create") from None


class _ObjectFile(io.RawIOBase):
    """An object of a remote store as a raw file; every read is a request."""

    def __init__(self, objects: Objects, key: str, size: int) -> None:
        self._objects, self._key, self._size, self._place = objects, key, size, 0

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
        length = min(len(buffer), max(self._size - self._place, 0))
        if length:
            buffer[:length] = self._objects.read_range(self._key, self._place, length)
            self._place += length
        return length


def _check_key(key: str) -> None:
    if not key or any(segment in ("", ".", "..") for segment in key.split("/")) or "\\" in key or "\0" in key:
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
