"""`sailloft schedule`: what runs here, and which manifests are written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import schedule
from jobs.cron import Cron
from jobs.schedule import Turn, local_command, make_manifests, schedule_here, write_manifests
from jobs.scheduler import Runs
from storage.errors import UsageError

TURN = Turn("smoke", ("workspace=s3://bucket/prefix", "kubernetes.image=sailloft:1"), "retrain")
CRON = "0 3 * * *"


def test_a_turn_is_a_process_of_the_same_python() -> None:
    turn = Turn("my recipe.yaml", ("workspace=/a b; c",), "curate")
    assert local_command(turn) == [sys.executable, "-m", "jobs", "curate", "my recipe.yaml", "workspace=/a b; c"]
    with pytest.raises(UsageError, match="--command predict: expected one of run, retrain"):
        Turn("smoke", (), "predict")


def test_here_the_schedule_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(schedule, "keep_schedule", lambda *arguments: seen.extend(arguments))
    schedule_here(TURN, CRON, "Europe/Berlin", True, str)
    when, runs, zone, at_once = seen
    assert isinstance(when, Cron)
    assert isinstance(runs, Runs)
    assert (when.text, str(zone), at_once) == (CRON, "Europe/Berlin", True)


@pytest.mark.parametrize(
    ("turn", "cron", "message"),
    [
        (Turn("absent.yaml", (), "retrain"), CRON, r"no recipe 'absent\.yaml'"),
        (Turn("smoke", ("training.num_stepz=1",), "retrain"), CRON, "did you mean num_steps"),
        (TURN, "daily", "expected five fields"),
    ],
)
def test_mistakes_are_told_at_once_and_not_at_three_in_the_morning(
    turn: Turn, cron: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "keep_schedule", lambda *arguments: pytest.fail("begun"))
    with pytest.raises(UsageError, match=message):
        schedule_here(turn, cron, None, False, str)


def test_files_of_a_schedule(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    for form in ("cronjob", "raycronjob"):
        files = make_manifests(TURN, CRON, None, "Asia/Tokyo", form)
        assert list(files) == ["accounts.yaml", "recipe.yaml", "raycluster.yaml", "rayjob.yaml", f"{form}.yaml"]
        paths = write_manifests(files, folder)
        assert [list(yaml.safe_load_all(path.read_text())) for path in paths] == list(files.values())
        assert files[f"{form}.yaml"][-1]["spec"]["timeZone"] == "Asia/Tokyo"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--to .*file"):
        write_manifests({}, tmp_path / "file")


def test_settings_of_a_file_go_above_the_recipes(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("namespace: vision\ntrainer: {gpus: 4}\n")
    (job,) = make_manifests(TURN, None, path, None, "cronjob")["rayjob.yaml"]
    assert job["metadata"]["namespace"] == "vision"
    trainer = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][-1]["template"]["spec"]["containers"][0]
    assert trainer["image"] == "sailloft:1"
    assert trainer["resources"]["limits"]["nvidia.com/gpu"] == "4"
    path.write_text("trainer: {gpu: 4}\n")
    with pytest.raises(UsageError, match=r"kubernetes\.trainer\.gpu: no such field .*did you mean gpus"):
        make_manifests(TURN, None, path, None, "cronjob")


def test_the_same_recipe_gives_the_same_manifests() -> None:
    first, second = (make_manifests(TURN, CRON, None, None, "cronjob") for _ in range(2))
    assert first == second
