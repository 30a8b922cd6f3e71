"""Training runs as processes of their own, to be told to end, or to have their workers and nodes killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Run", "metrics", "states", "wait_until"]

_REPOSITORY = Path(__file__).parents[2]


class Run:
    """`sailloft train smoke` as a process, with two workers and a row of metrics for each step.

    Args:
        workspace: of the run.
        overrides: settings below `training`.
        module: the program; the command line itself, or one that does more.
        environment: of the process; None: this one's.
    """

    def __init__(
        self,
        workspace: Path,
        overrides: Sequence[str] = (),
        module: str = "jobs",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        settings = ["log_every=1", "checkpoint_every=1000", "num_workers=2", "cpus_per_worker=1"]
        settings += ["micro_batch_rows=1", *overrides]  # so that each worker has something to do
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--verbose", "train", "smoke", f"workspace={workspace}"]
            + [f"training.{setting}" for setting in settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_REPOSITORY,
            env={**(environment or os.environ), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self._num_seen = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def read_until(self, pattern: str) -> re.Match[str]:
        """Waits for a line that fits, behind the one found last."""
        while True:
            ended = not self._reader.is_alive()
            while self._num_seen < len(self.lines):
                self._num_seen += 1
                found = re.search(pattern, self.lines[self._num_seen - 1])
                if found:
                    return found
            assert not ended, f"no line fits {pattern}:\n{self.tail()}"
            time.sleep(0.02)

    def finish(self) -> int:
        """Waits for its end; gives the exit code."""
        code = self.process.wait()
        self._reader.join()
        return code

    def tail(self) -> str:
        """Its last lines."""
        return "".join(self.lines[-60:])

    def close(self) -> None:
        """Ends it and whatever it has left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)
        self._reader.join(timeout=30)

    def _read(self) -> None:
        """Beside the test, which looks at files meanwhile: a full pipe would halt the run."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)


def states(workspace: Path) -> list[int]:
    """Steps of the complete states."""
    found = workspace.glob("train/*/state/step-*/manifest.json")
    return [int(manifest.parent.name.removeprefix("step-")) for manifest in found]


def metrics(workspace: Path) -> list[dict[str, float]]:
    """Rows of metrics of the only checkpoint."""
    (path,) = workspace.glob("train/*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_until(condition: Callable[[], bool], timeout_s: float = 180.0) -> None:
    """Returns as soon as something holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, condition
        time.sleep(0.1)
