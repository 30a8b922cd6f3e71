"""`sailloft schedule` on this machine: real runs of a stage, one at a time, until SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.manifest import read_manifest
from storage.objects import Objects

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

REPOSITORY = Path(__file__).parents[2]


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "jobs", "schedule", "smoke", f"workspace={tmp_path}", "--command", "curate",
        "--cron", "0 3 1 1 *", "--now", *options,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def lines_until(schedule: subprocess.Popen[str], text: str) -> list[str]:
    assert schedule.stdout is not None
    lines: list[str] = []
    for line in schedule.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"the schedule ended before {text!r}: {''.join(lines)}")


def test_a_stage_runs_and_the_schedule_ends_in_good_order(tmp_path: Path) -> None:
    schedule = start(tmp_path)
    lines = lines_until(schedule, "exit code")
    assert "exit code 0 after" in lines[-1], "".join(lines)
    (corpus,) = tmp_path.glob("curate/*")
    assert read_manifest(Objects.open(str(corpus))) is not None
    schedule.send_signal(signal.SIGTERM)
    rest, _ = schedule.communicate(timeout=60)
    assert schedule.returncode == 0, rest
    assert "Traceback" not in "".join(lines) + rest


def test_a_run_at_work_ends_with_the_schedule_and_can_be_gone_on_with(tmp_path: Path) -> None:
    schedule = start(tmp_path)
    lines = lines_until(schedule, "scenes")
    schedule.send_signal(signal.SIGTERM)
    rest, _ = schedule.communicate(timeout=120)
    assert schedule.returncode == 0, rest
    output = "".join(lines) + rest
    assert "exit code 143 after" in output
    assert "interrupted; what is finished stays, the same command continues" in output
