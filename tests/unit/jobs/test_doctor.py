"""`sailloft doctor`: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.config import load_recipe
from jobs.doctor import examine
from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig
from pipelines.scenes.config import SplitSizes
from pipelines.scenes.generate import generate
from storage.errors import UsageError
from storage.objects import Objects


def test_a_source_before_and_after_a_file_is_lost(tmp_path: Path) -> None:
    generate(ScenesConfig(size_px=64, splits=SplitSizes(train=3, val=1)), Objects.open(tmp_path), NullProgress())
    arguments = ["doctor", "demo-real", f"curation.root={tmp_path}"]
    whole = CliRunner().invoke(app, arguments)
    assert whole.exit_code == 0, whole.output
    assert "ok       sources[0] refcoco: 2 source files" in whole.output
    assert "4 of 4 pictures there" in whole.output
    (tmp_path / "refcoco/refs(unc).p").unlink()
    lost = CliRunner().invoke(app, [*arguments, "--json"])
    assert lost.exit_code == 3
    found = json.loads(lost.output[lost.output.index("[\n") :])
    assert [source["kind"] for source in found] == ["refcoco", "refcoco"]
    assert found[0]["findings"][0]["name"] == "refcoco/refs(unc).p"
    assert found[1]["findings"] == []
    text = CliRunner().invoke(app, arguments)
    assert "MISSING  sources[0] refcoco" in text.output
    assert f"expected under {tmp_path}: refcoco/refs(unc).p, refcoco/instances.json" in text.output
    assert "published at https://" in text.output


def test_scenes_have_no_sources_to_be_missing() -> None:
    with pytest.raises(UsageError, match="recipe demo draws its own scenes"):
        examine(load_recipe("demo"), 1, NullProgress())
