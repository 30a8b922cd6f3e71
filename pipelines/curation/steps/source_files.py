"""The files of a source, record by record; what can't be read as a whole is a `SourceError` with the remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import cast

from pipelines.curation.records import RecordError
from pipelines.curation.steps.archives import iterate_members
from pipelines.curation.steps.fields import shown
from pipelines.curation.steps.json_stream import NoElement, iterate_json, iterate_json_lines
from pipelines.curation.steps.members import Member
from pipelines.curation.steps.parquet_archive import holds_pictures
from pipelines.curation.steps.paths import FolderFile, SourceFolder, safe_join
from pipelines.curation.steps.tables import iterate_parquet
from pipelines.curation.steps.unpickle import load_plain_pickle
from pipelines.curation.steps.webdataset import iterate_shard
from storage.errors import SourceError
from storage.schema import RejectReason

__all__ = ["SourceFiles", "iterate_rows", "iterate_tables"]

_PICKLES = (".p", ".pkl", ".pickle")


def iterate_rows(file: BufferedIOBase, file_name: str) -> Iterator[object]:
    """The records of a file that holds a list of them.

    Args:
        file: seekable, where its format is tar or Parquet.
        file_name: decides the format by its suffix (`.p`, `.tar`, `.parquet`, `.jsonl`, JSON otherwise), and messages
            name it.

    Raises:
        SourceError: truncated, of another format, or no list.
        UnsafePickle: a pickle that wants more than plain data.
    """
    if file_name.endswith(_PICKLES):
        rows = load_plain_pickle(file.read(), file_name)
        if not isinstance(rows, list):
            raise _no_list(file_name, shown(rows))
        yield from cast("list[object]", rows)
    elif file_name.endswith((".tar", ".tar.gz", ".tgz")):
        yield from iterate_shard(file, file_name)
    elif file_name.endswith(".parquet"):
        yield from iterate_parquet(file, file_name)
    elif file_name.endswith(".jsonl"):
        yield from iterate_json_lines(file, file_name)
    else:
        for key, row in iterate_json(file, file_name):
            if key is not None:
                raise _no_list(file_name, "a mapping")
            if not isinstance(row, NoElement):
                yield row
            elif not isinstance(row.value, list):
                raise _no_list(file_name, shown(row.value))


def iterate_tables(
    file: BufferedIOBase, file_name: str, lists: Iterable[str], wanted: Collection[str]
) -> Iterator[tuple[str, object]]:
    """The records of a JSON file that holds several lists of them by name, as COCO's do, in the file's order.

    Args:
        file: read once.
        file_name: messages name it.
        lists: names that must be there.
        wanted: names of the lists whose records are given.

    Raises:
        SourceError: truncated, of another format, or a list is absent.
    """
    absent = list(lists)
    for key, row in iterate_json(file, file_name):
        if key is None:
            raise SourceError(f"{file_name}: expected a COCO mapping, got a list or a value; is this the right file?")
        is_element = not isinstance(row, NoElement)
        if key in absent and (is_element or isinstance(row.value, list)):
            absent.remove(key)
        if key in wanted and is_element:
            yield key, row
    if absent:
        raise SourceError(f"{file_name}: expected a list under {absent[0]!r}, got none; is this the right file?")


def _no_list(file_name: str, found: str) -> SourceError:
    return SourceError(f"{file_name}: expected a list of records, got {found}; is this the right file?")


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of one source under its root, opened anew for every pass over them (picklable)."""

    folder: SourceFolder
    expected: tuple[str, ...] = ()
    """Names that messages about an absent file list."""
    listed: set[str] = field(default_factory=set[str], init=False, compare=False)
    """Folders of which the names were asked for so far."""
    _whole: dict[str, list[object]] = field(default_factory=dict[str, "list[object]"], init=False, compare=False)

    def rows(self, name: str) -> Iterator[object]:
        """The records of a file that holds a list of them; see `iterate_rows`."""
        if name in self._whole:
            yield from self._whole[name]
            return
        with self.open(name) as file:
            rows = iterate_rows(file, name)
            if name.endswith(_PICKLES):  # decoded as a whole anyway
                self._whole[name] = rows = list(rows)
            yield from rows

    def columns(self, name: str, *columns: str) -> Iterator[object]:
        """The records of a Parquet file, of these columns alone; see `iterate_parquet`."""
        with self.open(name) as file:
            yield from iterate_parquet(file, name, columns)

    def holds_pictures(self, name: str) -> bool:
        """Whether a Parquet file has a column of pictures; raises SourceError and InfrastructureError."""
        with self.open(name) as file:
            try:
                return holds_pictures(file, name)
            except RecordError as error:
                raise SourceError(error.detail) from None

    def tables(self, name: str, *lists: str, wanted: Collection[str] | None = None) -> Iterator[tuple[str, object]]:
        """The records of the named lists of a COCO file, each with its list; see `iterate_tables`."""
        with self.open(name) as file:
            yield from iterate_tables(file, name, lists, lists if wanted is None else wanted)

    def read(self, name: str) -> bytes:
        """A small file whole; raises RecordError as `SourceFolder.read` does."""
        return self.folder.read(safe_join("", name))

    def names(self, folder: str) -> Iterator[str]:
        """Names, under the root, of all files below a folder, sorted; see `SourceFolder.names`.

        Raises:
            SourceError: the folder is absent, leads out of the root, or can't be read.
            InfrastructureError: the store can't be reached.
        """
        self.listed.add(folder)
        try:
            yield from self.folder.names(safe_join("", folder) if folder else "")
        except RecordError as error:
            raise self._unusable(folder, error) from None

    def members(self, name: str) -> Iterator[Member]:
        """The members of an archive of pictures, in its order; see `iterate_members`.

        Raises:
            SourceError: the archive is absent, damaged, or leads out of the folder.
            InfrastructureError: the store can't be reached.
        """
        try:
            yield from iterate_members(FolderFile(self.folder, safe_join("", name)))
        except RecordError as error:
            raise self._unusable(name, error) from None

    def open(self, name: str) -> BufferedIOBase:
        """A file, to be read from its beginning.

        Raises:
            SourceError: it is absent, no file, or leads out of the folder.
            InfrastructureError: the store can't be reached.
        """
        if not self.folder.exists():
            raise SourceError(f"{name}: the root {self.folder.url} is absent; {self._remedy(name)}")
        try:
            return self.folder.open(safe_join("", name))
        except RecordError as error:
            raise self._unusable(name, error) from None

    def problem(self, name: str) -> str | None:
        """What is wrong with a file whose folder is there; None: it can be opened."""
        try:
            self.folder.open(safe_join("", name)).close()
        except RecordError as error:
            return _state(name, error)
        return None

    def _unusable(self, name: str, error: RecordError) -> SourceError:
        return SourceError(f"{name}: {_state(name, error)}; {self._remedy(name)}")

    def _remedy(self, name: str) -> str:
        return f"expected {', '.join(self.expected or (name,))} under {self.folder.url}"


def _state(name: str, error: RecordError) -> str:
    known = {RejectReason.IMAGE_MISSING: "absent", RejectReason.PATH_UNSAFE: "leads out of the source's folder"}
    return known.get(error.reason, error.detail.removeprefix(f"{name}: "))
