"""Pictures inside Parquet files, as Hugging Face image datasets and img2dataset write them: a row is a member.

A row's bytes stand in a struct column `image` of `bytes` and `path`, or in a binary column (`image_bytes`, `bytes`,
`jpg`, `png`, `webp`, `image`); its name is `image.path`, or else `path`, `file_name`, `image_id` or `key`. A row
without a name of its own, or whose name can't be a path, is `row=N`, counted from 0; any row can be named so.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import itertools
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.records import RecordError
from pipelines.curation.steps.members import ArchiveFile, Member, MemberIndex, check_size
from storage.schema import RejectReason

__all__ = ["ParquetArchive", "PictureColumns", "holds_pictures", "iterate_parquet_pictures", "picture_columns"]

_BYTES = ("image_bytes", "bytes", "jpg", "png", "webp", "image")
_NAMES = ("path", "file_name", "image_id", "key")
_ROW = re.compile(r"row=([0-9]{1,12})")
_NAME_ROWS = 4096
_STREAMED_ROWS = 8
_MAX_GROUP_BYTES = 2**28
"""A row group with more picture bytes isn't kept: it is read up to the row that is wanted."""
_MAX_KEPT_BYTES = 2**29
"""Of row groups that are kept for whoever reads a neighbour, in a process."""

# pyarrow's own, what its Python shell raises on damaged schemas, and what reading a local file does.
_DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)

_Column: TypeAlias = "pa.ChunkedArray"


@dataclass(frozen=True, slots=True)
class PictureColumns:
    """Where a Parquet file keeps its pictures; a column of a struct is `struct.column`."""

    data: str
    """The column of bytes."""
    names: tuple[str, ...]
    """Columns of names: the first that isn't null names a row."""


def picture_columns(schema: pa.Schema) -> PictureColumns | None:
    """The columns of pictures and their names; None: the file holds no pictures.

    >>> picture_columns(pa.schema([("jpg", pa.binary()), ("key", pa.string())]))
    PictureColumns(data='jpg', names=('key',))
    """
    structs = [field.name for field in schema if pa.types.is_struct(field.type) and _is_picture(field.type)]
    names = [name for name in _NAMES if name in schema.names and _is_name(schema.field(name).type)]
    if "image" in structs or len(structs) == 1:
        struct = "image" if "image" in structs else structs[0]
        index = schema.field(struct).type.get_field_index("path")
        if index >= 0 and _is_name(schema.field(struct).type.field(index).type):
            names.insert(0, f"{struct}.path")
        return PictureColumns(f"{struct}.bytes", tuple(names))
    found = next((name for name in _BYTES if name in schema.names and _is_binary(schema.field(name).type)), None)
    return None if found is None else PictureColumns(found, tuple(names))


def holds_pictures(file: BufferedIOBase, path: str) -> bool:
    """Whether a Parquet file has a column of pictures; raises RecordError where it can't be read."""
    try:
        return picture_columns(pq.ParquetFile(file).schema_arrow) is not None
    except _DAMAGED as error:
        raise _damaged(path, error) from None


class ParquetArchive:
    """A Parquet file of pictures whose footer and names were read.

    A picture is had by reading its row group, which is kept for a while: neighbours come at no further cost.

    Args:
        file: the archive.

    Raises:
        RecordError: IMAGE_UNREADABLE: it is cut off, damaged, no Parquet file, or one without pictures.
        InfrastructureError: the store can't be reached.
    """

    def __init__(self, file: ArchiveFile) -> None:
        self._file = file
        with file.open() as opened:
            self._metadata, self._columns, names = _opened(opened, file.path)
        self._index = MemberIndex(file.path, names)
        groups = (self._metadata.row_group(number) for number in range(self._metadata.num_row_groups))
        self._starts = [0, *itertools.accumulate(group.num_rows for group in groups)]
        self._key = next(_KEYS)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, member: str) -> bytes:
        """The bytes of a member.

        Raises:
            RecordError: IMAGE_MISSING, also where the row has a name and no bytes, FIELD_INVALID where several have
                that name, IMAGE_TOO_LARGE, or IMAGE_UNREADABLE.
            InfrastructureError: the store can't be reached.
        """
        path = f"{self._file.path}/{member}"
        row = self._row(member)
        group = bisect_right(self._starts, row) - 1
        try:
            value = self._value(group, row - self._starts[group])
        except _DAMAGED as error:
            raise _damaged(path, error) from None
        if value is None:
            raise RecordError(RejectReason.IMAGE_MISSING, f"{path}: the row holds no bytes in {self._columns.data}")
        check_size(path, len(value))
        return value

    def _row(self, member: str) -> int:
        numbered = _ROW.fullmatch(member)
        if numbered is not None and int(numbered[1]) < len(self) and not self._index.is_unique(member):
            return int(numbered[1])
        return self._index.place(member)

    def _value(self, group: int, place: int) -> bytes | None:
        # One lock for the file: who waits for a row group finds it kept.
        with self._lock:
            kept = _KEPT.get((self._key, group))
            if kept is None and self._group_bytes(group) <= _MAX_GROUP_BYTES:
                with self._file.open() as opened:
                    file = pq.ParquetFile(opened, metadata=self._metadata)
                    kept = _leaf(file.read_row_group(group, columns=[self._columns.data]), self._columns.data)
                _KEPT.put((self._key, group), kept)
            if kept is not None:
                return cast("bytes | None", kept[place].as_py())
            return self._streamed(group, place)

    def _streamed(self, group: int, place: int) -> bytes | None:
        with self._file.open() as opened:
            # Page by page: the whole column would be read otherwise before its first row is there.
            file = pq.ParquetFile(opened, metadata=self._metadata, buffer_size=2**20, pre_buffer=False)
            first = 0
            for batch in file.iter_batches(_STREAMED_ROWS, row_groups=[group], columns=[self._columns.data]):
                if place < first + batch.num_rows:
                    column = _leaf(pa.Table.from_batches([batch]), self._columns.data)
                    return cast("bytes | None", column[place - first].as_py())
                first += batch.num_rows
        raise ValueError(f"expected row {place} in row group {group}, which ends at row {first}")

    def _group_bytes(self, group: int) -> int:
        metadata = self._metadata.row_group(group)
        columns = (metadata.column(number) for number in range(metadata.num_columns))
        return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self._columns.data)


def iterate_parquet_pictures(file: ArchiveFile) -> Iterator[Member]:
    """The rows of a Parquet file of pictures; raises as `ParquetArchive` does."""
    with file.open() as opened:
        _, _, names = _opened(opened, file.path)
    index = MemberIndex(file.path, names)
    for row, name in enumerate(names):
        yield Member(name if name is not None and index.is_unique(name) else f"row={row}", f"row={row}")


def _opened(file: BufferedIOBase, path: str) -> tuple[pq.FileMetaData, PictureColumns, list[str | None]]:
    """Footer, columns and the name of each row that has one."""
    try:
        parquet = pq.ParquetFile(file)
        columns = picture_columns(parquet.schema_arrow)
        if columns is None:
            have = ", ".join(parquet.schema_arrow.names[:20])
            raise RecordError(
                RejectReason.IMAGE_UNREADABLE,
                f"{path}: expected a column image of bytes and path, or one of {', '.join(_BYTES)}, got {have}",
            )
        names: list[str | None] = [None] * parquet.metadata.num_rows
        row = 0
        for batch in parquet.iter_batches(_NAME_ROWS, columns=list(columns.names)) if columns.names else ():
            table = pa.Table.from_batches([batch])
            for name in columns.names:
                for place, value in enumerate(_leaf(table, name).to_pylist(), start=row):
                    if names[place] is None and value is not None:
                        names[place] = _usable(str(value))
            row += batch.num_rows
    except _DAMAGED as error:
        if isinstance(error, RecordError):
            raise
        raise _damaged(path, error) from None
    return parquet.metadata, columns, names


def _usable(name: str) -> str | None:
    """A name that can be part of a path; None: it can't, as that of a file on the writer's own disk."""
    segments = name.split("/")
    is_plain = "\\" not in name and ":" not in segments[0] and name.isprintable()
    return name if is_plain and not any(segment in ("", ".", "..") for segment in segments) else None


def _leaf(table: pa.Table, name: str) -> _Column:
    return (table.flatten() if "." in name else table).column(name)


def _is_picture(kind: pa.StructType) -> bool:
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_binary(kind.field(index).type)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_name(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)


def _damaged(path: str, error: BaseException) -> RecordError:
    return RecordError(
        RejectReason.IMAGE_UNREADABLE,
        f"{path}: expected a Parquet file, got bytes that can't be read as one ({str(error)[:200]}); fetch it again",
    )


class _KeptGroups:
    """Row groups that were read last, up to a number of bytes; threads share it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._groups: OrderedDict[tuple[int, int], _Column] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> _Column | None:
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
            return self._groups.get(key)

    def put(self, key: tuple[int, int], column: _Column) -> None:
        with self._lock:
            self._groups[key] = column
            self._num_bytes += column.nbytes
            while self._num_bytes > self._max_bytes and len(self._groups) > 1:
                _, old = self._groups.popitem(last=False)
                self._num_bytes -= old.nbytes


_KEPT = _KeptGroups(_MAX_KEPT_BYTES)
_KEYS = itertools.count()
