"""`sailloft forget`: what it says, on a dry run and else, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage.forgotten import read_forgotten
from storage.objects import Objects
from tests.command_line import CommandLine
from tests.small_workspaces import STORE, SmallWorkspace


@pytest.fixture
def small(tmp_path: Path) -> SmallWorkspace:
    return SmallWorkspace(Objects.open(tmp_path / "work"), tmp_path / "sources")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `sailloft forget` in this process; gives exit code, standard output and standard error."""
    return CommandLine(monkeypatch, capsys, "forget")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(small: SmallWorkspace, command: CommandLine) -> None:
    image_id = small.picture(0)
    small.rows("a.jsonl", (0, "the cup", "train"), (1, "the cup", "val"))
    corpus = small.curate("a.jsonl")
    small.teach(corpus)
    checkpoint = small.train(corpus)
    before = small.contents()
    code, out, _ = command(str(small.sources / "0.png"), "--workspace", small.workspace.url, "--dry-run")
    assert code == 0
    assert f"corpus {corpus[:16]} would be retired" in out
    assert f"features/{STORE}/parts/" in out
    assert "rows would leave it" in out
    assert "weights can't forget: 1 checkpoint saw" in out
    assert f"train/{checkpoint}  trained on" in out
    code, out, _ = command(str(small.sources / "0.png"), "--workspace", small.workspace.url, "--dry-run", "--json")
    told = json.loads(out)
    assert list(told["successors"]) == [corpus]
    assert told["staying"][image_id]["checkpoints"] == [f"train/{checkpoint}"]
    assert small.contents() == before
    assert read_forgotten(small.workspace, image_id) is None


def test_it_says_what_was_done_and_what_stays(small: SmallWorkspace, command: CommandLine) -> None:
    image_id = small.picture(1)
    small.rows("a.jsonl", (0, "the cup", "train"), (1, "the cup", "train"))
    corpus = small.curate("a.jsonl")
    small.teach(corpus)
    base = small.train(corpus)
    tuned = small.train(corpus, init=f"x/train/{base}", splits=["none"])
    scores = small.evaluate(corpus, tuned, [image_id])
    report = small.report(corpus, tuned)
    code, out, err = command(image_id, "--workspace", small.workspace.url, "--reason", "request 17")
    assert (code, "forget" in err) == (0, True)
    record = read_forgotten(small.workspace, image_id)
    assert record is not None
    assert record["reason"] == "request 17"
    assert f"forgotten/{image_id}.json" in out
    assert f"corpus {corpus[:16]} is retired, its successor is {small.workspace.url}/curate/" in out
    assert "1 row left out of what is live, 1 part retired, 1 part deleted" in out
    assert "weights can't forget: 2 checkpoints saw" in out
    assert f"train/{tuned}  by its base {base[:16]}" in out
    assert f"evaluate/{scores}  1 prediction" in out
    assert f"report/{report}  report" in out
    assert "source files are as they were" in out
    code, out, _ = command(image_id, "--workspace", small.workspace.url)
    assert code == 0
    assert "was noted before" in out
    assert "no corpus and no feature part has it" in out


@pytest.mark.parametrize(
    ("asked", "workspace", "code", "message"),
    [
        ("0123", "work", 2, "image '0123': expected an id, the 64 hex digits"),
        ("0" * 64, "elsewhere", 4, "no output of any stage there; give --workspace"),
    ],
)
def test_what_cannot_be_done_is_said(
    small: SmallWorkspace, command: CommandLine, tmp_path: Path, asked: str, workspace: str, code: int, message: str
) -> None:
    small.rows("a.jsonl", (0, "the cup", "train"))
    small.curate("a.jsonl")
    found, _, err = command(asked, "--workspace", str(tmp_path / workspace))
    assert (found, message in err) == (code, True)
    assert not (tmp_path / "elsewhere").exists()
