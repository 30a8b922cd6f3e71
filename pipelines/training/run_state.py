"""What a training run keeps to come back from any interruption: one folder per saved step."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from storage.errors import CorruptObject
from storage.keys import bytes_key
from storage.objects import Objects

__all__ = ["RunState", "load_newest", "save"]

_KEPT = 2
_DONE = "done.json"


@dataclass(frozen=True)
class RunState:
    """Everything that the rest of a run depends on, beside its recipe."""

    step: int
    """Optimiser steps that are done; also the position of the feed."""
    model: Mapping[str, torch.Tensor]
    optimizers: Mapping[str, Mapping[str, object]]
    """State of each optimiser by its name."""
    metrics: Sequence[Mapping[str, float]]
    """Rows of the metrics file so far."""


def save(objects: Objects, state: RunState) -> None:
    """Writes a state; it counts once its `done.json` exists, and older ones but one are deleted."""
    folder = f"step-{state.step:08d}"
    buffer = io.BytesIO()
    torch.save(
        {"model": dict(state.model), "optimizers": {name: dict(held) for name, held in state.optimizers.items()}},
        buffer,
    )
    payload = buffer.getvalue()
    metrics = "".join(json.dumps(dict(row)) + "\n" for row in state.metrics)
    objects.put(f"{folder}/state.pt", payload)
    objects.put(f"{folder}/metrics.jsonl", metrics.encode())
    objects.put(f"{folder}/{_DONE}", json.dumps({"step": state.step, "sha256": bytes_key(payload)}).encode())
    for old in _finished(objects)[:-_KEPT]:
        _delete(objects, old)


def load_newest(objects: Objects) -> RunState | None:
    """The newest complete state, None if there is none.

    Raises:
        CorruptObject: a complete state whose bytes differ from what was written.
    """
    finished = _finished(objects)
    if not finished:
        return None
    step = finished[-1]
    folder = f"step-{step:08d}"
    payload = objects.read(f"{folder}/state.pt")
    promised = json.loads(objects.read(f"{folder}/{_DONE}"))["sha256"]
    if bytes_key(payload) != promised:
        raise CorruptObject(
            f"{objects.url}/{folder}/state.pt: expected SHA-256 {promised}, got {bytes_key(payload)}; "
            "delete the folder to resume from the state before it"
        )
    content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    rows = [json.loads(line) for line in objects.read(f"{folder}/metrics.jsonl").decode().splitlines()]
    return RunState(step, content["model"], content["optimizers"], rows)


def clear(objects: Objects) -> None:
    """Deletes all states of a finished run."""
    for info in list(objects.list()):
        objects.delete(info.key)


def _finished(objects: Objects) -> list[int]:
    return sorted(
        int(info.key.split("/")[0].removeprefix("step-")) for info in objects.list() if info.key.endswith(f"/{_DONE}")
    )


def _delete(objects: Objects, step: int) -> None:
    folder = f"step-{step:08d}"
    objects.delete(f"{folder}/{_DONE}")
    for info in list(objects.list(folder)):
        objects.delete(info.key)
