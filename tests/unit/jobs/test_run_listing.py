"""Records of runs as people and programs see them, on the command line too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import cli
from jobs.run_listing import find_run, newest_runs, run_json, run_text, runs_text, summary_json
from storage.errors import ObjectNotFound
from storage.keys import Json
from storage.objects import Objects
from storage.run_records import RunFolder

FIRST, SECOND, KILLED = (f"demo-20260501T12000{number}000-aaaaaa" for number in range(3))

ABOUT: dict[str, Json] = {
    "recipe": {"name": "demo"},
    "code": {"version": "0.1.0", "commit": None, "changed": None, "sources": "0123456789abcdef"},
    "versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"},
    "machine": {"node": "head", "processor": "EPYC", "num_cpus": 2, "memory_gib": 23.5},
    "environment": {},
}
COSTS: dict[str, Json] = {
    "wall_s": 75.0,
    "cpu_s": 1800.0,
    "accelerator_s": 7200.0,
    "requests": {"reading": 1234, "writing": 5},
    "read_bytes": 2_500_000_000,
    "written_bytes": 4_000_000,
    "usd": {"accelerators": 4.0, "cpus": 0.0, "requests": 0.1, "total": 4.1},
}


def began(stage: str, second: int) -> Json:
    return {
        "time": f"2026-05-01T12:00:{second:02d}.000+00:00",
        "kind": "stage_began",
        "stage": stage,
        "url": f"/w/{stage}",
    }


def write(workspace: Objects, run: str, *, code: int | None, error: Json = None) -> None:
    folder = RunFolder(workspace, run)
    folder.write_start({**ABOUT, "time": "2026-05-01T12:00:00.000+00:00"})
    events: list[Json] = [
        {"kind": "cluster", "nodes": [{"CPU": 8.0, "accelerator_type:H200": 1.0, "memory_gib": 64, "nodes": 2}]},
        began("curate", 1),
        {"kind": "stage_ended", "stage": "curate", "state": "ran", "seconds": 4.0},
        *({"kind": "log", "level": "warning", "stage": "train", "message": "slow"} for _ in range(3)),
        began("train", 10),
    ]
    retries: Json = {"name": "sailloft_retries_total", "stage": "teach sam2", "cause": "died", "value": 2.0}
    totals: dict[str, Json] = {"figures": [retries], "costs": COSTS}
    folder.write_piece({"time": "2026-05-01T12:01:15.000+00:00", "events": events, **totals})
    if code is not None:
        stage: Json = {
            "name": "curate",
            "key": "k",
            "url": "/w/curate",
            "state": "ran",
            "seconds": 4.0,
            "num_starts": 1,
        }
        end: dict[str, Json] = {"time": "2026-05-01T12:01:16.000+00:00", "seconds": 76.0, "exit_code": code}
        folder.write_end({**end, "error": error, "stages": [stage], "lines_lost": 0, **totals})


@pytest.fixture
def workspace(tmp_path: Path) -> Objects:
    objects = Objects.open(tmp_path / "w")
    write(objects, FIRST, code=0)
    write(objects, SECOND, code=4, error={"class": "InfrastructureError", "message": "bucket is gone"})
    write(objects, KILLED, code=None)
    return objects


def test_a_line_per_run_the_newest_last(workspace: Objects) -> None:
    lines = runs_text(newest_runs(workspace.url, 20), workspace.url).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[FIRST, "done"], [SECOND, "failed"], [KILLED, "unfinished"]]
    assert lines[1].endswith("1 of 1      1:15 min        0.5                  2  4.10 USD")
    assert newest_runs(workspace.url, 1)[0].run == KILLED


def test_a_workspace_without_runs(tmp_path: Path) -> None:
    assert runs_text([], "s3://b/none").startswith("no runs are recorded in s3://b/none; ")
    assert newest_runs(str(tmp_path / "none"), 20) == []
    with pytest.raises(ObjectNotFound, match="expected a workspace with recorded runs, or one of them such as"):
        find_run(str(tmp_path / "none"))
    with pytest.raises(ObjectNotFound, match="found none; see `sailloft runs list WORKSPACE`"):
        find_run(f"{tmp_path}/runs/{FIRST}")


def test_a_failed_run_says_why(workspace: Objects) -> None:
    text = run_text(find_run(f"{workspace.url}/runs/{SECOND}/"))
    first, *rest = text.splitlines()
    assert first == f"{SECOND}: failed after 1:16 min, exit code 4: InfrastructureError: bucket is gone"
    assert "  cluster: 2 x (8 CPU, 1 H200, 64 GiB)" in rest
    assert "  train   begun  1:06 min  /w/train" in rest
    assert "  curate  ran       4.0 s  /w/curate" in rest
    assert "  storage: 2.5 GB read, 4 MB written; billed requests: 1,234 reading, 5 writing" in rest
    assert "  price: 4.10 USD" in rest
    assert "  begun again: died 2 times" in rest
    assert rest[-2:] == ["  3 warnings and errors in the log", "    3 x warning train: slow"]


def test_of_a_killed_run_everything_until_then_is_shown(workspace: Objects) -> None:
    found = find_run(workspace.url)
    assert found.run == KILLED
    text = run_text(found)
    assert text.startswith(f"{KILLED}: unfinished: it goes on, or was killed\n")
    assert "  train   begun  1:05 min  /w/train" in text
    assert "0.5 CPU hours, 2 accelerator hours" in text
    assert run_json(found)["costs"] == COSTS
    assert summary_json(found)["stages"] == []


def test_a_run_of_which_only_the_beginning_is_there(tmp_path: Path) -> None:
    RunFolder(Objects.open(tmp_path), FIRST).write_start({**ABOUT, "time": "2026-05-01T12:00:00.000+00:00"})
    assert "unfinished" in run_text(find_run(str(tmp_path)))
    assert "unfinished" in runs_text(newest_runs(str(tmp_path), 1), str(tmp_path))


_DRIVER = """
import sys
from jobs.config import load_recipe
from jobs.run_recorder import RunRecorder
from storage.objects import Objects
recipe = load_recipe("smoke", [f"workspace={sys.argv[1]}"])
recorder = RunRecorder(Objects.open(sys.argv[1]), recipe)
recorder.open()
recorder.event("stage_began", at_once=True, stage="train", url="/w/train")
sys.stdin.read()
"""


@pytest.mark.timeout(120)
def test_a_driver_that_was_killed_is_never_taken_for_done(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(tmp_path)], env=environment, stdin=subprocess.PIPE
    ) as driver:
        while driver.poll() is None and not list(tmp_path.glob("runs/*/pieces/000001.json")):
            time.sleep(0.05)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    code, out = command("runs", "list", str(tmp_path), "--json")
    ((name, state, exit_code),) = [(run["run"], run["state"], run["exit_code"]) for run in json.loads(out)]
    assert (code, state, exit_code) == (0, "unfinished", None)
    shown = command("runs", "show", str(tmp_path))[1]
    assert shown.startswith(f"{name}: unfinished: it goes on, or was killed\n")
    assert "  train  begun  " in shown


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sailloft", *arguments])
        code = cli.main()
        return code, capsys.readouterr().out

    return run


def test_the_command_line(command: Callable[..., tuple[int, str]], workspace: Objects) -> None:
    code, out = command("runs", "list", workspace.url, "--last", "2", "--json")
    assert code == 0
    listed = json.loads(out)
    assert [(run["run"], run["state"], run["exit_code"]) for run in listed] == [
        (SECOND, "failed", 4),
        (KILLED, "unfinished", None),
    ]
    code, out = command("runs", "show", listed[0]["url"], "--json")
    shown = json.loads(out)
    assert (code, shown["error"]["class"], len(shown["events"])) == (0, "InfrastructureError", 7)
    assert shown["recipe"] == {"name": "demo"}
    assert command("runs", "list", workspace.url)[1].count("\n") == 4
    assert command("runs", "show", workspace.url)[1].startswith(KILLED)
    assert command("runs", "show", f"{workspace.url}/elsewhere")[0] == 4
