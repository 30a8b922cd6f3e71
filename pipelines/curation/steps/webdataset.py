"""WebDataset shards: tar files whose members share a name up to the first dot, one such key per record.

img2dataset writes pictures with captions so: `000000017.jpg`, `000000017.txt`, `000000017.json`. Pictures stay where
they are: a record says where in the shard their bytes lie, and they are read from there by range.
"""

from __future__ import annotations

import io
import re
import tarfile

from storage.errors import SourceError, UsageError

__all__ = ["expand_shards", "read_shard"]

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


def read_shard(data: bytes, file_name: str) -> list[object]:
    """The records of a shard, in the order of their keys' first members.

    Args:
        data: the bytes of the tar file.
        file_name: how messages name it.

    Returns:
        A mapping per key: `key`, and `members`, a list of mappings with `suffix` and either `data` (the bytes of
        `txt` and `json`) or `extent` (offset and size in bytes of anything else).

    Raises:
        SourceError: it is cut off, compressed, or no tar file.
    """
    records: dict[str, list[object]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                fields: dict[str, object] = {"suffix": suffix.lower()}
                if member.isfile():
                    start, stop = member.offset_data, member.offset_data + member.size
                    if stop > len(data):
                        raise tarfile.ReadError(f"{member.name} ends at byte {stop} of {len(data)}")
                    if suffix.lower() in _TEXTS:
                        fields["data"] = data[start:stop]
                    else:
                        fields["extent"] = (start, member.size)
                # Names needn't be Unicode; what isn't stands escaped, so that reports can be written.
                key = (f"{folder}/{stem}" if folder else stem).encode(errors="backslashreplace").decode()
                records.setdefault(key, []).append(fields)
    except tarfile.TarError as error:
        raise SourceError(
            f"{file_name}: expected an uncompressed WebDataset shard (tar), got {len(data)} bytes that can't be read "
            f"as one ({error}); fetch the file again, or unpack its compression"
        ) from error
    return [{"key": key, "members": members} for key, members in records.items()]
