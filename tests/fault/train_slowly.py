"""The command line with a training that can be watched: `python -m tests.fault.train_slowly train smoke ...`.

Workers note each step below `<workspace>/notes`, a folder for each start (see `tests.training_ranks.history`),
and take a second for it until a file `<workspace>/hurry` exists: what a cluster does takes its time too,
and the run shouldn't be over before.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
from torch import distributed

from pipelines.training import pipeline, worker
from pipelines.training.pipeline import _train_worker  # pyright: ignore[reportPrivateUsage]
from pipelines.training.worker import Job
from sailloft import main as command_line
from tests.training_ranks import NotingTrainer

_PAUSE_S = 1.0


class _SlowTrainer(NotingTrainer):
    hurry: Path

    def _begin(self, step: int) -> float:
        if not self.hurry.exists():
            time.sleep(_PAUSE_S)
        return super()._begin(step)


def train_worker(loop_config: Mapping[str, Any]) -> None:
    """A worker that notes its steps, slowly."""
    job: Job = loop_config["job"]
    workspace = Path(job.output).parents[1]
    context = ray.train.get_context()
    start = [f"start-{len(list(workspace.glob('notes/start-*'))):03d}"]
    if context.get_world_size() > 1:
        distributed.broadcast_object_list(start)
    folder = workspace / "notes" / start[0]
    folder.mkdir(parents=True, exist_ok=True)
    _SlowTrainer.hurry = workspace / "hurry"
    _SlowTrainer.notes = folder / f"rank-{context.get_world_rank()}.jsonl"
    worker.Trainer = _SlowTrainer  # pyright: ignore[reportPrivateImportUsage]
    _train_worker(loop_config)


def main() -> int:
    """The command line; gives its exit code."""
    pipeline._train_worker = train_worker  # pyright: ignore[reportPrivateUsage]
    return command_line()


if __name__ == "__main__":
    # By its name: workers import what they are sent, and no `__main__` of theirs has it.
    sys.exit(importlib.import_module("tests.fault.train_slowly").main())
