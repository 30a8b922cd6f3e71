"""TensorBoard's event files, through tensorboardX."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from pipelines.training.trackers.base import LocalCopy, TrackedRun

__all__ = ["TensorBoardTracker"]

_event: Any = event_pb2  # generated when it is imported, which hides its classes from the checker
_summary: Any = summary_pb2


class TensorBoardTracker:
    """One folder of event files per run and one file per start.

    The file of a start at step S begins with the mark that has TensorBoard forget what earlier ones hold
    behind S. Event files grow, which object stores don't know, so they lie on a local disk first.

    Events are written where they are logged: `SummaryWriter` hands them to a thread, which its `flush`
    doesn't wait for, so that a killed run could lack points that its checkpoint is behind.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._copy = LocalCopy(run.logs.child("tensorboard"))
        # Names have seconds in them, and a file of the same name would be overwritten.
        self._events = EventsWriter(str(self._copy.folder / "events"), f".{run.first_step}.{os.getpid()}")
        if run.first_step:
            self._write(run.first_step + 1, session_log=_event.SessionLog(status=_event.SessionLog.START))

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        points = [value for name, number in values.items() for value in summary.scalar(name, number).value]
        self._write(step, summary=_summary.Summary(value=points))

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        """See `Tracker`."""
        pixels = np.asarray(image.convert("RGB"))
        self._write(step, summary=summary.image(name, pixels, dataformats="HWC"))

    def flush(self) -> None:
        """See `Tracker`."""
        self._events.flush()
        self._copy.push()

    def close(self, *, finished: bool) -> None:
        """See `Tracker`."""
        self._events.close()
        self._copy.close()

    def _write(self, step: int, **content: object) -> None:
        self._events.write_event(_event.Event(step=step, wall_time=time.time(), **content))
