"""The exception tree of Sailloft.

    SailloftError
    ├── UsageError (ValueError)            exit 2: wrong recipe, option or argument
    │   └── UnknownKind                    a `kind` that no registry knows
    ├── DataError (ValueError)             exit 3: bad data
    │   ├── SourceError                    a source file as a whole can't be used
    │   │   └── UnsafePickle               a pickle that wants more than plain containers
    │   ├── CorruptObject                  stored bytes that don't match what was promised
    │   ├── MissingFeature                 an image that the store doesn't hold
    │   ├── LeakingCorpus                  training samples on evaluation images
    │   ├── TooManyRejects                 more rejects than the recipe allows
    │   └── TooManySkips                   training that skips more steps than the recipe allows
    └── InfrastructureError (RuntimeError) exit 4: storage or cluster
        ├── ObjectNotFound                 no object under that key
        │   └── RetiredCorpus              a corpus whose place another one took
        ├── Locked                         another process does the same work
        └── ManifestConflict               two different outputs under one content key

Every message names what was expected, what was found, the record and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CorruptObject",
    "DataError",
    "InfrastructureError",
    "LeakingCorpus",
    "Locked",
    "ManifestConflict",
    "MissingFeature",
    "ObjectNotFound",
    "RetiredCorpus",
    "SailloftError",
    "SourceError",
    "TooManyRejects",
    "TooManySkips",
    "UnknownKind",
    "UnsafePickle",
    "UsageError",
]


class SailloftError(Exception):
    """Base of every error that Sailloft raises on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class UsageError(SailloftError, ValueError):
    """A recipe, option or argument that can't be used."""

    exit_code = 2


class UnknownKind(UsageError):
    """A `kind` that the registry doesn't know."""

    def __init__(self, what: str, kind: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(kind, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        super().__init__(f"unknown {what} {kind!r}; known: {', '.join(names)}{hint}")


class DataError(SailloftError, ValueError):
    """Data that can't be used."""

    exit_code = 3


class SourceError(DataError):
    """A source file that as a whole can't be used: absent, truncated, or of another format."""


class UnsafePickle(SourceError):
    """A pickle that asks for anything but builtin containers, strings and numbers."""


class CorruptObject(DataError):
    """Stored bytes that are torn, flipped or missing."""


class MissingFeature(DataError):
    """An image or a teacher whose features the store doesn't hold."""


class LeakingCorpus(DataError):
    """A corpus that would train on images that it, or a benchmark, evaluates on."""


class TooManyRejects(DataError):
    """A source with a larger share of rejects than the recipe allows."""


class TooManySkips(DataError):
    """Training whose losses aren't finite, or leap, more often than the recipe allows."""


class InfrastructureError(SailloftError, RuntimeError):
    """Storage or cluster trouble that is nobody's data."""

    exit_code = 4


class ObjectNotFound(InfrastructureError):
    """No object under that key."""


class RetiredCorpus(ObjectNotFound):
    """A corpus that was taken away since images had to leave it; the message names its successor."""


class Locked(InfrastructureError):
    """Work that one process at a time may do, and another one does."""


class ManifestConflict(InfrastructureError):
    """A different output already stands under the same content key."""
