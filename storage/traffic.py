"""What this process asked object stores for: requests by kind, bytes in both directions.

Counted as `storage.objects` asks: what a client repeats by itself, because a server was slow or away, is not seen here.
Local folders count too, each call as one request; files of theirs that are opened and read piecewise do not.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["READING", "WRITING", "Traffic", "note_traffic", "traffic"]

READING = ("get", "head")
"""Requests that stores bill as reading."""
WRITING = ("put", "copy", "list")
"""Requests that stores bill as writing; deleting is free."""


_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums, by the scheme of the store, such as `s3` or `file`."""

    requests: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """By scheme and kind: `get`, `head`, `put`, `copy`, `list`, `delete`."""
    read_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    written_bytes: Mapping[str, int] = field(default_factory=dict[str, int])

    def since(self, before: Traffic) -> Traffic:
        """What came after an earlier reading of the same process."""
        return Traffic(
            _less(self.requests, before.requests),
            _less(self.read_bytes, before.read_bytes),
            _less(self.written_bytes, before.written_bytes),
        )


_lock = threading.Lock()
_requests: Counter[tuple[str, str]] = Counter()
_read_bytes: Counter[str] = Counter()
_written_bytes: Counter[str] = Counter()


def note_traffic(scheme: str, kind: str, requests: int = 1, *, read_bytes: int = 0, written_bytes: int = 0) -> None:
    """Adds requests of one kind, and what went in and out by them."""
    with _lock:
        if requests:
            _requests[scheme, kind] += requests
        if read_bytes:
            _read_bytes[scheme] += read_bytes
        if written_bytes:
            _written_bytes[scheme] += written_bytes


def traffic() -> Traffic:
    """The sums since this process began; they never fall."""
    with _lock:
        return Traffic(dict(_requests), dict(_read_bytes), dict(_written_bytes))


def _less(after: Mapping[_Key, int], before: Mapping[_Key, int]) -> dict[_Key, int]:
    return {key: number - before.get(key, 0) for key, number in after.items() if number > before.get(key, 0)}
