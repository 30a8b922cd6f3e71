"""What only Ray can show of training: a driver that is told to end, and workers that are lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.train_runs import Run, metrics, states
from tests.local_cluster import descendants, process_title

# Stages before training come first, with three starts of the workers: two minutes on two cores.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_STEPS = 120


@pytest.fixture
def running() -> Iterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        run.close()


def test_told_to_end_and_then_bereft_of_a_worker(tmp_path: Path, running: list[Run]) -> None:
    """SIGTERM: a state behind the step of the moment, exit 143. Again: goes on there; a killed worker is replaced."""
    first = Run(tmp_path, [f"num_steps={NUM_STEPS}"])
    running.append(first)
    step = int(first.read_until(rf"^train +(\d+)/{NUM_STEPS} steps")[1])
    first.process.terminate()
    assert first.finish() == 128 + signal.SIGTERM, first.tail()
    (saved,) = states(tmp_path)
    assert step <= saved < NUM_STEPS

    second = Run(tmp_path, [f"num_steps={NUM_STEPS}", "checkpoint_every=2"])
    running.append(second)
    second.read_until(rf"training goes on from step {saved} of {NUM_STEPS}")
    deadline_s = time.monotonic() + 120
    while max(states(tmp_path)) < saved + 4:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    workers = [pid for pid in descendants(second.process.pid) if "RayTrainWorker" in process_title(pid)]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    again = saved
    while again == saved:  # both workers say where they go on
        again = int(second.read_until(r"training goes on from step (\d+) of")[1])
    assert saved + 4 <= again < NUM_STEPS
    assert second.finish() == 0, second.tail()
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert not [row for row in rows if row["skipped"]]
    assert not list(tmp_path.glob("train/*/state/*/*"))
