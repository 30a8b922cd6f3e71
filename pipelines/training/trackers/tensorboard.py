"""TensorBoard's event files, written by tensorboardX."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from pipelines.training.trackers.base import LocalCopy, TrackedRun

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """One folder of event files per run and one file per start.

    The file of a start at step S begins with the mark that has TensorBoard forget what earlier ones hold
    behind S. Event files grow, which object stores don't know, so they lie on a local disk first.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._copy = LocalCopy(run.logs.child("tensorboard"))
        self._writer = SummaryWriter(
            str(self._copy.folder),
            purge_step=run.first_step + 1 if run.first_step else None,
            # Names have seconds in them, and a file of the same name would be overwritten.
            filename_suffix=f".{run.first_step}.{os.getpid()}",
        )

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        """See `Tracker`."""
        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        """See `Tracker`."""
        self._writer.flush()
        self._copy.push()

    def close(self, *, finished: bool) -> None:
        """See `Tracker`."""
        self._writer.close()
        self._copy.close()
