"""Where a training run notes what happened at its steps, beside its output and within it, and how that is read."""

from __future__ import annotations

import json
from typing import Any

from storage.errors import ObjectNotFound
from storage.objects import Objects

__all__ = ["METRICS", "SPEED", "VALIDATION", "read_metrics", "read_notes", "training_logs"]

SPEED, VALIDATION = "speed.jsonl", "validation.jsonl"
METRICS = "metrics.jsonl"
"""Key below the checkpoint: its losses are part of it."""


def training_logs(workspace: Objects, key: str) -> Objects:
    """Prefix of the notes of the run that makes the checkpoint of this key."""
    return workspace.child(f"logs/{key}")


def read_notes(logs: Objects, name: str) -> list[dict[str, float]]:
    """Rows of one kind of notes, `SPEED` or `VALIDATION`, each with its `step`; none if nothing was noted."""
    try:
        return [json.loads(line) for line in logs.read(name).decode().splitlines()]
    except ObjectNotFound:
        return []


def read_metrics(checkpoint: Objects) -> list[dict[str, Any]]:
    """Rows of a checkpoint's metrics, each with its `step` and a loss per term; raises ObjectNotFound."""
    return [json.loads(line) for line in checkpoint.read(METRICS).decode().splitlines()]
