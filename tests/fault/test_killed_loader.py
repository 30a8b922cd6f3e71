"""Processes that make batches end with the trainer, whenever it is killed, and leave no shared memory."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.config import LoaderConfig
from pipelines.training.feed import StepBatches
from pipelines.training.loader import iterate
from tests.fault.train_runs import wait_until
from tests.local_cluster import descendants, process_title

SHARED = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="looks into Linux' folder of shared memory")


class EmptyFeed:
    """Steps without batches."""

    def step_batches(self, step: int) -> StepBatches:
        return StepBatches(step, (), (), (), (), 0, {})


def train_for_ever() -> None:
    """A trainer that takes a step and then is busy."""
    feed_factory: Any = EmptyFeed
    batches = iterate(feed_factory, LoaderConfig(kind="processes", prefetch_steps=4), 0, 10_000)
    next(batches)
    time.sleep(600)


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists()


@pytest.mark.parametrize("has_begun", [False, True], ids=["while it begins", "later"])
def test_a_killed_trainer(has_begun: bool) -> None:
    trainer = multiprocessing.get_context("spawn").Process(target=train_for_ever)
    trainer.start()
    assert trainer.pid is not None
    pid = trainer.pid

    def loaders() -> list[int]:
        return [child for child in descendants(pid) if "spawn_main" in process_title(child)]

    try:
        wait_until(lambda: bool(loaders()), 120)
        (loader,) = loaders()
        if has_begun:
            wait_until(lambda: any(SHARED.glob(f"torch_{loader}_*")), 120)
    finally:
        trainer.kill()
        trainer.join()
    # One that is still importing looks for its parent when it is done with that.
    wait_until(lambda: not is_running(loader), 120)
    wait_until(lambda: not any(SHARED.glob(f"torch_{loader}_*")), 20)
