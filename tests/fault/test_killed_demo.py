"""A run that is killed again and again, at another place each time, ends with the outputs of one left in peace."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from storage.objects import Objects
from tests.fault.smoke_process import SmokeProcess
from tests.promised import promised

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


def run_in_peace(workspace: Path) -> SmokeProcess:
    with SmokeProcess(workspace) as run:
        assert run.finish() == 0, run.tail()
        return run


@pytest.mark.slow
def test_killed_at_every_stage(tmp_path: Path) -> None:
    killed, quiet = tmp_path / "killed", tmp_path / "quiet"
    for moment, delay_s in MOMENTS:
        with SmokeProcess(killed) as run:
            run.read_until(moment)
            time.sleep(delay_s)
            run.process.kill()
            assert run.finish() == -signal.SIGKILL, f"{moment}: the run was over before it could be killed"
    last = run_in_peace(killed)
    run_in_peace(quiet)
    assert promised(Objects.open(killed)) == promised(Objects.open(quiet))
    assert any("report:" in line for line in last.lines)


def test_sigterm_ends_in_good_order(tmp_path: Path) -> None:
    with SmokeProcess(tmp_path) as run:
        run.read_until(r"jobs\.flow: curate begins")
        run.process.terminate()
        assert run.finish() == 128 + signal.SIGTERM, run.tail()
    assert "the same command continues" in "".join(run.lines)
    assert "Traceback" not in "".join(run.lines)
    assert list(tmp_path.glob("scenes/*/manifest.json"))
    assert not list(tmp_path.glob("curate/*/manifest.json"))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
