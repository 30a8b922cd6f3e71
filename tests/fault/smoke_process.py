"""The smoke recipe as a process of its own, with a row of metrics for each of its steps, to be interfered with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["SmokeProcess"]

_REPOSITORY = Path(__file__).parents[2]
_OVERRIDES = ("training.num_steps=60", "training.log_every=1", "training.checkpoint_every=5")


class SmokeProcess:
    """`sailloft run smoke`, within a `with` block that leaves nothing of it behind.

    Args:
        workspace: of the run.
        environment: variables beside this process' own.
    """

    def __init__(self, workspace: str | Path, environment: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        """What it has said."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs", "--verbose", "run", "smoke", f"workspace={workspace}", *_OVERRIDES],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})},
            start_new_session=True,
        )

    def __enter__(self) -> SmokeProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def read_until(self, pattern: str) -> None:
        """Reads on to the first line that fits."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if re.search(pattern, line):
                return
        raise AssertionError(f"the run was over before it said {pattern!r}:\n{self.tail()}")

    def finish(self) -> int:
        """Waits for its end; gives the exit code."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait(timeout=60)

    def tail(self) -> str:
        """What it said last."""
        return "".join(self.lines[-30:])
