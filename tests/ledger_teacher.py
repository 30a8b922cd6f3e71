"""A teacher for tests and benchmarks: takes a stated time per forward pass, and keeps a ledger of what it computed."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from storage.keys import content_key
from teachers.base import BaseTeacherConfig, StudentSource
from teachers.registry import TeacherCard

__all__ = ["LedgerTeacher", "LedgerTeacherConfig", "computations", "ledger_card", "ledger_times", "picture_key"]

_CELL_PX = 4


class LedgerTeacherConfig(BaseTeacherConfig, frozen=True):
    """Features are local means of the picture under a fixed mixture of channels."""

    kind: Literal["ledger"] = "ledger"
    dtype: Literal["float32"] = "float32"
    num_channels: int = 8
    grid: tuple[int, int] | None = None
    """(rows, columns) of every image; null: one cell per 4 px."""
    service_s: float = Field(default=0.0, json_schema_extra={"hashed": False})
    """What a forward pass takes, whatever its batch; it waits, as a process does whose accelerator computes."""
    ledger: str | None = Field(default=None, json_schema_extra={"hashed": False})
    """Folder to which every process adds a file with a line for each image that it computed."""
    student_source: ClassVar[StudentSource] = "patches"

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(height, width) in px: whole cells."""
        return -(-height_px // _CELL_PX) * _CELL_PX, -(-width_px // _CELL_PX) * _CELL_PX

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(rows, columns) of the features."""
        return self.grid or (-(-height_px // _CELL_PX), -(-width_px // _CELL_PX))

    def preprocess(self, image: Image.Image) -> Tensor:
        """[3, height, width] from 0 to 1."""
        height, width = self.input_size(image.height, image.width)
        pixels = torch.frombuffer(bytearray(image.resize((width, height)).tobytes()), dtype=torch.uint8)
        return pixels.reshape(height, width, 3).permute(2, 0, 1).float() / 255

    def build(self, device: str = "cpu") -> LedgerTeacher:
        """The teacher."""
        return LedgerTeacher(self)


class LedgerTeacher:
    """See `LedgerTeacherConfig`."""

    def __init__(self, config: LedgerTeacherConfig) -> None:
        self._config = config
        generator = torch.Generator().manual_seed(0)
        self._mixture = torch.randn(config.num_channels, 3, 1, 1, generator=generator)
        self.fingerprint = content_key({"kind": "ledger", **{"num_channels": config.num_channels}})
        self.num_channels = config.num_channels
        self.input_size, self.output_grid, self.preprocess = config.input_size, config.output_grid, config.preprocess

    def forward(self, batch: Tensor) -> Tensor:
        """Features [batch, channels, rows, columns] after the service time."""
        start_s, now_s = time.monotonic(), time.time()
        self._note(batch, now_s)
        rows, columns = self._config.output_grid(*batch.shape[-2:])
        with torch.inference_mode():
            means = functional.adaptive_avg_pool2d(batch, (rows, columns))
            features = functional.conv2d(means, self._mixture)
        time.sleep(max(0.0, self._config.service_s - (time.monotonic() - start_s)))
        return features

    def _note(self, batch: Tensor, now_s: float) -> None:
        if self._config.ledger is None:
            return
        path = Path(self._config.ledger) / f"{os.getpid()}.txt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".start").write_text(str(now_s))
        lines = "".join(f"{picture_key(image)} {now_s}\n" for image in batch)
        with path.open("a") as file:
            file.write(lines)


def ledger_card(config: LedgerTeacherConfig) -> TeacherCard:
    """What `teachers.registry.teacher_card` would say, had this teacher a place in the registry."""
    return TeacherCard(config.build().fingerprint, config.num_channels)


def picture_key(inputs: Tensor) -> str:
    """Names a picture in the ledger, by what the teacher sees of it."""
    return hashlib.sha256(inputs.numpy().tobytes()).hexdigest()


def ledger_times(folder: Path) -> dict[str, list[float]]:
    """When each picture was computed, in seconds since the epoch."""
    times: dict[str, list[float]] = {}
    for path in folder.glob("*.txt"):
        # A process that is killed may leave half a line.
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                key, _, time_s = line.partition(" ")
                times.setdefault(key, []).append(float(time_s))
    return times


def computations(folder: Path) -> Counter[str]:
    """How often each picture was computed."""
    return Counter({key: len(times) for key, times in ledger_times(folder).items()})
