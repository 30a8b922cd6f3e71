"""Lines of the log: for people and for programs, in the file or on standard error, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.display import LogDisplay, open_display
from jobs.logs import LogFormat, LogSettings, adopt_loggers, plain, set_up_logging
from pipelines.observer import NullObserver, Observing
from storage.errors import UsageError

SECRET = "a-secret-of-mine"


class Watching(NullObserver):
    """An observer of a run and a stage, as far as logs know it."""

    @property
    def labels(self) -> dict[str, str]:
        return {"run": "demo-1", "stage": "teach sam2"}


@pytest.fixture(autouse=True)
def logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    yield
    set_up_logging(LogSettings())


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    set_up_logging(LogSettings(LogFormat.JSON, logging.INFO), stream=stream)
    with Observing(Watching()):
        logging.getLogger("jobs.flow").info(
            "%s of\ntwo lines", "text", extra={"fields": {"rows": 3, "loss": float("nan"), "at": Path("x")}}
        )
    (line,) = lines(stream)
    assert str(line.pop("time")).endswith("+00:00")
    assert line.pop("process") == {"pid": os.getpid(), "node": os.uname().nodename, "role": "driver"}
    assert line == {
        "level": "info",
        "logger": "jobs.flow",
        "run": "demo-1",
        "stage": "teach sam2",
        "message": "text of\ntwo lines",
        "fields": {"rows": 3, "loss": "nan", "at": "x"},
    }


def test_an_error_brings_its_class_and_traceback_without_secrets() -> None:
    stream = io.StringIO()
    set_up_logging(LogSettings(LogFormat.JSON), stream=stream)
    try:
        raise UsageError(f"refused: {SECRET}")
    except UsageError:
        logging.getLogger("storage").exception(
            "it failed with %s", SECRET, extra={"fields": {"token": "x", "a": SECRET}}
        )
    (line,) = lines(stream)
    error = line["error"]
    assert isinstance(error, dict)
    assert (error["class"], error["message"]) == ("UsageError", "refused: <MY_PASSWORD>")
    assert "test_logs.py" in error["traceback"]
    assert line["message"] == "it failed with <MY_PASSWORD>"
    assert line["fields"] == {"token": "<token>", "a": "<MY_PASSWORD>"}
    assert SECRET not in stream.getvalue()


def test_lines_for_people_hold_no_secrets_either() -> None:
    stream = io.StringIO()
    set_up_logging(LogSettings(), stream=stream)
    try:
        raise UsageError(f"https://u:{SECRET}@host")
    except UsageError:
        logging.getLogger("storage").exception("see https://u:p@host/?sig=abc")
    assert stream.getvalue().startswith("ERROR storage: see https://<userinfo>@host/?sig=<signature>\nTraceback")
    assert SECRET not in stream.getvalue()


def test_levels_are_ours_and_of_others_warnings_are_heard() -> None:
    stream = io.StringIO()
    set_up_logging(LogSettings(LogFormat.JSON, logging.DEBUG), stream=stream)
    for name in ("pipelines.training.loop", "elsewhere"):
        logging.getLogger(name).debug("quiet")
        logging.getLogger(name).warning("loud")
    assert [(line["logger"], line["message"]) for line in lines(stream)] == [
        ("pipelines.training.loop", "quiet"),
        ("pipelines.training.loop", "loud"),
        ("elsewhere", "loud"),
    ]


def test_progress_is_a_part_of_the_log_that_only_programs_read(tmp_path: Path) -> None:
    stream, file = io.StringIO(), tmp_path / "new" / "run.jsonl"
    set_up_logging(LogSettings(LogFormat.JSON, file=str(file)), stream=stream)
    display = LogDisplay(interval_s=5, clock=lambda: 0.0)
    progress = display.stage("train")
    for done in (1, 2):
        progress.update(done, 4, unit="steps", loss=0.5)
    display.note("train", "done in 3.0 s")
    logging.getLogger("jobs").warning("for both")
    assert stream.getvalue() == "WARNING jobs: for both\n"
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["message"] for line in found] == ["train 1/4 steps loss=0.5", "train: done in 3.0 s", "for both"]
    assert [line["stage"] for line in found] == ["train", "train", None]
    assert found[0]["fields"] == {"done": 1, "total": 4, "per_second": None, "unit": "steps", "loss": 0.5}


def test_a_file_gets_progress_beside_the_display(tmp_path: Path) -> None:
    file, shown = tmp_path / "run.log", io.StringIO()
    set_up_logging(LogSettings(file=str(file)), stream=io.StringIO())
    with open_display(shown) as display:
        display.stage("teach sam2").update(1, 2, unit="images")
        display.note("teach sam2", "present, nothing to do")
    assert shown.getvalue().splitlines() == [
        "teach sam2          1/2 images",
        "teach sam2          present, nothing to do",
    ]
    assert file.read_text().splitlines() == [
        "INFO jobs.progress: teach sam2 1/2 images",
        "INFO jobs.progress: teach sam2: present, nothing to do",
    ]


def test_a_file_that_can_not_be_written_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--log-file .*: expected a file that can be written"):
        set_up_logging(LogSettings(file=str(tmp_path)))


def test_other_libraries_write_no_lines_of_their_own() -> None:
    stream, theirs = io.StringIO(), io.StringIO()
    logger = logging.getLogger("some_library")
    logger.addHandler(logging.StreamHandler(theirs))
    logger.propagate = False
    set_up_logging(LogSettings(), stream=stream)
    adopt_loggers()
    logger.warning("as it likes")
    set_up_logging(LogSettings(LogFormat.JSON), stream=stream)
    logger.warning("as we like")
    assert theirs.getvalue() == "as it likes\n"
    assert [line["message"] for line in lines(stream)] == ["as we like"]


def test_plain_values() -> None:
    assert plain({1: (True, None, 2.5, float("inf"))}) == {"1": [True, None, 2.5, "inf"]}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(("--log-format", "json"), {}), ((), {"SAILLOFT_LOG_FORMAT": "json"})],
)
def test_the_command_line_logs_as_json(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    found = run("-m", "jobs", *arguments, "plan", f"no-{SECRET}", **environment)
    assert (found.returncode, found.stdout) == (2, "")
    (line,) = [json.loads(text) for text in found.stderr.splitlines()]
    assert (line["level"], line["logger"]) == ("error", "jobs.outcome")
    assert line["fields"] == {"exit_code": 2, "error": "UsageError"}
    assert line["message"].startswith("error: no recipe 'no-<MY_PASSWORD>'")


def test_errors_for_people_hold_no_secrets() -> None:
    found = run("-m", "jobs", "plan", f"no-{SECRET}")
    assert found.returncode == 2
    assert found.stderr.startswith("error: no recipe 'no-<MY_PASSWORD>'")


def test_errors_that_nobody_expected_are_logged_without_secrets() -> None:
    program = (
        "import logging, os; from jobs.logs import *; set_up_logging(LogSettings(LogFormat.JSON)); "
        "raise KeyError(os.environ['MY_PASSWORD'])"
    )
    found = run("-c", program)
    assert found.returncode == 1
    (line,) = [json.loads(text) for text in found.stderr.splitlines()]
    assert line["error"]["class"] == "KeyError"
    assert SECRET not in found.stderr
