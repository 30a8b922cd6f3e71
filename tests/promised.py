"""What outputs promise, less the times that are in them: to compare one run with another."""

from __future__ import annotations

import json

from storage.manifest import MANIFEST_NAME, verify_manifest
from storage.objects import Objects

__all__ = ["promised", "promised_by"]

_WITH_TIMES = "report"
"""Kind of outputs whose files hold times."""


def promised_by(output: Objects) -> dict[str, object]:
    """Key of an output and hashes of its files, each read and verified; of a report the key alone.

    A checkpoint's rows of metrics come without what they measured.
    """
    manifest = verify_manifest(output)
    found: dict[str, object] = {"key": manifest.key}
    if manifest.kind != _WITH_TIMES:
        found |= {entry.path: entry.sha256 for entry in manifest.files}
    if manifest.kind == "checkpoint":
        found["metrics.jsonl"] = _without_times(output.read("metrics.jsonl"))
    return found


def promised(workspace: Objects) -> dict[str, dict[str, object]]:
    """The same of all outputs of a workspace, by their folders."""
    folders = [info.key.rpartition("/") for info in workspace.list()]
    return {folder: promised_by(workspace.child(folder)) for folder, _, name in folders if name == MANIFEST_NAME}


def _without_times(lines: bytes) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in lines.splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("_s")} for row in rows]
