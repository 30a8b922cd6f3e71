"""The Parquet files of one folder of a corpus, as one table of rows."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CorruptObject, ObjectNotFound, SailloftError
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.retirement import retired_error

__all__ = ["CorpusFiles"]

_CACHED_FOOTER_BYTES = 16 * 2**20
"""As stored, of footers that a reader keeps: those of 400,000 images of 100 kB. In memory they take 13 times that."""
_NUM_LOCAL_TABLES_AT_ONCE = 8
_NUM_TABLES_AT_ONCE = 32  # each waits for one request after another


@dataclass(frozen=True, eq=False)
class _Footer:
    metadata: pq.FileMetaData
    first_rows: list[int]
    """Of each row group, within the file."""

    @classmethod
    def of(cls, metadata: pq.FileMetaData) -> _Footer:
        sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return cls(metadata, [0, *accumulate(sizes)][:-1])


class CorpusFiles:
    """The Parquet files of one folder: footers are read once as long as they find room, row groups on demand.

    Args:
        objects: the corpus's prefix.
        entries: its files; their rows are counted in the order of their paths.
    """

    def __init__(self, objects: Objects, entries: Sequence[FileEntry]) -> None:
        self._objects = objects
        self.entries = sorted(entries, key=lambda entry: entry.path)
        self._first_rows = [0, *accumulate(entry.rows or 0 for entry in self.entries)]
        self._footers: OrderedDict[str, _Footer] = OrderedDict()
        self._footer_bytes = 0
        self._lock = threading.Lock()

    def open(self, entry: FileEntry, columns_only: bool = False, passing: bool = False) -> pq.ParquetFile:
        """A reader of its own, so that threads don't share a position.

        Args:
            entry: which file.
            columns_only: few and narrow ones are wanted: their bytes are asked for, and not what lies between them.
            passing: all files are read one after another: the footer isn't kept.
        """
        with self._lock:
            footer = self._footers.get(entry.path)
        metadata = None if footer is None else footer.metadata
        try:
            file = pq.ParquetFile(self._source(entry, columns_only), metadata=metadata, pre_buffer=columns_only)
        except (pa.ArrowInvalid, OSError, ObjectNotFound) as error:
            raise self._failure(entry, error) from error
        if not passing:
            self._keep(entry, footer or _Footer.of(file.metadata))
        return file

    def place(self, row: int) -> tuple[int, int, int]:
        """(file, row group, row within it) of a row of all files, by the footer of that file alone.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= row < self._first_rows[-1]:
            raise IndexError(f"{self._objects.url}: expected a row from 0 to {self._first_rows[-1] - 1}, got {row}")
        file = bisect_right(self._first_rows, row) - 1
        entry, within = self.entries[file], row - self._first_rows[file]
        first_rows = self._footer(entry).first_rows
        group = bisect_right(first_rows, within) - 1
        return file, group, within - first_rows[group]

    def _footer(self, entry: FileEntry) -> _Footer:
        with self._lock:
            footer = self._footers.get(entry.path)
        if footer is None:
            with self.open(entry) as file:
                footer = _Footer.of(file.metadata)
        return footer

    def _keep(self, entry: FileEntry, footer: _Footer) -> None:
        with self._lock:
            if entry.path not in self._footers:
                self._footer_bytes += footer.metadata.serialized_size
            self._footers[entry.path] = footer
            self._footers.move_to_end(entry.path)
            while self._footer_bytes > _CACHED_FOOTER_BYTES and len(self._footers) > 1:
                _, oldest = self._footers.popitem(last=False)
                self._footer_bytes -= oldest.metadata.serialized_size

    def read_group(self, entry: FileEntry, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group of a file."""
        with self.open(entry) as file:
            try:
                return file.read_row_group(group, columns=None if columns is None else list(columns))
            except (pa.ArrowInvalid, OSError, ObjectNotFound) as error:
                raise self._failure(entry, error) from error

    @property
    def num_rows(self) -> int:
        """Of all files."""
        return self._first_rows[-1]

    def read(self, schema: pa.Schema, columns: Sequence[str], rows: range | None = None) -> pa.Table:
        """Some columns of all files, or of some consecutive rows: then only the row groups that hold them are read."""
        is_local = self._objects.local_path is not None

        def read_one(piece: tuple[FileEntry, range | None]) -> pa.Table:
            entry, within = piece
            with self.open(entry, columns_only=not is_local, passing=True) as file:
                try:
                    return file.read(columns=list(columns)) if within is None else _read_rows(file, columns, within)
                except (pa.ArrowInvalid, OSError, ObjectNotFound) as error:
                    raise self._failure(entry, error) from error

        pieces = [(entry, None) for entry in self.entries] if rows is None else self._pieces(rows)
        with ThreadPoolExecutor(_NUM_LOCAL_TABLES_AT_ONCE if is_local else _NUM_TABLES_AT_ONCE) as pool:
            tables = list(pool.map(read_one, pieces))
        return pa.concat_tables([pa.schema([schema.field(name) for name in columns]).empty_table(), *tables])

    def _pieces(self, rows: range) -> list[tuple[FileEntry, range | None]]:
        """Files that hold some of the rows, with the rows within each; None: all of its rows."""
        found: list[tuple[FileEntry, range | None]] = []
        first_file = max(0, bisect_right(self._first_rows, rows.start) - 1)
        for file in range(first_file, min(bisect_left(self._first_rows, rows.stop), len(self.entries))):
            first, end = self._first_rows[file : file + 2]
            within = range(max(rows.start - first, 0), min(rows.stop, end) - first)
            if len(within):
                found.append((self.entries[file], None if len(within) == end - first else within))
        return found

    def groups(self) -> Iterator[tuple[FileEntry, int]]:
        """All row groups, file by file."""
        for entry in self.entries:
            for group in range(self._footer(entry).metadata.num_row_groups):
                yield entry, group

    def _source(self, entry: FileEntry, columns_only: bool) -> pa.NativeFile:
        folder = self._objects.local_path
        if folder is None:
            ahead: dict[str, int] = {"read_ahead_bytes": 1} if columns_only else {}
            return pa.PythonFile(self._objects.open_file(entry.path, entry.size_bytes, **ahead), mode="r")
        file = pa.OSFile(str(folder / entry.path))
        if file.size() != entry.size_bytes:
            raise self._failure(entry, ValueError(f"expected {entry.size_bytes} bytes, found {file.size()}"))
        return file

    def _failure(self, entry: FileEntry, error: Exception) -> SailloftError:
        retired = retired_error(self._objects)
        if retired is not None:
            return retired
        return CorruptObject(f"{self._objects.url}/{entry.path}: {error}; delete the corpus and rerun curate")


def _read_rows(file: pq.ParquetFile, columns: Sequence[str], rows: range) -> pa.Table:
    first_rows = _Footer.of(file.metadata).first_rows
    first, last = (bisect_right(first_rows, row) - 1 for row in (rows.start, rows.stop - 1))
    table = file.read_row_groups(list(range(first, last + 1)), columns=list(columns))
    return table.slice(rows.start - first_rows[first], len(rows))
