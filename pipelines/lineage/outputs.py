"""What a workspace holds: its outputs by their keys, as manifests and notes tell of them.

Nothing is listed but the first level of each stage's folder and of `runs/`, and of each feature store its index and the
first level of `corpora/`. That takes a listing for each of these (of more than a thousand names, for each thousand);
two requests per output, for its manifest or what stays of it, and for its note (three if it has no manifest); per
feature store one, and one per live part; one per folder below `runs/`, for its record; per registry of students two
listings and two requests, and one per version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar, cast

from storage.errors import ObjectNotFound, SailloftError
from storage.feature_index import part_objects, read_snapshot
from storage.keys import Json
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects
from storage.registry import REGISTRIES, Registry
from storage.retirement import read_retirement
from storage.stage_notes import STAGE_NOTES, StageNote, read_note

__all__ = ["STAGE_FOLDERS", "Kind", "Output", "Presence", "WorkspaceOutputs", "read_outputs"]

_NUM_READERS = 16
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Kind(StrEnum):
    """What an output is, in the words that people read."""

    SCENES = "scenes"
    CORPUS = "corpus"
    CALIBRATION = "calibration"
    STORE = "feature store"
    PART = "feature part"
    FEATURES = "features"
    """What `teach` states: a store holds all that a corpus needs."""
    CHECKPOINT = "checkpoint"
    SCORES = "scores"
    REPORT = "report"
    BENCHMARK = "benchmark"


STAGE_FOLDERS: Mapping[str, Kind] = {
    "scenes": Kind.SCENES,
    "curate": Kind.CORPUS,
    "calibrate": Kind.CALIBRATION,
    "features": Kind.STORE,
    "train": Kind.CHECKPOINT,
    "evaluate": Kind.SCORES,
    "report": Kind.REPORT,
    "benchmarks": Kind.BENCHMARK,
}
"""Folders of a workspace, and what lies in them."""


class Presence(StrEnum):
    """Whether an output is there."""

    PRESENT = "present"
    RETIRED = "retired"
    """Another one took its place."""
    UNFINISHED = "unfinished"
    """It has no manifest."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output, less its files."""

    kind: Kind
    key: str
    path: str
    """Below the workspace; a URL if it lies elsewhere."""
    presence: Presence = Presence.PRESENT
    recipe: Mapping[str, Json] = field(default_factory=dict[str, Json])
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of its manifest: keys by name. A store has those of its live parts."""
    facts: Mapping[str, Json] = field(default_factory=dict[str, Json])
    successor: str | None = None
    """Key of what took the place of a retired one."""
    note: StageNote | None = None
    """How it was made, if that was noted."""
    base: str | None = None
    """Key of the checkpoint that a checkpoint began from, or its URL where nothing is known of it."""
    is_elsewhere: bool = False
    """Whether it lies in another place than the workspace."""

    @property
    def parents(self) -> Sequence[str]:
        """Keys of the corpora that a corpus goes on from, the nearest first."""
        return cast("Sequence[str]", self.facts.get("parents", ()))


@dataclass(frozen=True, slots=True)
class WorkspaceOutputs:
    """The outputs of a workspace."""

    workspace: Objects
    by_key: Mapping[str, Output]
    runs: Mapping[str, Sequence[str]]
    """Paths of the records of runs that made or found an output, by its key."""
    registered: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """As what registries of students know a checkpoint, by its key."""

    def of_kind(self, kind: Kind) -> list[Output]:
        """Outputs of one kind, by key."""
        return [output for _, output in sorted(self.by_key.items()) if output.kind is kind]

    def objects(self, output: Output) -> Objects:
        """Prefix of an output."""
        return Objects.open(output.path) if output.is_elsewhere else self.workspace.child(output.path)


def read_outputs(workspace: Objects) -> WorkspaceOutputs:
    """Reads the manifests and notes of a workspace.

    Args:
        workspace: its prefix.

    Raises:
        CorruptObject: a manifest can't be read.
        InfrastructureError: the store can't be reached.
    """
    notes = workspace.child(STAGE_NOTES)
    places = [(folder, key) for folder in STAGE_FOLDERS for key in workspace.folders(folder)]

    def read(place: tuple[str, str]) -> list[Output]:
        folder, key = place
        path = f"{folder}/{key}"
        if STAGE_FOLDERS[folder] is Kind.STORE:
            return _read_store(workspace, key, path, notes)
        return [_read_output(workspace.child(path), STAGE_FOLDERS[folder], key, path, read_note(notes, key))]

    found = [output for outputs in _parallel(read, places) for output in outputs]
    by_key = {output.key: output for output in found}
    for output in found:
        _find_bases(by_key, output)
    return WorkspaceOutputs(workspace, by_key, _read_runs(workspace), _read_registries(workspace))


def _read_output(objects: Objects, kind: Kind, key: str, path: str, note: StageNote | None) -> Output:
    manifest = read_manifest(objects)
    if manifest is not None:
        return _output_of(manifest, kind, path, note)
    retired = read_retirement(objects) if kind is Kind.CORPUS else None
    if retired is None:
        return Output(kind, key, path, Presence.UNFINISHED, note=note)
    facts: dict[str, Json] = {"parents": list(retired.parents)}
    return Output(kind, key, path, Presence.RETIRED, retired.recipe, retired.inputs, facts, retired.successor, note)


def _output_of(manifest: Manifest, kind: Kind, path: str, note: StageNote | None = None) -> Output:
    return Output(
        kind, manifest.key, path, recipe=manifest.recipe, inputs=manifest.inputs, facts=manifest.facts, note=note
    )


def _read_store(workspace: Objects, key: str, path: str, notes: Objects) -> list[Output]:
    """A store, its live parts, and what it states of corpora."""
    store = workspace.child(path)
    snapshot = read_snapshot(store)
    parts = [] if snapshot is None else [entry.part for entry in snapshot.parts]
    found: list[Output] = []
    for part in parts:
        manifest = read_manifest(part_objects(store, part))
        if manifest is not None:
            found.append(_output_of(manifest, Kind.PART, f"{path}/parts/{part}"))
    for coverage in store.folders("corpora"):
        below = f"corpora/{coverage}"
        note = read_note(notes, coverage)
        found.append(_read_output(store.child(below), Kind.FEATURES, coverage, f"{path}/{below}", note))
    inputs = {f"part {number}": part for number, part in enumerate(parts)}
    facts: dict[str, Json] = {} if snapshot is None else {**snapshot.description.to_json(), "snapshot": snapshot.number}
    presence = Presence.UNFINISHED if snapshot is None else Presence.PRESENT
    return [Output(Kind.STORE, key, path, presence, inputs=inputs, facts=facts), *found]


def _find_bases(by_key: dict[str, Output], output: Output) -> None:
    """Says which checkpoint one began from, and that one too; adds those of other places, if they can be read."""
    while (url := _init(output)) is not None:
        base = by_key.get(url.rstrip("/").rpartition("/")[2]) or _elsewhere(url)
        by_key[output.key] = replace(output, base=url if base is None else base.key)
        if base is None or base.key in by_key:
            return
        output = by_key[base.key] = base


def _init(output: Output) -> str | None:
    training = cast("Mapping[str, Json]", output.recipe.get("training", {}))
    return cast("str | None", training.get("init")) if output.kind is Kind.CHECKPOINT else None


def _elsewhere(url: str) -> Output | None:
    try:
        objects = Objects.open(url)
        manifest = read_manifest(objects)
    except SailloftError:
        return None  # without the rights to read it, its URL is all that can be told
    return None if manifest is None else replace(_output_of(manifest, Kind.CHECKPOINT, objects.url), is_elsewhere=True)


def _read_runs(workspace: Objects) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}

    def read(folder: str) -> tuple[str, list[str]]:
        path = f"runs/{folder}/record.json"
        try:
            record = cast("dict[str, Any]", json.loads(workspace.read(path)))
        except (ObjectNotFound, ValueError):
            return path, []
        return path, [stage["key"] for stage in record.get("stages", ())]

    for path, keys in _parallel(read, workspace.folders("runs")):
        for key in keys:
            found.setdefault(key, []).append(path)
    return found


def _read_registries(workspace: Objects) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in workspace.folders(REGISTRIES):
        registry = Registry(workspace.child(f"{REGISTRIES}/{name}"))
        state = registry.state()
        for version in [] if state is None else registry.versions():
            aliases = [] if state is None else [key for key, item in state.aliases.items() if item == version.number]
            said = ", ".join([f"version {version.number} of {name}", *aliases])
            found.setdefault(version.checkpoint.key, []).append(said)
    return found


def _parallel(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        return list(pool.map(function, items))
