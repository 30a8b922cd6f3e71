"""Where a training run notes what isn't part of its output, and how that is read."""

from __future__ import annotations

import json

from storage.errors import ObjectNotFound
from storage.objects import Objects

__all__ = ["SPEED", "VALIDATION", "read_notes", "training_logs"]

SPEED, VALIDATION = "speed.jsonl", "validation.jsonl"


def training_logs(workspace: Objects, key: str) -> Objects:
    """Prefix of the notes of the run that makes the checkpoint of this key."""
    return workspace.child(f"logs/{key}")


def read_notes(logs: Objects, name: str) -> list[dict[str, float]]:
    """Rows of one kind of notes, `SPEED` or `VALIDATION`, each with its `step`; none if nothing was noted."""
    try:
        return [json.loads(line) for line in logs.read(name).decode().splitlines()]
    except ObjectNotFound:
        return []
