"""The command line in the process of a test, as people see it without colours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jobs import cli

__all__ = ["CommandLine"]


class CommandLine:
    """Runs `sailloft`; each call gives exit code, standard output and standard error, which never hold a traceback.

    Args:
        monkeypatch: of the test.
        capture: of the test, such as `capfd`.
        command: what stands before the arguments of each call.
        columns: width of the terminal.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capture: pytest.CaptureFixture[str],
        *command: str,
        columns: int = 120,
    ) -> None:
        self._monkeypatch, self._capture, self._command = monkeypatch, capture, command
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Runs it with these arguments."""
        self._monkeypatch.setattr(sys, "argv", ["sailloft", *self._command, *map(str, arguments)])
        code = cli.main()
        out, err = self._capture.readouterr()
        assert "Traceback" not in out + err
        return code, out, err
