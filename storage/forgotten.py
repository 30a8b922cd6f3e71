"""Which images a workspace has been asked to forget: one record for each, whose name is the image's id.

    forgotten/<image id>.json      create-only

Curation and whoever removes images read the names alone, by one listing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from storage.errors import CorruptObject, ObjectNotFound
from storage.keys import Json, bytes_key
from storage.objects import Objects

__all__ = ["FORGOTTEN", "forgotten_digest", "forgotten_images", "is_image_id", "note_forgotten", "read_forgotten"]

FORGOTTEN = "forgotten"
"""Prefix of the records below a workspace."""

_IMAGE_ID = re.compile(r"[0-9a-f]{64}")


def is_image_id(text: str) -> bool:
    """Whether a text has the form of an image's id, the SHA-256 of its file in hex.

    >>> is_image_id("0" * 64), is_image_id("0" * 63)
    (True, False)
    """
    return _IMAGE_ID.fullmatch(text) is not None


def forgotten_images(workspace: Objects) -> frozenset[str]:
    """Ids of the images that a workspace has been asked to forget."""
    names = (info.key.rpartition("/")[2].removesuffix(".json") for info in workspace.iterate(FORGOTTEN))
    return frozenset(name for name in names if is_image_id(name))


def forgotten_digest(image_id: str) -> str:
    """What an output says in place of the id of an image that was forgotten.

    It tells which images an output was made without, and can't be looked up as an id.
    """
    return bytes_key(f"forgotten {image_id}".encode())


def note_forgotten(workspace: Objects, image_id: str, record: Mapping[str, Json]) -> bool:
    """Writes the record of an image; False if there is one already, which stays as it is."""
    return workspace.create(_record_key(image_id), json.dumps(dict(record), indent=1).encode())


def read_forgotten(workspace: Objects, image_id: str) -> dict[str, Any] | None:
    """The record of an image; None: nobody has asked to forget it.

    Raises:
        CorruptObject: it can't be read.
    """
    key = _record_key(image_id)
    try:
        return cast("dict[str, Any]", json.loads(workspace.read(key)))
    except ObjectNotFound:
        return None
    except ValueError as error:
        raise CorruptObject(f"{workspace.url}/{key}: not a record: {error}; restore it") from error


def _record_key(image_id: str) -> str:
    return f"{FORGOTTEN}/{image_id}.json"
