"""What the shell offers behind a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import completion
from jobs.cli import app
from jobs.loading import packaged_recipes
from jobs.stages import COMMANDS as STAGES
from jobs.study import packaged_studies
from jobs.submission.order import COMMANDS
from storage.calibration import TIERS
from storage.registry import REGISTRIES


def _offered(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is told at the end of a line."""
    monkeypatch.chdir(folder)
    words = line.split(" ")
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_SAILLOFT_COMPLETE": "complete_bash"}
    return CliRunner().invoke(app, env=variables, prog_name="sailloft").stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sailloft feat", ["features"]),
        ("sailloft run smo", ["smoke"]),
        ("sailloft demo --recipe demo-r", ["demo-real"]),
        ("sailloft doctor smo", ["smoke"]),
        ("sailloft train-teacher tiny", ["tiny-mask2former", "tiny-sam2"]),
        ("sailloft run tiny", []),
        ("sailloft run m", ["my.yaml", "more/"]),
        ("sailloft run more/", ["more/other.yml"]),
        ("sailloft run smoke --stages train,e", ["train,evaluate"]),
        ("sailloft study ab", ["ablation"]),
        ("sailloft submit smoke --command re", ["retrain"]),
        ("sailloft features transcode x --codec klt", ["klt", "klt-20db"]),
        ("sailloft registry show --workspace here d", ["demo"]),
        ("sailloft registry promote x", []),
    ],
)
def test_names_are_offered(line: str, offered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.yaml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/other.yml").touch()
    (tmp_path / "here/registry/demo").mkdir(parents=True)
    assert sorted(_offered(line, tmp_path, monkeypatch)) == sorted(offered)


def test_what_is_offered_is_what_there_is() -> None:
    assert {*completion.recipe_names(""), *completion.teacher_recipe_names("")} >= set(packaged_recipes())
    assert set(packaged_studies()) <= set(completion.study_names(""))
    assert completion.stage_lists("") == [name for name in STAGES if name != "scenes"]
    assert completion.job_commands("") == list(COMMANDS)
    assert set(completion.codec_names("")) == {"int8", *TIERS}
    assert completion.local_registries(Path("/no/such")) == []
    assert completion._REGISTRIES == REGISTRIES


def test_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys, jobs.cli, jobs.completion; jobs.completion.recipe_names('d');"
        "print(sorted({'numpy', 'pydantic', 'pyarrow', 'ray', 'torch', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
