"""Clients of object stores: which one a URL asks for, what it is told, and how long it goes on asking.

A server that is too busy, or away for a while, is asked again for two minutes, with pauses that are drawn: a restart of
it isn't noticed. A definite refusal is told at once. What looks the same as a restart, an address at which nobody
answers, is told after seconds where a command asks for the first time (`finding_out_early`).

Credentials come from the environment alone and appear neither in URLs nor in errors.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from storage.errors import InfrastructureError, UsageError
from storage.store_failures import is_out_of_reach, is_trouble, is_unclear, needed_variables, our_error
from storage.traffic import note_traffic

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

__all__ = ["Location", "Repeats", "finding_out_early", "locate", "store_of"]

_PATIENCE_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.1, 5.0, 3
_RETRY: RetryConfig = {
    "max_retries": 1000,  # the time is what bounds them
    "retry_timeout": timedelta(seconds=_PATIENCE_S),
    # Each pause is drawn between the first one and so many times the one before.
    "backoff": {
        "init_backoff": timedelta(seconds=_FIRST_PAUSE_S),
        "max_backoff": timedelta(seconds=_LONGEST_PAUSE_S),
        "base": _GROWTH,
    },
}
_TIMEOUTS: ClientConfig = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=60),
    # A whole request: a 64 MiB shard at 2 Mbit/s.
    "timeout": timedelta(seconds=300),
}
_NO_RETRY: RetryConfig = {**_RETRY, "max_retries": 0}
_RETRY_EARLY: RetryConfig = {**_RETRY, "max_retries": 6, "retry_timeout": timedelta(seconds=5)}
_TIMEOUTS_EARLY: ClientConfig = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=10)}
_S3_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_ALIASES = {"s3a": "s3", "gcs": "gs", "azure": "az", "abfs": "az", "abfss": "az", "adl": "az"}

_STORES: dict[tuple[object, ...], ObjectStore] = {}
_GREETED: set[tuple[object, ...]] = set()
_STORES_LOCK = threading.Lock()
_early = threading.Event()
_GREETING = "sailloft-asks-whether-anybody-is-there"


@dataclass(frozen=True, slots=True)
class Location:
    """What a URL leads to."""

    scheme: str
    """`file`, `memory`, `s3`, `gs`, `az`, `https` or `http`."""
    root: str
    """Folder, bucket or account/container; the part that a client is opened for."""
    prefix: str
    """Path of every key below the root, without slashes at its ends."""

    @property
    def url(self) -> str:
        """For messages."""
        return f"{self.scheme}://{self.root}{'/' if self.prefix else ''}{self.prefix}"


def locate(url: str) -> Location:
    """Takes a URL apart.

    Raises:
        UsageError: a URL of another form.
    """
    parts = urlsplit(url)
    scheme = _ALIASES.get(parts.scheme, parts.scheme)
    path = parts.path.strip("/")
    if "://" not in url or scheme == "file":
        folder = unquote(parts.path) if "://" in url else os.path.expanduser(url)
        if not folder or parts.netloc not in ("", "localhost"):
            raise UsageError(f"storage URL {url!r}: expected a local path or file:///folder")
        return Location("file", os.path.abspath(folder), "")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError("storage URL: no user, password, query or fragment allowed; credentials come from AWS_*")
    if scheme == "memory":
        return Location(scheme, parts.netloc, path)
    if not parts.netloc:
        what = "host" if scheme.startswith("http") else "bucket"
        raise UsageError(f"storage URL {url!r}: expected a {what} after {parts.scheme}://")
    if scheme in ("s3", "gs", "https", "http"):
        return Location(scheme, parts.netloc, path)
    if scheme == "az" and path:
        container, _, prefix = path.partition("/")
        return Location(scheme, f"{parts.netloc}/{container}", prefix)
    raise UsageError(
        f"storage URL {url!r}: expected a local path, file://, memory://, s3://bucket, gs://bucket, "
        "az://account/container or https://host"
    )


def _new_store(location: Location, timeouts: ClientConfig, retry: RetryConfig) -> ObjectStore:
    if location.scheme == "file":
        return LocalStore(location.root, mkdir=True)
    if location.scheme == "memory":
        return MemoryStore()
    if location.scheme == "gs":
        return GCSStore(location.root, client_options=timeouts, retry_config=retry)
    if location.scheme == "az":
        account, container = location.root.split("/")
        return AzureStore(container, account_name=account, client_options=timeouts, retry_config=retry)
    if location.scheme in ("https", "http"):
        web = timeouts.copy()
        web["allow_http"] = location.scheme == "http"
        return HTTPStore(f"{location.scheme}://{location.root}", client_options=web, retry_config=retry)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options = timeouts.copy()
    if endpoint is None:
        return S3Store(location.root, client_options=options, retry_config=retry)
    if not any(os.environ.get(name) for name in _S3_CREDENTIALS):
        # Otherwise the client would look for an instance's role on the network for minutes.
        raise InfrastructureError(
            f"open {location.url}: AWS_ENDPOINT_URL is set but no credentials are; set {needed_variables('s3')}"
        )
    options["allow_http"] = endpoint.startswith("http://")
    return S3Store(
        location.root,
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        client_options=options,
        retry_config=retry,
    )


def store_of(location: Location, *, patient: bool = True) -> ObjectStore:
    """The client of a location, one per root and environment, so that children share connections.

    Args:
        location: what for.
        patient: whether it repeats by itself what fails for a moment; else the caller does, see `Repeats`.

    Raises:
        InfrastructureError: it can't be opened.
    """
    settings = ()
    if location.scheme == "s3":
        settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    is_remote = location.scheme not in ("file", "memory")
    place = (location.scheme, location.root, settings)
    key = (*place, patient or not is_remote)
    with _STORES_LOCK:
        store = _STORES.get(key)
        if store is None:
            try:
                if _early.is_set() and is_remote and place not in _GREETED:
                    _greet(location)
                    _GREETED.add(place)
                store = _STORES[key] = _new_store(location, _TIMEOUTS, _RETRY if patient else _NO_RETRY)
            except (exceptions.BaseError, OSError, ValueError) as error:
                raise our_error(error, location.url, location.scheme, "open") from None
        return store


@contextmanager
def finding_out_early() -> Generator[None]:
    """Within it this process asks each store once with little patience when it opens it.

    For the process of a command, whose user may have given a wrong address or no credentials. Processes that such a one
    starts have no need of it: the store has answered, and if it is away for the moment, they wait.
    """
    _early.set()
    try:
        yield
    finally:
        _early.clear()


def _greet(location: Location) -> None:
    """Asks for an object that needn't be there; whatever the server answers is fine, but it has to be there."""
    note_traffic(location.scheme, "head")
    try:
        obstore.head(_new_store(location, _TIMEOUTS_EARLY, _RETRY_EARLY), _GREETING)
    except (exceptions.BaseError, OSError, ValueError) as error:
        if is_out_of_reach(error) or is_unclear(error):
            raise


class Repeats:
    """Repetitions of what changes a store, by a client that doesn't repeat anything.

    obstore itself repeats creations and deletions only in part, since they may have been done, and doesn't tell whether
    it did: an object that stands there may then be of somebody else, or what was written at the first attempt.
    """

    def __init__(self) -> None:
        self.num = 0
        """How many there were."""
        self._begin_s = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S

    def wait(self, error: Exception) -> None:
        """Waits before the next one; raises the error if that wouldn't help, or hasn't for too long."""
        if not is_trouble(error) or time.monotonic() - self._begin_s > _PATIENCE_S:
            raise error
        self.num += 1
        time.sleep(self._pause_s)
        self._pause_s = min(random.uniform(_FIRST_PAUSE_S, _GROWTH * self._pause_s), _LONGEST_PAUSE_S)
