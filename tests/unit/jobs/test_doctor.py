"""`sailloft doctor`: what it prints of sources and of the machine, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import machine_checks
from jobs.cli import app
from jobs.machine_checks import Check, Health
from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig
from pipelines.scenes.config import SplitSizes
from pipelines.scenes.generate import generate
from storage.objects import Objects

FIT = Check("memory", Health.OK, "16.0 GiB")


def test_a_source_before_and_after_a_file_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(ScenesConfig(size_px=64, splits=SplitSizes(train=3, val=1)), Objects.open(tmp_path), NullProgress())
    arguments = ["doctor", "demo-real", f"curation.root={tmp_path}"]
    monkeypatch.setattr(machine_checks, "examine_machine", lambda workspace: [FIT])
    whole = CliRunner().invoke(app, arguments)
    assert whole.exit_code == 0, whole.output
    assert "ok       sources[0] refcoco: 2 source files" in whole.output
    assert "4 of 4 pictures there" in whole.output
    (tmp_path / "refcoco/refs(unc).p").unlink()
    lost = CliRunner().invoke(app, [*arguments, "--json"])
    assert lost.exit_code == 3
    document = json.loads(lost.stdout)
    assert (document["worst"], document["recipe"]) == ("ok", "demo-real")
    found = document["sources"]
    assert [source["kind"] for source in found] == ["refcoco", "refcoco"]
    assert found[0]["findings"][0]["name"] == "refcoco/refs(unc).p"
    assert found[1]["findings"] == []
    text = CliRunner().invoke(app, arguments)
    assert "MISSING  sources[0] refcoco" in text.output
    assert f"expected under {tmp_path}: refcoco/refs(unc).p, refcoco/instances.json" in text.output
    assert text.output.count("expected") == 1
    assert "published at https://" in text.output


def test_scenes_have_no_sources_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "examine_machine", lambda workspace: [FIT])
    done = CliRunner().invoke(app, ["doctor", "demo"])
    assert done.exit_code == 0
    assert "recipe demo\nok       draws its own scenes" in done.stdout


@pytest.mark.parametrize(("health", "code"), [(Health.OK, 0), (Health.WARNING, 0), (Health.PROBLEM, 4)])
def test_a_problem_of_the_machine_is_an_exit_code(health: Health, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "examine_machine", lambda workspace: [FIT, Check(workspace, health, "so")])
    done = CliRunner().invoke(app, ["doctor", "--workspace", "s3://bucket/x", "--json"])
    assert done.exit_code == code
    document = json.loads(done.stdout)
    assert (document["worst"], document["sources"]) == (health.value, None)
    assert document["machine"][1] == {"name": "s3://bucket/x", "health": health.value, "found": "so", "remedy": None}


def test_by_itself_it_looks_where_outputs_go_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(machine_checks, "examine_machine", lambda workspace: asked.append(workspace) or [FIT])
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    assert CliRunner().invoke(app, ["doctor", "demo"]).exit_code == 0
    assert asked == ["runs", "runs/demo"]
