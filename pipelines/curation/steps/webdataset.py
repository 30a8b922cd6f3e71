"""WebDataset shards: tar files whose members share a name up to the first dot, one such key per record.

img2dataset writes pictures with captions so: `000000017.jpg`, `000000017.txt`, `000000017.json`. Pictures stay where
they are: a record says where in the shard their bytes lie, and they are read from there by range.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from io import BufferedIOBase

from storage.errors import SourceError, UsageError

__all__ = ["expand_shards", "iterate_shard"]

_TEXTS = ("txt", "json")
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
        `txt` and `json`) or `extent` (offset and size in bytes of anything else).

    Raises:
        SourceError: it is cut off, compressed, or no tar file.
    """
    records: dict[str, list[object]] = {}
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                fields: dict[str, object] = {"suffix": suffix.lower()}
                if member.isfile():
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError(f"{member.name} ends at byte {member.offset_data + member.size}")
                    if suffix.lower() in _TEXTS:
                        content = archive.extractfile(member)
                        fields["data"] = content.read() if content is not None else b""
                    else:
                        fields["extent"] = (member.offset_data, member.size)
                # Names needn't be Unicode; what isn't stands escaped, so that reports can be written.
                key = (f"{folder}/{stem}" if folder else stem).encode(errors="backslashreplace").decode()
                records.setdefault(key, []).append(fields)
    except tarfile.TarError as error:
        raise SourceError(
            f"{file_name}: expected an uncompressed WebDataset shard (tar), got {size} bytes that can't be read "
            f"as one ({error}); fetch the file again, or unpack its compression"
        ) from error
    for key, members in records.items():
        yield {"key": key, "members": members}
