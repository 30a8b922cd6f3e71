"""WebDataset shards: tar files whose members share a name up to the first dot, one such key per record.

img2dataset writes pictures with captions so: `000000017.jpg`, `000000017.txt`, `000000017.json`. Pictures stay where
they are: a record says where in the shard their bytes lie, and they are read from there by range.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from io import BufferedIOBase

from pipelines.curation.steps.tar_archive import escaped, iterate_headers
from storage.errors import SourceError, UsageError

__all__ = ["expand_shards", "iterate_shard"]

_TEXTS = ("txt", "json")
_MAX_TEXT_BYTES = 2**24
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


def expand_shards(pattern: str) -> tuple[str, ...]:
    """Names of the shards that a pattern stands for, in WebDataset's notation of number ranges.

    Raises:
        UsageError: a range that ends before it begins.

    >>> expand_shards("laion/{00008..00010}.tar"), expand_shards("one.tar")
    (('laion/00008.tar', 'laion/00009.tar', 'laion/00010.tar'), ('one.tar',))
    """
    found = _RANGE.search(pattern)
    if found is None:
        return (pattern,)
    first, last = found.groups()
    if int(last) < int(first):
        raise UsageError(f"{pattern}: expected a range such as {{00000..00009}}, got one that ends before it begins")
    head, tail = pattern[: found.start()], pattern[found.end() :]
    names = [f"{head}{number:0{len(first)}d}{tail}" for number in range(int(first), int(last) + 1)]
    return tuple(name for one in names for name in expand_shards(one))


def iterate_shard(file: BufferedIOBase, file_name: str) -> Iterator[object]:
    """The records of a shard, in the order of their keys' first members.

    Args:
        file: the tar file, seekable; pictures in it aren't read.
        file_name: how messages name it.

    Yields:
        A mapping per key: `key`, and `members`, a list of mappings with `suffix` and either `data` (the bytes of
        `txt` and `json`) or `extent` (offset and size in bytes of anything else, and of texts beyond reason); neither
        for a link.

    Raises:
        SourceError: it is cut off, compressed, damaged, or no tar file.
    """
    records: dict[str, list[object]] = {}
    try:
        for member in iterate_headers(file):
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            fields: dict[str, object] = {"suffix": suffix.lower()}
            if member.isfile() and suffix.lower() in _TEXTS and member.size <= _MAX_TEXT_BYTES:
                file.seek(member.offset_data)
                fields["data"] = file.read(member.size)
            elif member.isfile():
                fields["extent"] = (member.offset_data, member.size)
            records.setdefault(escaped(f"{folder}/{stem}" if folder else stem), []).append(fields)
    except tarfile.TarError as error:
        raise SourceError(
            f"{file_name}: expected an uncompressed WebDataset shard (tar), got bytes that can't be read as one "
            f"({error}); fetch the file again, or unpack its compression"
        ) from error
    for key, members in records.items():
        yield {"key": key, "members": members}
