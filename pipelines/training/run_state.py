"""What a training run keeps to come back from any interruption: one folder per saved step."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from storage.manifest import MANIFEST_NAME, FileEntry, Manifest, publish, verify_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["RunState", "clear", "load_newest", "save"]

_KEPT = 2
_STATE, _METRICS = "state.pt", "metrics.jsonl"


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
    """Writes a state; it counts once its manifest exists, and older ones but one are deleted."""
    folder = objects.child(_folder(state.step))
    buffer = io.BytesIO()
    torch.save(
        {"model": dict(state.model), "optimizers": {name: dict(held) for name, held in state.optimizers.items()}},
        buffer,
    )
    metrics = "".join(json.dumps(dict(row)) + "\n" for row in state.metrics)
    files = {_STATE: buffer.getvalue(), _METRICS: metrics.encode()}
    for name, data in files.items():
        folder.put(name, data)
    publish(
        folder,
        Manifest(
            kind="training_state",
            key=_folder(state.step),
            schema_version=SCHEMA_VERSION,
            recipe={},
            inputs={},
            files=tuple(FileEntry.of(name, data) for name, data in files.items()),
            facts={"step": state.step},
        ),
    )
    for old in _finished(objects)[:-_KEPT]:
        _delete(objects, old)


def load_newest(objects: Objects) -> RunState | None:
    """The newest complete state, None if there is none.

    Raises:
        CorruptObject: a complete state whose bytes differ from what was written; delete its folder to
            go on from the state before it.
    """
    finished = _finished(objects)
    if not finished:
        return None
    folder = objects.child(_folder(finished[-1]))
    verify_manifest(folder)
    content = torch.load(io.BytesIO(folder.read(_STATE)), map_location="cpu", weights_only=True)
    rows = [json.loads(line) for line in folder.read(_METRICS).decode().splitlines()]
    return RunState(finished[-1], content["model"], content["optimizers"], rows)


def clear(objects: Objects) -> None:
    """Deletes all states of a finished run."""
    for info in list(objects.list()):
        objects.delete(info.key)


def _folder(step: int) -> str:
    return f"step-{step:08d}"


def _finished(objects: Objects) -> list[int]:
    return sorted(
        int(info.key.split("/")[0].removeprefix("step-"))
        for info in objects.list()
        if info.key.endswith(f"/{MANIFEST_NAME}")
    )


def _delete(objects: Objects, step: int) -> None:
    objects.delete(f"{_folder(step)}/{MANIFEST_NAME}")
    for info in list(objects.list(_folder(step))):
        objects.delete(info.key)
