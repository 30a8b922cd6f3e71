"""The command line: help, exit codes, one friendly line per error, dry runs, a quick start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import cli, runner
from jobs.config import Recipe
from jobs.display import Display
from jobs.flow import Outcome, State
from jobs.runner import RunResult
from storage.errors import InfrastructureError, SailloftError, SourceError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process; gives exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sailloft", *arguments])
        code = cli.main()
        out, err = capfd.readouterr()
        return code, out, err

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    return run


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, str | None]]:
    """Recipes that the command line asked to run, which nothing really does."""
    seen: list[tuple[Recipe, str | None]] = []

    def run_recipe(recipe: Recipe, display: Display, until: str | None = None, verbose: bool = False) -> RunResult:
        seen.append((recipe, until))
        return RunResult((Outcome("scenes", "k", "/w/scenes/k", State.RAN, 1.5, 1),), "/w", "/w/report.html")

    monkeypatch.setattr(runner, "run_recipe", run_recipe)
    return seen


@pytest.mark.parametrize(
    "arguments", [(), ("demo",), ("run",), ("train",), ("train-teacher",), ("submit",), ("features",)]
)
def test_help_has_examples(command: Command, arguments: tuple[str, ...]) -> None:
    code, out, _ = command(*arguments, "--help")
    assert code == 0
    assert "Usage: sailloft" in out
    assert arguments == ("features",) or "Example" in out


def test_the_demo_ends_with_the_report_and_what_is_next(
    command: Command, ran: list[tuple[Recipe, str | None]], tmp_path: Path
) -> None:
    code, out, _ = command("demo", "--workspace", str(tmp_path), "training.num_steps=3")
    assert code == 0
    assert "1 of 1 stages ran in 1.5 s\nreport: /w/report.html\n" in out
    assert "sailloft demo --real DIR" in out
    recipe, until = ran[0]
    assert (recipe.name, recipe.workspace, recipe.training.num_steps, until) == ("demo", str(tmp_path), 3, None)


def test_the_real_demo(command: Command, ran: list[tuple[Recipe, str | None]], tmp_path: Path) -> None:
    assert command("demo", "--real", str(tmp_path))[0] == 0
    assert (ran[0][0].name, ran[0][0].curation.root) == ("demo-real", str(tmp_path))


@pytest.mark.parametrize("verb", ["curate", "teach", "train", "evaluate"])
def test_verbs_stop_at_their_stage(command: Command, ran: list[tuple[Recipe, str | None]], verb: str) -> None:
    assert command(verb, "smoke")[0] == 0
    assert ran[0][1] == verb


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "demmo"), "error: no recipe 'demmo'"),
        (("run", "smoke", "training.num_stepz=3"), "did you mean num_steps?"),
        (("run", "smoke", "training"), "expected field=value"),
        (("run", "smoke", "workspace=memory://x", "--dry-run"), "Ray's workers can't reach memory"),
        (("run", "smoke", "--dryrun"), "No such option"),
        (("walk",), "No such command 'walk'"),
        (("demo", "--real", "/no/such/folder"), "expected a folder in RefCOCO layout"),
        (("submit", "smoke", "--address", "http://127.0.0.1:1"), "a cluster needs a URL that all its nodes reach"),
    ],
)
def test_wrong_usage_is_exit_code_2(command: Command, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = command(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("error", "code"),
    [(SourceError("refs(unc).p: truncated; fetch it again"), 3), (InfrastructureError("s3://b: access refused"), 4)],
)
def test_errors_are_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: SailloftError, code: int
) -> None:
    def fail(*args: object, **kwargs: object) -> RunResult:
        raise error

    monkeypatch.setattr(runner, "run_recipe", fail)
    found, _, err = command("run", "smoke")
    assert found == code
    assert err == f"error: {error}\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setattr(runner, "run_recipe", lambda *args, **kwargs: os.kill(os.getpid(), number))
    found, _, err = command("run", "smoke")
    assert found == code
    assert "the same command continues" in err


def test_a_dry_run_shows_recipe_and_addresses_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    code, out, _ = command("run", "smoke", f"workspace={workspace}", "training.num_steps=7", "--dry-run")
    assert code == 0
    assert "num_steps: 7" in out
    assert f"scenes              missing   {workspace}/scenes/" in out
    assert "report" in out.splitlines()[-1]
    assert not workspace.exists()


def test_version(command: Command) -> None:
    assert command("--version")[1].startswith("sailloft ")


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys, jobs.cli; print(sorted({'ray', 'torch', 'transformers', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
