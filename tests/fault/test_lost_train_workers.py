"""What only Ray can show of training: a driver that is told to end, and workers that are lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fault.local_cluster import descendants, process_title

# Stages before training come first, with three starts of the workers: two minutes on two cores.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_STEPS = 120


class Run:
    """`sailloft train smoke` as a process, with two workers and a state behind every thousandth step."""

    def __init__(self, workspace: Path, *overrides: str) -> None:
        settings = [f"num_steps={NUM_STEPS}", "log_every=1", "checkpoint_every=1000", "num_workers=2"]
        settings += ["cpus_per_worker=1", *overrides]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs", "--verbose", "train", "smoke", f"workspace={workspace}"]
            + [f"training.{setting}" for setting in settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    def read_until(self, pattern: str) -> re.Match[str]:
        """Reads its output up to a line that fits."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(f"no line fits {pattern}:\n{''.join(self.lines[-30:])}")

    def finish(self) -> int:
        """Reads the rest; gives the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """Ends it and whatever it has left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def states(workspace: Path) -> list[int]:
    """Steps of the complete states."""
    found = workspace.glob("train/*/state/step-*/manifest.json")
    return [int(manifest.parent.name.removeprefix("step-")) for manifest in found]


@pytest.fixture
def running() -> Iterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        run.close()


def test_told_to_end_and_then_bereft_of_a_worker(tmp_path: Path, running: list[Run]) -> None:
    """SIGTERM: a state behind the step of the moment, exit 143. Again: goes on there; a killed worker is replaced."""
    first = Run(tmp_path)
    running.append(first)
    step = int(first.read_until(rf"^train +(\d+)/{NUM_STEPS} steps")[1])
    first.process.terminate()
    assert first.finish() == 128 + signal.SIGTERM, "".join(first.lines[-30:])
    (saved,) = states(tmp_path)
    assert step <= saved < NUM_STEPS

    second = Run(tmp_path, "checkpoint_every=2")
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
    assert second.finish() == 0, "".join(second.lines[-30:])
    (metrics,) = tmp_path.glob("train/*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert not [row for row in rows if row["skipped"]]
    assert not list(tmp_path.glob("train/*/state/*/*"))
