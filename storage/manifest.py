"""Manifests: the file that is written last, and without which an output doesn't exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

from storage.errors import CorruptObject, ManifestConflict, ObjectNotFound
from storage.keys import Json, bytes_key, canonical_json
from storage.objects import Objects, is_key

__all__ = [
    "MANIFEST_NAME",
    "FileEntry",
    "Manifest",
    "delete_outputs",
    "publish",
    "read_manifest",
    "verify_manifest",
    "write_once",
]

MANIFEST_NAME = "manifest.json"
"""Key of the manifest below the output's prefix."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an output: key below its prefix, size, SHA-256 of its bytes, rows if it is a table."""

    path: str
    size_bytes: int
    sha256: str
    rows: int | None = None

    @classmethod
    def of(cls, path: str, data: bytes, rows: int | None = None) -> FileEntry:
        """The entry of a file with these bytes."""
        return cls(path, len(data), bytes_key(data), rows)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an output is, what it was made of and which files it has.

    Holds JSON only and nothing that differs between two runs over the same inputs: no clock, no
    host, no credentials. `inputs` maps a name to the content key of an input; `facts` holds counts.
    """

    kind: str
    key: str
    schema_version: int
    recipe: Mapping[str, Json]
    inputs: Mapping[str, str]
    files: tuple[FileEntry, ...]
    facts: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def to_json(self) -> bytes:
        """The manifest's bytes: canonical JSON, files in order of their path."""
        return canonical_json(
            {
                "kind": self.kind,
                "key": self.key,
                "schema_version": self.schema_version,
                "recipe": self.recipe,
                "inputs": self.inputs,
                "files": [
                    {"path": entry.path, "size_bytes": entry.size_bytes, "sha256": entry.sha256, "rows": entry.rows}
                    for entry in _by_path(self.files)
                ],
                "facts": self.facts,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            ValueError: not a manifest; the message says what is wrong.
        """
        try:
            value = cast("dict[str, object]", json.loads(data))
            files = tuple(_file_entry(entry) for entry in cast("list[dict[str, object]]", value["files"]))
            fields = {name: value[name] for name in ("kind", "key", "schema_version", "recipe", "inputs", "facts")}
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a manifest: {type(error).__name__} {error}") from error
        kinds = {"kind": str, "key": str, "schema_version": int, "recipe": dict, "inputs": dict, "facts": dict}
        for name, expected in kinds.items():
            if not isinstance(fields[name], expected):
                raise ValueError(f"not a manifest: {name} is {type(fields[name]).__name__}, not {expected.__name__}")
        return cls(
            kind=cast(str, fields["kind"]),
            key=cast(str, fields["key"]),
            schema_version=cast(int, fields["schema_version"]),
            recipe=cast("dict[str, Json]", fields["recipe"]),
            inputs=cast("dict[str, str]", fields["inputs"]),
            files=files,
            facts=cast("dict[str, Json]", fields["facts"]),
        )

    def file(self, path: str) -> FileEntry:
        """The entry of one file; raises KeyError."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(path)


def delete_outputs(objects: Objects, keys: Sequence[str]) -> None:
    """Removes files of outputs, manifests first: without its own, what is left of one is never taken for whole."""
    for is_manifest in (True, False):
        objects.delete_many([key for key in keys if (key.rpartition("/")[2] == MANIFEST_NAME) is is_manifest])


def write_once(objects: Objects, key: str, data: bytes) -> None:
    """Writes a file of an output that isn't published yet, create-only; the same bytes may stand there already.

    Raises:
        ManifestConflict: a file of other content stands there.
    """
    if not objects.create(key, data) and objects.read(key) != data:
        raise ManifestConflict(
            f"{objects.url}/{key}: a file of other content stands there; delete the unfinished output, "
            "or raise the VERSION of the step that writes it"
        )


def publish(objects: Objects, manifest: Manifest) -> Manifest:
    """Writes the manifest, create-only, which makes the output exist; call it after every file is written.

    Publishing the same manifest again is success.

    Returns:
        The manifest as stored.

    Raises:
        ManifestConflict: another manifest stands there. The same content key gave different bytes:
            a step isn't deterministic, or its VERSION was not raised with its behaviour.
    """
    data = manifest.to_json()
    if not objects.create(MANIFEST_NAME, data):
        found = objects.read(MANIFEST_NAME)
        if found != data:
            raise ManifestConflict(
                f"{objects.url}/{MANIFEST_NAME}: another {manifest.kind} stands there: {_difference(found, data)}; "
                "raise the step's VERSION, or delete the output if its files are known to be wrong"
            )
    return Manifest.from_json(data)


def read_manifest(objects: Objects) -> Manifest | None:
    """The manifest of an output, or None if the output doesn't exist.

    Raises:
        CorruptObject: the file is no manifest.
    """
    try:
        data = objects.read(MANIFEST_NAME)
    except ObjectNotFound:
        return None
    try:
        return Manifest.from_json(data)
    except ValueError as error:
        raise CorruptObject(f"{objects.url}/{MANIFEST_NAME}: {error}; delete the output and rerun its stage") from error


def verify_manifest(objects: Objects, num_threads: int = 8, on_file: Callable[[int], None] | None = None) -> Manifest:
    """Reads every file of an output and compares its size and SHA-256 with the manifest.

    Args:
        objects: prefix of the output.
        num_threads: files read at a time.
        on_file: told after each file how many are done.

    Raises:
        ObjectNotFound: there is no manifest.
        CorruptObject: a file is absent or differs; names the first such file by path.
    """
    manifest = read_manifest(objects)
    if manifest is None:
        raise ObjectNotFound(f"{objects.url}/{MANIFEST_NAME}: no such object; the output is absent or incomplete")

    def check(entry: FileEntry) -> None:
        try:
            data = objects.read(entry.path)
        except ObjectNotFound as error:
            raise CorruptObject(f"{objects.url}/{entry.path}: listed in the manifest but missing") from error
        if len(data) != entry.size_bytes or bytes_key(data) != entry.sha256:
            raise CorruptObject(
                f"{objects.url}/{entry.path}: expected {entry.size_bytes} bytes with SHA-256 {entry.sha256}, "
                f"found {len(data)} bytes with {bytes_key(data)}; delete the output and rerun its stage"
            )

    with ThreadPoolExecutor(num_threads) as pool:
        for done, _ in enumerate(pool.map(check, manifest.files), start=1):
            if on_file is not None:
                on_file(done)
    return manifest


def _by_path(files: Iterable[FileEntry]) -> list[FileEntry]:
    return sorted(files, key=lambda entry: entry.path)


def _file_entry(value: Mapping[str, object]) -> FileEntry:
    path, size_bytes, sha256, rows = value["path"], value["size_bytes"], value["sha256"], value["rows"]
    if not (isinstance(path, str) and isinstance(size_bytes, int) and isinstance(sha256, str)):
        raise TypeError("a file entry has a field of another type")
    if rows is not None and not isinstance(rows, int):
        raise TypeError("rows of a file entry is no integer")
    if not is_key(path):
        raise ValueError(f"not a manifest: expected files below it, got {path!r}")
    return FileEntry(path, size_bytes, sha256, rows)


def _difference(found: bytes, expected: bytes) -> str:
    """Names what two manifests disagree about, for an error message."""
    try:
        old, new = Manifest.from_json(found), Manifest.from_json(expected)
    except ValueError:
        return "it can't be read"
    names = [
        name
        for name in ("kind", "key", "schema_version", "recipe", "inputs", "facts")
        if getattr(old, name) != getattr(new, name)
    ]
    old_files = {entry.path: entry for entry in old.files}
    new_files = {entry.path: entry for entry in new.files}
    paths = [path for path in sorted(old_files | new_files) if old_files.get(path) != new_files.get(path)]
    if paths:
        names.append(f"files {', '.join(paths[:3])}{' …' if len(paths) > 3 else ''}")
    return f"{', '.join(names)} differ"
