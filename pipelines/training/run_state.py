"""What a training run keeps to come back from any interruption: one folder per saved step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from pipelines.training.ema import MovingAverage
from pipelines.training.state_storage import StateReader, StateWriter
from storage.errors import CorruptObject, InfrastructureError, SailloftError
from storage.keys import Json
from storage.manifest import MANIFEST_NAME, delete_outputs, read_manifest
from storage.objects import Objects

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["SavedParts", "States", "clear"]

# What torch says of every state of a run of one process.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)

_COLLECTIVE_TIMEOUT = timedelta(hours=1)
"""Of the ranks that wait for each other in a save: as long as the slowest takes to write its part."""


@dataclass(frozen=True)
class SavedParts:
    """What of a run consists of tensors, whole or sharded."""

    model: nn.Module
    optimizers: Mapping[str, torch.optim.Optimizer]
    average: MovingAverage | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All of them, by names that don't depend on how the run is divided among ranks."""
        found = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average/{name}": tensor for name, tensor in self.average.weights.items()}
        for prefix, optimizer, parameter in self._places():
            held = cast("dict[str, Tensor]", optimizer.state.get(parameter, {}))
            found |= {f"{prefix}{key}": value for key, value in held.items()}
        return found

    def room_for(self, saved: Mapping[str, TensorStorageMetadata]) -> dict[str, Tensor]:
        """As `tensors`, for a state to be read into; optimisers get room for what the state holds of them.

        (torch's own `set_optimizer_state_dict` makes a state for each parameter first, also for those
        that have had no gradient yet and must go on without.)
        """
        for prefix, optimizer, parameter in self._places():
            keys = [name for name in saved if name.startswith(prefix)]
            if not keys:
                continue
            optimizer.state[parameter] = {
                name.removeprefix(prefix): torch.zeros_like(parameter, requires_grad=False)
                if saved[name].size == parameter.shape
                else torch.zeros(saved[name].size, dtype=saved[name].properties.dtype)
                for name in keys
            }
        return self.tensors()

    def _places(self) -> list[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [
            (f"optimizer/{kind}/{names[parameter]}/", optimizer, parameter)
            for kind, optimizer in self.optimizers.items()
            for group in optimizer.param_groups
            for parameter in cast("list[nn.Parameter]", group["params"])
        ]


class States:
    """Saves and finds the states of a run; every rank has one, and all of them call the same.

    Args:
        folder: `<output>/state`.
        kept: newest complete states that stay.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, folder: Objects, kept: int = 2, rank: int = 0, world_size: int = 1) -> None:
        self._folder, self._kept, self._rank, self._world_size = folder, kept, rank, world_size
        self._pending: Future[Any] | None = None
        # Ranks write while they train: what they tell each other about it must not meet the gradients.
        self._group: ProcessGroup | None = None
        if world_size > 1:
            self._group = cast("ProcessGroup", distributed.new_group(backend="gloo", timeout=_COLLECTIVE_TIMEOUT))

    def save(self, step: int, parts: SavedParts, progress: Mapping[str, Json]) -> None:
        """Copies the state and writes it in the background; waits first for the one before.

        Args:
            step: optimiser steps that are done; also the position of the feed.
            parts: the tensors.
            progress: everything else that the rest of the run depends on.

        Raises:
            SailloftError: the state before could not be written.
        """
        self.wait()
        writer = StateWriter(self._folder.child(_name(step)), step, {**progress, "step": step}, self._tidy)
        self._pending = cast(
            "Future[Any]",
            async_save(
                dict(parts.tensors()),
                storage_writer=writer,
                planner=DefaultSavePlanner(flatten_state_dict=False),
                process_group=self._group,
                no_dist=self._group is None,
            ),
        )

    def wait(self) -> None:
        """Returns once the last save is complete; raises as `save`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._told(pending.result)

    def load(self, parts: SavedParts) -> dict[str, Json] | None:
        """Reads the newest complete state in place and tidies up what killed runs have left.

        Returns:
            The progress it was saved with, with its `step`; None: there is no state.

        Raises:
            CorruptObject: bytes differ from what was written; delete the state's folder to go on from
                the one before it.
        """
        newest = [max(_complete(self._folder), default=None) if self._rank == 0 else None]
        if self._group is not None:
            distributed.broadcast_object_list(newest, src=0, group=self._group)
        step = newest[0]
        if self._rank == 0:
            self._tidy()
        if step is None:
            return None
        folder = self._folder.child(_name(step))
        manifest = read_manifest(folder)
        if manifest is None or "attempt" not in manifest.facts:
            raise CorruptObject(
                f"{folder.url}: expected a state of this version, found none; delete the folder to start over"
            )
        reader = StateReader(folder, manifest)
        saved = reader.read_metadata().state_dict_metadata
        tensors = parts.room_for(cast("dict[str, TensorStorageMetadata]", saved))
        if tensors.keys() != saved.keys():
            differ = ", ".join(sorted(tensors.keys() ^ saved.keys())[:5])
            raise CorruptObject(f"{folder.url}: expected the tensors of this run, these differ: {differ}; delete it")
        self._told(
            lambda: load(
                dict(tensors),
                storage_reader=reader,
                planner=DefaultLoadPlanner(flatten_state_dict=False),
                process_group=self._group,
                no_dist=self._group is None,
            )
        )
        return reader.progress()

    def _told(self, action: Callable[[], object]) -> None:
        """Runs something of torch's; our own error comes out of what torch wraps around it."""
        try:
            action()
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            for cause in causes:
                if isinstance(cause, SailloftError):
                    raise cause from error
            raise InfrastructureError(f"{self._folder.url}: a state failed: {causes[0]!r}; run again") from error

    def _tidy(self) -> None:
        """Deletes all but the newest complete states, their manifests first, and what killed saves have left."""
        keys = [info.key for info in self._folder.list()]
        kept = set(sorted(_steps(keys))[-self._kept :])
        delete_outputs(self._folder, [key for key in keys if _step(key) not in kept])


def clear(folder: Objects) -> None:
    """Deletes all states of a finished run."""
    folder.delete_many([info.key for info in folder.list()])


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(key: str) -> int:
    return int(key.split("/")[0].removeprefix("step-"))


def _complete(folder: Objects) -> list[int]:
    return _steps([info.key for info in folder.list()])


def _steps(keys: Iterable[str]) -> list[int]:
    """Steps of the states that are complete, by the keys of all."""
    return [_step(key) for key in keys if key.endswith(f"/{MANIFEST_NAME}")]
