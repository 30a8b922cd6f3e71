"""A run of Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, cast

# Crashes of the package would be reported; no network that nobody asked for.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb
from PIL import Image

from pipelines.training.trackers.base import LocalCopy, TrackedRun

__all__ = ["WandbTracker"]


class WandbTracker:
    """Curves, pictures and settings of one run.

    Offline, each start writes a folder of its own below `logs/<key>/wandb/`; `wandb sync` joins them, since
    they bear the same run id. Weights & Biases takes points in ascending order alone and so drops those that a
    resumed run repeats.
    """

    def __init__(self, run: TrackedRun, project: str) -> None:
        self._copy = LocalCopy(run.logs)
        self._run = wandb.init(
            project=project,
            id=run.key,
            name=run.key[:16],
            resume="allow",
            mode=cast("Literal['online', 'offline', 'disabled', 'shared']", os.environ.get("WANDB_MODE", "offline")),
            dir=str(self._copy.folder),
            config=dict(run.recipe),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        """See `Tracker`."""
        self._run.log({name: wandb.Image(image)}, step=step)

    def flush(self) -> None:
        """See `Tracker`."""
        self._copy.push()

    def close(self, *, finished: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=0 if finished else 1)
        self._copy.close()
