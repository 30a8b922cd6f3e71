"""Records of source files of every format: taken out, and put back after they were changed."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from tests.damage import LONG_NUMBER, Link

__all__ = ["RowList", "row_lists"]


@dataclass(frozen=True, slots=True)
class RowList:
    """One list of records in a source.

    Of archives and folders, a record is `{"name": ..., "files": {suffix: bytes}}`: what has one name but for suffixes.
    """

    path: Path
    """A file, or a folder of which the files are records."""
    key: str | None = None
    """Of a JSON mapping: the list's name."""

    def rows(self) -> list[Any]:
        """All records."""
        if self.path.is_dir():
            files = sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink())
            return _grouped([(path.relative_to(self.path).as_posix(), path.read_bytes()) for path in files])
        if self.path.suffix == ".tar":
            with tarfile.open(self.path) as archive:
                return _grouped([(member.name, _content(archive, member)) for member in archive])
        if self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive:
                return _grouped([(name, archive.read(name)) for name in archive.namelist()])
        if self.path.suffix == ".parquet":
            return pq.read_table(self.path).to_pylist()
        if self.path.suffix == ".jsonl":
            return [json.loads(line) for line in self.path.read_text().splitlines()]
        if self.path.suffix == ".p":
            return pickle.loads(self.path.read_bytes())
        content = json.loads(self.path.read_text())
        return content if self.key is None else content[self.key]

    def keeps(self, row: object) -> bool:
        """Whether the format can hold a record at all: a Parquet file's columns have types."""
        if self.path.suffix != ".parquet":
            return True
        table = pq.read_table(self.path)
        if not isinstance(row, dict) or not set(row) <= set(table.schema.names):
            return False
        try:
            # Behind others: alone, a list passes for a mapping of pairs.
            pa.Table.from_pylist([*table.to_pylist(), row], schema=table.schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return False
        return True

    def write(self, rows: Sequence[object]) -> None:
        """Puts records into the place of those that are there; in a folder, beside them."""
        if self.path.is_dir():
            for name, content in _files(rows, can_lead_out=False):
                _write_file(self.path / name, content)
        elif self.path.suffix == ".tar":
            _write_tar(self.path, _files(rows))
        elif self.path.suffix == ".zip":
            _write_zip(self.path, _files(rows))
        elif self.path.suffix == ".parquet":
            schema = pq.read_schema(self.path)
            pq.write_table(pa.Table.from_pylist(cast(Any, rows), schema=schema), self.path, row_group_size=7)
        elif self.path.suffix == ".jsonl":
            self.path.write_text("\n".join(map(_json, rows)))
        elif self.path.suffix == ".p":
            self.path.write_bytes(pickle.dumps(list(rows), protocol=3))
        elif self.key is None:
            self.path.write_text(_json(list(rows)))
        else:
            content = json.loads(self.path.read_text(), parse_int=_integer)
            self.path.write_text(_json(content | {self.key: list(rows)}))


def row_lists(path: Path) -> list[RowList]:
    """The lists of records in a file or folder; none, where it is one record itself."""
    if path.is_dir() or path.suffix in (".tar", ".zip", ".parquet", ".jsonl", ".p"):
        return [RowList(path)]
    if path.suffix != ".json":
        return []
    content = json.loads(path.read_text())
    return [RowList(path)] if isinstance(content, list) else [RowList(path, key) for key in sorted(content)]


def _json(value: object) -> str:
    text = json.dumps(value, default=lambda other: repr(other))
    return text.replace(f'"{LONG_NUMBER}"', "9" * 5_000)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < 4_000 else LONG_NUMBER


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | Link:
    file = archive.extractfile(member) if member.isfile() else None
    return Link(member.linkname) if file is None else file.read()


def _grouped(files: Sequence[tuple[str, bytes | Link]]) -> list[Any]:
    groups: dict[str, dict[str, object]] = {}
    for path, content in files:
        folder, _, name = path.rpartition("/")
        stem, dot, suffix = name.partition(".")
        groups.setdefault(f"{folder}/{stem}" if folder else stem, {})[dot + suffix] = _decoded(name, content)
    return [{"name": name, "files": contents} for name, contents in groups.items()]


def _decoded(name: str, content: bytes | Link) -> object:
    """A file's JSON, so that its fields can be damaged; any other file as it is."""
    if not name.endswith(".json") or isinstance(content, Link):
        return content
    try:
        return json.loads(content)
    except ValueError:
        return content


def _files(rows: Sequence[object], can_lead_out: bool = True) -> list[tuple[str, bytes | Link]]:
    """Names and contents; what damage has left no name or content gets some, since an archive has both."""
    found: list[tuple[str, bytes | Link]] = []
    for number, row in enumerate(rows):
        fields = row if isinstance(row, dict) else {"name": f"r{number}", "files": {"": _json(row).encode()}}
        name, files = fields.get("name"), fields.get("files")
        name = name if isinstance(name, str) and name else f"n{number}"
        if not can_lead_out:  # a file system can't hold such names
            name = name.strip("/").replace("../", "").replace("/..", "").replace("\x00", "")[:200]
            name = os.fsdecode(name.encode(errors="surrogatepass"))
        for suffix, content in (files if isinstance(files, dict) else {".json": files}).items():
            found.append((f"{name}{suffix}", content if isinstance(content, bytes | Link) else _json(content).encode()))
    return found


def _write_file(path: Path, content: bytes | Link) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if isinstance(content, Link):
        path.symlink_to(content.target)
    else:
        path.write_bytes(content)


def _write_tar(path: Path, files: Sequence[tuple[str, bytes | Link]]) -> None:
    # As old programs wrote it: its names are bytes, where the newer form wants Unicode.
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogatepass") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name.replace("\x00", "\x01"))
            if isinstance(content, Link):
                member.type = tarfile.LNKTYPE if content.is_hard else tarfile.SYMTYPE
                member.linkname = content.target
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _write_zip(path: Path, files: Sequence[tuple[str, bytes | Link]]) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        for number, (name, content) in enumerate(files):
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            if isinstance(content, Link):
                info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, content.target)
            else:
                archive.writestr(info, content, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
