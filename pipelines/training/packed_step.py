"""A step's batches as two pieces of memory, to be sent between processes and to the device in one go.

A step has some hundred tensors; sent one by one, each would cost a file descriptor between processes and
a copy of its own to the device.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pipelines.training.feed import StepBatches

__all__ = ["PackedStep", "pack_step", "unpack_step"]

_ALIGNMENT = 64  # every tensor may be viewed in its own type, and read in whole cache lines


class PackedStep(NamedTuple):
    """Batches of a step. A pickle that lives as long as the step does: nothing durable is stored this way."""

    skeleton: bytes
    """Everything but the tensors, which it names by their places in `memory`."""
    memory: Tensor
    """uint8, what goes to the device."""
    host_skeleton: bytes
    """Pictures of `TrainingBatch.missing` for each micro-batch."""
    host_memory: Tensor
    """uint8, what stays on the host."""


class _Pickler(pickle.Pickler):
    """Leaves tensors out and notes them; one that occurs twice (a rotation) once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.places: dict[tuple[int, torch.dtype, torch.Size, tuple[int, ...]], int] = {}
        self.tensors: list[tuple[int, Tensor]] = []
        self.num_bytes = 0

    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, Tensor):
            return None
        key = (obj.data_ptr(), obj.dtype, obj.shape, obj.stride())
        if key not in self.places:
            self.places[key] = self.num_bytes
            self.tensors.append((self.num_bytes, obj))
            self.num_bytes += -(-obj.nbytes // _ALIGNMENT) * _ALIGNMENT
        return self.places[key], obj.nbytes, obj.dtype, tuple(obj.shape)


class _Unpickler(pickle.Unpickler):
    def __init__(self, skeleton: bytes, memory: Tensor) -> None:
        super().__init__(io.BytesIO(skeleton))
        self._memory = memory

    def persistent_load(self, pid: tuple[int, int, torch.dtype, tuple[int, ...]]) -> Tensor:
        offset, num_bytes, dtype, shape = pid
        return self._memory[offset : offset + num_bytes].view(dtype).view(shape)


def pack_step(step: StepBatches, *, shared: bool = False) -> PackedStep:
    """Packs a step.

    Args:
        step: on the CPU.
        shared: into memory that another process can map.
    """
    missing = [batch.missing for batch in step.micro_batches]
    bare = replace(step, micro_batches=tuple(replace(batch, missing={}) for batch in step.micro_batches))
    return PackedStep(*_packed(bare, shared=shared), *_packed(missing, shared=shared))


def unpack_step(packed: PackedStep, device: torch.device | None = None) -> StepBatches:
    """The step again; its tensors are views of one memory, which is copied to the device if one is given."""
    memory = packed.memory if device is None else packed.memory.to(device, non_blocking=True)
    bare = cast("StepBatches", _Unpickler(packed.skeleton, memory).load())
    missing = _Unpickler(packed.host_skeleton, packed.host_memory).load()
    batches = tuple(replace(batch, missing=own) for batch, own in zip(bare.micro_batches, missing, strict=True))
    return replace(bare, micro_batches=batches)


def _packed(content: object, *, shared: bool) -> tuple[bytes, Tensor]:
    sink = io.BytesIO()
    pickler = _Pickler(sink)
    pickler.dump(content)
    memory = torch.empty(pickler.num_bytes, dtype=torch.uint8)
    if shared:
        memory.share_memory_()
    for offset, tensor in pickler.tensors:
        memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return sink.getvalue(), memory
