"""What a newcomer reads behind the demo: where its page is, and commands that can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from jobs.demo import next_steps, program_name
from jobs.flow import Outcome, State
from jobs.runner import RunResult


def _result(folder: str, *names: str) -> RunResult:
    outcomes = tuple(Outcome(name, "k", f"{folder}/{name}/k", State.RAN, 1.0, 1) for name in names)
    return RunResult(outcomes, f"{folder}/runs/r", f"{folder}/report/k/report.html")


def test_paths_of_the_run_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my runs"
    pictures = folder / "scenes/k/images/train2014"
    pictures.mkdir(parents=True)
    for number in (10_000_003, 20_000_007, 20_000_004):
        (pictures / f"COCO_train2014_{number:012}.png").touch()
    monkeypatch.chdir(tmp_path)
    lines = next_steps("demo", _result(str(folder), "scenes", "curate", "train"), ".venv/bin/sailloft").splitlines()
    assert lines[0] == "open it in a browser: 'my runs/report/k/report.html'"
    commands = [shlex.split(line) for line in lines if line.startswith("  .venv/bin/sailloft ")]
    held_out = "my runs/scenes/k/images/train2014/COCO_train2014_000020000004.png"
    assert commands[0][1:5] == ["predict", "my runs/train/k", held_out, "all rings"]
    assert commands[1][1:3] == ["view", "my runs/curate/k"]
    assert commands[-1][1:] == ["doctor"]


def test_what_was_not_made_is_not_spoken_of() -> None:
    text = next_steps("mine", _result("s3://bucket/x", "scenes", "train"), "sailloft")
    assert "predict" not in text  # the picture is not on this disk
    assert "view" not in text
    assert "open it in a browser: s3://bucket/x/report/k/report.html" in text
    assert "sailloft run mine --dry-run" in text


def test_the_program_is_named_as_it_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / ".venv/bin/sailloft"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert program_name(str(program)) == ".venv/bin/sailloft"
    assert program_name(".venv/bin/sailloft") == ".venv/bin/sailloft"
    monkeypatch.setenv("PATH", str(program.parent))
    assert program_name(str(program)) == "sailloft"
