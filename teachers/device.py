"""What of a teacher is chosen by the device it runs on: arithmetic, compilation, batch size.

The choice needs only the kind of device, never the device itself: the process that plans the work
and names its results by fingerprints has no accelerator.
"""

from __future__ import annotations

import torch

from teachers.base import BaseTeacherConfig, DType

__all__ = ["default_batch_size", "on_device", "real_dtype", "wants_compilation"]

_PIXELS_PER_BATCH = {"cpu": 2**20, "cuda": 2**24}
_LARGEST_BATCH = 64
_TYPICAL_SIZE_PX = (480, 640)
"""(height, width) of the commonest photograph of COCO."""


def real_dtype(config: BaseTeacherConfig, device: str) -> DType:
    """The arithmetic on a device: `auto` is bfloat16 on CUDA and float32 elsewhere.

    Args:
        config: of the teacher.
        device: torch device or its kind, such as `cuda:1` or `cuda`.
    """
    if config.dtype != "auto":
        return config.dtype
    # bfloat16 is slower than float32 on CPUs without instructions for it.
    return "bfloat16" if torch.device(device).type == "cuda" else "float32"


def on_device(config: BaseTeacherConfig, device: str) -> BaseTeacherConfig:
    """The configuration with the dtype that it has on a device; unchanged where it names one."""
    return config if config.dtype != "auto" else config.model_copy(update={"dtype": real_dtype(config, device)})


def wants_compilation(config: BaseTeacherConfig, device: str) -> bool:
    """Whether the network is compiled on a device: `auto` is yes on CUDA."""
    return torch.device(device).type == "cuda" if config.compile == "auto" else config.compile


def default_batch_size(config: BaseTeacherConfig, device: str) -> int:
    """Images per forward pass that suit a kind of device: a power of two from 1 to 64.

    A fixed number of pixels: 2^20 on a CPU, where larger batches are no faster once an image fills the cores, and
    2^24 on CUDA (16 images of 1024 x 1024). Since the batch decides the last bits of the features, the number
    depends on nothing that differs among devices of one kind, such as free memory.

    Args:
        config: of the teacher; its input for a photograph of 640 x 480 px counts.
        device: torch device or its kind, such as `cuda:1` or `cuda`.

    >>> from teachers.sam2 import Sam2TeacherConfig
    >>> default_batch_size(Sam2TeacherConfig(), "cpu"), default_batch_size(Sam2TeacherConfig(), "cuda")
    (1, 16)
    """
    height, width = config.input_size(*_TYPICAL_SIZE_PX)
    budget = _PIXELS_PER_BATCH.get(torch.device(device).type, _PIXELS_PER_BATCH["cpu"])
    fitting = min(max(budget // (height * width), 1), _LARGEST_BATCH)
    return 2 ** (fitting.bit_length() - 1)
