"""A run that is killed again and again, at another place each time, ends with the outputs of one left in peace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from storage.manifest import verify_manifest
from storage.objects import Objects

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

MOMENTS = (
    (r"jobs\.flow: scenes begins", 0.05),
    (r"jobs\.flow: curate begins", 1.0),
    (r"jobs\.flow: teach mask2former begins", 2.0),
    (r"jobs\.flow: teach sam2 begins", 1.0),
    (r"jobs\.flow: train begins", 1.0),
    (r"^train +\d+/60 steps", 0.1),
    (r"^evaluate +\d+/\d+ questions", 1.0),
    (r"jobs\.flow: report begins", 0.05),
)
"""What the run has just said when it is killed, and how many seconds later."""


def start(workspace: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs", "--verbose", "run", "smoke", f"workspace={workspace}"]
    overrides = ["training.num_steps=60", "training.log_every=1", "training.checkpoint_every=5"]
    return subprocess.Popen(
        [*command, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def kill_all(process: subprocess.Popen[str]) -> None:
    """Ends the process and whatever it has started and left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()


def run_until(workspace: Path, moment: str | None, delay_s: float = 0.0) -> tuple[int, list[str]]:
    """Runs the smoke recipe, killed (SIGKILL) a moment after it has said something; gives code and lines."""
    process = start(workspace)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if moment is not None and re.search(moment, line):
                time.sleep(delay_s)
                process.kill()
                break
        return process.wait(timeout=60), lines
    finally:
        kill_all(process)


def outputs(workspace: Path) -> dict[str, object]:
    """What is promised by every output but the report, which holds times."""
    found: dict[str, object] = {}
    for path in sorted(workspace.rglob("manifest.json")):
        folder = path.parent.relative_to(workspace)
        if folder.parts[0] == "report":
            continue
        manifest = verify_manifest(Objects.open(str(path.parent)))
        for entry in manifest.files:
            found[f"{folder}/{entry.path}"] = entry.sha256
        if manifest.kind == "checkpoint":
            found[f"{folder}/metrics.jsonl"] = metrics(path.parent / "metrics.jsonl")
    return found


def metrics(path: Path) -> list[dict[str, float]]:
    """Rows of the metrics file without the measured times."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("_s")} for row in rows]


@pytest.mark.slow
def test_killed_at_every_stage(tmp_path: Path) -> None:
    killed, quiet = tmp_path / "killed", tmp_path / "quiet"
    for moment, delay_s in MOMENTS:
        code, lines = run_until(killed, moment, delay_s)
        assert code == -signal.SIGKILL, f"{moment}: the run was over before it could be killed:\n{''.join(lines[-20:])}"
    code, lines = run_until(killed, None)
    assert code == 0, "".join(lines[-30:])
    code, quiet_lines = run_until(quiet, None)
    assert code == 0, "".join(quiet_lines[-30:])
    assert outputs(killed) == outputs(quiet)
    assert any("report:" in line for line in lines)


def test_sigterm_ends_in_good_order(tmp_path: Path) -> None:
    process = start(tmp_path)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "jobs.flow: curate begins" in line:
                process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM, "".join(lines[-20:])
    finally:
        kill_all(process)
    assert "the same command continues" in "".join(lines)
    assert "Traceback" not in "".join(lines)
    assert list(tmp_path.glob("scenes/*/manifest.json"))
    assert not list(tmp_path.glob("curate/*/manifest.json"))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
