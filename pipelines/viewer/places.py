"""What lies at an address: an output of some kind, a feature store, a workspace."""

from __future__ import annotations

from pipelines.lineage.outputs import STAGE_FOLDERS
from storage.errors import ObjectNotFound
from storage.feature_index import read_snapshot
from storage.manifest import MANIFEST_NAME, read_manifest
from storage.objects import Objects
from storage.run_records import RUNS

__all__ = ["CHECKPOINT", "FEATURES", "WORKSPACE", "above", "kind_at", "store_at"]

CHECKPOINT, FEATURES, WORKSPACE = "checkpoint", "features", "workspace"

_CONFIG_FILE = "config.json"
"""As `model.checkpoint` names it, which takes seconds to import; converted checkpoints have no manifest beside it."""


def kind_at(objects: Objects) -> str:
    """The kind in an output's manifest; of what has none one of `CHECKPOINT`, `FEATURES` and `WORKSPACE`.

    Raises:
        ObjectNotFound: nothing of this is there.
        CorruptObject: it is damaged.
    """
    manifest = read_manifest(objects)
    if manifest is not None:
        return manifest.kind
    if objects.exists(_CONFIG_FILE):
        return CHECKPOINT
    if read_snapshot(objects) is not None:
        return FEATURES
    if objects.can_list and not {*STAGE_FOLDERS, RUNS}.isdisjoint(objects.folders()):
        return WORKSPACE
    raise ObjectNotFound(
        f"{objects.url}/{MANIFEST_NAME}: no such object; expected the address of an output, as the command that "
        "made it printed, or a workspace"
    )


def store_at(objects: Objects) -> Objects:
    """The feature store at an address, or the one that a part or a statement about a corpus is of."""
    return above(objects, 2) if objects.exists(MANIFEST_NAME) else objects


def above(objects: Objects, num_folders: int) -> Objects:
    """The prefix so many folders up."""
    return Objects.open(objects.url.rstrip("/").rsplit("/", num_folders)[0])
