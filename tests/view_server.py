"""`sailloft view` as a process of its own, which tests can kill and start again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["ViewServer"]

_ROOT = Path(__file__).resolve().parents[1]
_START_TIMEOUT_S = 60.0


class ViewServer:
    """The command, serving.

    Args:
        url: of what is shown.
        log: file for what the command prints.
        options: of the command line.
    """

    def __init__(self, url: str, log: Path, *options: str) -> None:
        self._log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs", "view", url, *options],
                cwd=_ROOT,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        try:
            self.address = self._wait_for_address()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def _wait_for_address(self) -> str:
        end = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < end:
            found = re.search(r"http://\S+", self._log.read_text())
            if found:
                return found[0]
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"no address: {self._log.read_text()}")

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.split(":")[2].partition("/")[0])

    def stop(self, how: signal.Signals) -> int:
        """Ends the process; its exit code."""
        self._process.send_signal(how)
        return self._process.wait(20)
