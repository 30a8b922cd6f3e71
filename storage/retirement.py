"""Corpora that are no more: a small file in their place says why, which one took it, and where they came from.

    retired.json      create-only; the manifest and all other files are deleted after it

A corpus is retired when an image has to leave it, since outputs are never changed. Readers of its old address are told
of its successor; whoever asks where a checkpoint came from finds what it was made of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, cast

from storage import local_files
from storage.errors import CorruptObject, ManifestConflict, ObjectNotFound, RetiredCorpus
from storage.keys import Json, canonical_json
from storage.manifest import MANIFEST_NAME
from storage.objects import Objects, is_key

__all__ = ["RETIRED_NAME", "Retirement", "SampleCount", "delete_all", "read_retirement", "retire", "retired_error",
           "successor_of"]  # fmt: skip

RETIRED_NAME = "retired.json"
"""Key of the file below the prefix of what was retired."""

_VERSION = 1


@dataclass(frozen=True, slots=True, order=True)
class SampleCount:
    """How many samples of one kind an image had in a corpus."""

    family: str
    task: str
    split: str
    num_samples: int


@dataclass(frozen=True, slots=True)
class Retirement:
    """What stays of a retired corpus."""

    key: str
    successor: str
    """Key of the corpus that took its place, in the folder beside it."""
    reason: str
    removed: Mapping[str, Sequence[SampleCount]]
    """Ids of the images that had to leave, with the samples that it had of each."""
    recipe: Mapping[str, Json]
    """Of its manifest, as the next two."""
    inputs: Mapping[str, str]
    parents: Sequence[str]

    def to_json(self) -> bytes:
        """The file's bytes."""
        value = cast("dict[str, Json]", asdict(self))
        return canonical_json({"version": _VERSION, **value})

    @classmethod
    def from_json(cls, data: bytes) -> Retirement:
        """The inverse of `to_json`; raises ValueError, KeyError or TypeError."""
        value = cast("dict[str, Any]", json.loads(data))
        removed = {
            image_id: tuple(SampleCount(**count) for count in counts) for image_id, counts in value["removed"].items()
        }
        names = ("key", "successor", "reason", "recipe", "inputs", "parents")
        successor: object = value["successor"]
        if not isinstance(successor, str) or "/" in successor or not is_key(successor):
            raise ValueError(f"expected a successor beside it, got {successor!r}")
        return cls(removed=removed, **{name: value[name] for name in names})


def read_retirement(objects: Objects) -> Retirement | None:
    """What stays of the corpus at a prefix; None: it wasn't retired.

    Raises:
        CorruptObject: the file can't be read.
    """
    try:
        return Retirement.from_json(objects.read(RETIRED_NAME))
    except ObjectNotFound:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptObject(f"{objects.url}/{RETIRED_NAME}: {type(error).__name__} {error}; restore it") from error


def retired_error(objects: Objects) -> RetiredCorpus | None:
    """What to raise for whoever reads at a prefix; None: nothing was retired there."""
    found = read_retirement(objects)
    if found is None:
        return None
    beside = objects.url.rpartition("/")[0]
    return RetiredCorpus(
        f"{objects.url}: this corpus was retired ({found.reason}); read its successor, {beside}/{found.successor}"
    )


def successor_of(objects: Objects) -> Objects | None:
    """Prefix of what took the place of a retired corpus, and of that one, and so on; None: it wasn't retired."""
    found: Objects | None = None
    while (retired := read_retirement(found or objects)) is not None:
        found = Objects.open(f"{(found or objects).url.rpartition('/')[0]}/{retired.successor}")
    return found


def retire(objects: Objects, retirement: Retirement) -> None:
    """Takes a corpus away, and leaves word of it; repeating it is fine, and continues one that was killed.

    Args:
        objects: prefix of the corpus; its successor is there already.
        retirement: what stays of it.

    Raises:
        ManifestConflict: it was retired for the sake of another successor.
        InfrastructureError: the store can't be reached.
    """
    if not objects.create(RETIRED_NAME, retirement.to_json()):
        found = read_retirement(objects)
        if found is None or found.to_json() != retirement.to_json():
            raise ManifestConflict(
                f"{objects.url}/{RETIRED_NAME}: expected the successor {retirement.successor}, found "
                f"{found.successor if found else 'none'}; see which of the two is there and delete the other note"
            )
    delete_all(objects, keep=(RETIRED_NAME,))


def delete_all(objects: Objects, keep: Collection[str] = (), last: Collection[str] = ()) -> int:
    """Deletes what lies below a prefix, unfinished local files too; the manifest goes first.

    Without its manifest, what is left of an output is never taken for whole. What lies deepest goes last.

    Args:
        objects: the prefix.
        keep: keys that stay.
        last: keys that are deleted after all others, so that while any is there, these are.

    Returns:
        Number of objects that were deleted.
    """
    keys = [info.key for info in objects.list() if info.key not in keep]

    def turn(key: str) -> tuple[bool, bool, int]:
        return key in last, key != MANIFEST_NAME, key.count("/")

    for _, group in groupby(sorted(keys, key=turn), key=turn):
        objects.delete_many(list(group))
    folder = objects.local_path
    if folder is not None:
        for path in local_files.unfinished_files(str(folder), older_than_s=float("-inf")):
            os.unlink(path)
        for parent, _, _ in sorted(os.walk(folder), reverse=True):  # deeper ones come first
            if not os.listdir(parent):
                os.rmdir(parent)
    return len(keys)
