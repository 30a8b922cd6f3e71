"""Decodes whole source files; what can't be decoded as a whole is a `SourceError` with the remedy."""

from __future__ import annotations

import json
from typing import cast

from pipelines.curation.steps.fields import shown
from pipelines.curation.steps.unpickle import load_plain_pickle
from pipelines.curation.steps.webdataset import read_shard
from storage.errors import SourceError

__all__ = ["decode_source_file", "expect_list", "expect_mapping"]


def decode_source_file(data: bytes, file_name: str) -> object:
    """Decodes a `.json`, `.p` or `.tar` file.

    Args:
        data: the bytes of the file.
        file_name: its name under the source's root; decides the format, and messages name it.

    Returns:
        The plain value that the file holds; of a WebDataset shard see `read_shard`.

    Raises:
        SourceError: truncated, of another format, or nested beyond reason.
        UnsafePickle: a pickle that wants more than plain data.
    """
    if file_name.endswith((".p", ".pkl", ".pickle")):
        return load_plain_pickle(data, file_name)
    if file_name.endswith((".tar", ".tar.gz", ".tgz")):
        return read_shard(data, file_name)
    try:
        return cast("object", json.loads(data))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{file_name}: expected JSON, got {len(data)} bytes that can't be decoded "
            f"({type(error).__name__}: {error}); fetch the file again"
        ) from error


def expect_list(value: object, file_name: str) -> list[object]:
    """`value` as the list that the format says the file holds.

    Raises:
        SourceError: it holds something else.
    """
    if not isinstance(value, list):
        raise SourceError(f"{file_name}: expected a list of records, got {shown(value)}; is this the right file?")
    return cast("list[object]", value)


def expect_mapping(value: object, file_name: str, *lists: str) -> dict[str, list[object]]:
    """`value` as a mapping that holds at least the named lists (a COCO file).

    Raises:
        SourceError: it is something else, or a list is absent.
    """
    if not isinstance(value, dict):
        raise SourceError(f"{file_name}: expected a COCO mapping, got {shown(value)}; is this the right file?")
    found = cast("dict[str, object]", value)
    for key in lists:
        if not isinstance(found.get(key), list):
            raise SourceError(
                f"{file_name}: expected a list under {key!r}, got {shown(found.get(key))}; is this the right file?"
            )
    return {key: cast("list[object]", found[key]) for key in lists}
