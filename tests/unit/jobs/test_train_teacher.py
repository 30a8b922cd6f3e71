"""The command that trains a teacher: a whole folder, or none."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import jobs.train_teacher
from jobs.display import PlainDisplay
from jobs.new_folder import make_folder, target_folder
from jobs.train_teacher import make_teacher
from storage.errors import InfrastructureError, UsageError

QUICK = ("num_steps=2", "num_held_out=1", "sources.3.weight=1.0e-9")


def test_a_folder_with_everything_comes_to_be(tmp_path: Path) -> None:
    shown = io.StringIO()
    summary = make_teacher("tiny-sam2", tmp_path / "mine", QUICK, display=PlainDisplay(shown)).text
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {"config.json", "model.safetensors", "recipe.json", "metrics.json", "README.md"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert "2/2 steps" in shown.getvalue()
    assert "tiny-sam2" in summary
    assert "checkpoint:" in summary
    with pytest.raises(UsageError, match="expected a new or empty folder, found content"):
        make_teacher("tiny-sam2", tmp_path / "mine", QUICK, display=PlainDisplay(shown))


def test_an_interrupted_training_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, *rest: object) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.train_teacher, "write_teacher", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_teacher("tiny-sam2", tmp_path / "mine", QUICK, display=PlainDisplay(io.StringIO()))
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_no_folder() -> None:
    with pytest.raises(UsageError, match="expected a local folder"):
        target_folder(Path("s3://bucket/teacher"))


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InfrastructureError, match="check permissions and free space"),
        make_folder(tmp_path / "file" / "mine"),
    ):
        pass
