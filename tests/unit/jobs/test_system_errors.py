"""Errors of the operating system in words: nobody sees a traceback for a full disk."""

from __future__ import annotations

import errno
import sys

import pytest

from jobs import cli, runner
from jobs.runner import RunResult
from jobs.system_errors import told_plainly


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free space there, or name"),
        (PermissionError(errno.EACCES, "Permission denied", "/w"), "/w: Permission denied; change the permissions, or"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "a: Too many open files; raise the limit of open files"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"), "f/x: Not a directory; a folder is expected"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "Address already in use; name another port, or end"),
        (OSError("odd"), "odd; see the log, with --debug"),
    ],
)
def test_they_come_with_a_remedy(
    error: OSError, text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> RunResult:
        raise error

    assert told_plainly(error).startswith(text)
    monkeypatch.setattr(runner, "run_recipe", fail)
    monkeypatch.setattr(sys, "argv", ["sailloft", "run", "smoke"])
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main() == 4
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {text}")
    assert err.count("\n") == 1
