"""The command line: help, exit codes, one friendly line per error, dry runs, a quick start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from jobs import runner
from jobs.config import Recipe
from jobs.display import Display
from jobs.flow import Outcome, State
from jobs.runner import RunResult
from storage.errors import InfrastructureError, SailloftError, SourceError
from tests.command_line import CommandLine


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs the command line in this process; gives exit code, standard output and standard error."""
    return CommandLine(monkeypatch, capfd)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, str | None]]:
    """Recipes that the command line asked to run, which nothing really does."""
    seen: list[tuple[Recipe, str | None]] = []

    def run_recipe(
        recipe: Recipe,
        display: Display,
        until: str | None = None,
        verbose: bool = False,
        only: Sequence[str] | None = None,
    ) -> RunResult:
        seen.append((recipe, until if only is None else ",".join(only)))
        return RunResult((Outcome("scenes", "k", "/w/scenes/k", State.RAN, 1.5, 1),), "/w", "/w/report.html")

    monkeypatch.setattr(runner, "run_recipe", run_recipe)
    return seen


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("demo",),
        ("run",),
        ("train",),
        ("train-teacher",),
        ("submit",),
        ("retrain",),
        ("schedule",),
        ("jobs",),
        ("registry", "promote"),
        ("features",),
    ],
)
def test_help_has_examples(command: CommandLine, arguments: tuple[str, ...]) -> None:
    code, out, _ = command(*arguments, "--help")
    assert code == 0
    assert "Usage: sailloft" in out
    assert arguments in {("features",), ("jobs",)} or "Example" in out


def test_the_demo_ends_with_the_report_and_what_is_next(
    command: CommandLine, ran: list[tuple[Recipe, str | None]], tmp_path: Path
) -> None:
    code, out, _ = command("demo", "--workspace", str(tmp_path), "training.num_steps=3")
    assert code == 0
    assert "1 of 1 stages ran in 1.5 s\nreport: /w/report.html\n" in out
    assert "sailloft demo --real DIR" in out
    recipe, until = ran[0]
    assert (recipe.name, recipe.workspace, recipe.training.num_steps, until) == ("demo", str(tmp_path), 3, None)


def test_the_real_demo(command: CommandLine, ran: list[tuple[Recipe, str | None]], tmp_path: Path) -> None:
    assert command("demo", "--real", str(tmp_path))[0] == 0
    assert (ran[0][0].name, ran[0][0].curation.root) == ("demo-real", str(tmp_path))


@pytest.mark.parametrize("verb", ["curate", "teach", "train", "evaluate"])
def test_verbs_stop_at_their_stage(command: CommandLine, ran: list[tuple[Recipe, str | None]], verb: str) -> None:
    assert command(verb, "smoke")[0] == 0
    assert ran[0][1] == verb


def test_chosen_stages_are_put_in_order(command: CommandLine, ran: list[tuple[Recipe, str | None]]) -> None:
    assert command("run", "smoke", "--stages", "evaluate, curate")[0] == 0
    assert ran[0][1] == "scenes,curate,evaluate"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "smoke", "--stages", "train,tech"), "expected some of scenes, curate, teach, train, evaluate, report"),
        (("run", "demmo"), "error: no recipe 'demmo'"),
        (("run", "smoke", "training.num_stepz=3"), "did you mean num_steps?"),
        (("run", "smoke", "training"), "expected field=value"),
        (("run", "smoke", "workspace=memory://x", "--dry-run"), "Ray's workers can't reach memory"),
        (("run", "smoke", "--dryrun"), "No such option"),
        (("walk",), "No such command 'walk'"),
        (("demo", "--real", "/no/such/folder"), "expected a folder in RefCOCO layout"),
        (("submit", "smoke", "--address", "http://127.0.0.1:1"), "a cluster needs a URL that all its nodes reach"),
        (("submit",), "expected a recipe, or --attach ID; got neither"),
        (("submit", "smoke", "--attach", "smoke-1"), "expected no recipe beside it, got smoke"),
        (("submit", "--attach", "smoke-1", "--dry-run"), "expected no --dry-run or --json beside it"),
        (("submit", "--attach", "smoke-1", "--json"), "expected no --dry-run or --json beside it"),
        (("submit", "smoke", "workspace=/x", "--stages", "train", "--command", "teach"), "leave one of them out"),
        (("jobs", "status", "no id"), "expected an id such as"),
        (("jobs", "launch", "absent.yaml"), "expected the variables of a schedule's pod"),
        (("schedule", "smoke"), "expected --cron EXPRESSION"),
        (("schedule", "smoke", "--cron", "0 3 * *"), "expected five fields"),
        (("schedule", "smoke", "workspace=/x", "--kuberay"), "expected a section kubernetes with an image"),
    ],
)
def test_wrong_usage_is_exit_code_2(command: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = command(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("error", "code"),
    [(SourceError("refs(unc).p: truncated; fetch it again"), 3), (InfrastructureError("s3://b: access refused"), 4)],
)
def test_errors_are_one_line(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, error: SailloftError, code: int
) -> None:
    def fail(*args: object, **kwargs: object) -> RunResult:
        raise error

    monkeypatch.setattr(runner, "run_recipe", fail)
    found, _, err = command("run", "smoke")
    assert found == code
    assert err == f"error: {error}\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setattr(runner, "run_recipe", lambda *args, **kwargs: os.kill(os.getpid(), number))
    found, _, err = command("run", "smoke")
    assert found == code
    assert "the same command continues" in err


def test_a_dry_run_shows_recipe_and_addresses_and_writes_nothing(command: CommandLine, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    code, out, _ = command("run", "smoke", f"workspace={workspace}", "training.num_steps=7", "--dry-run")
    assert code == 0
    assert "num_steps: 7" in out
    assert f"scenes              missing   {workspace}/scenes/" in out
    assert "report" in out.splitlines()[-1]
    assert not workspace.exists()


def test_version(command: CommandLine) -> None:
    assert command("--version")[1].startswith("sailloft ")


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys, jobs.cli; print(sorted({'ray', 'torch', 'transformers', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


SCHEDULE = ("schedule", "smoke", "workspace=/shared", "kubernetes.image=sailloft:1", "--kuberay")


def test_manifests_on_standard_output_are_what_is_applied(command: CommandLine) -> None:
    code, out, _ = command(*SCHEDULE, "--cron", "@daily")
    kinds = [document["kind"] for document in yaml.safe_load_all(out)]
    assert code == 0
    assert kinds == ["ServiceAccount", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "ConfigMap", "CronJob"]
    code, out, _ = command(*SCHEDULE, "--command", "run")
    documents = list(yaml.safe_load_all(out))
    assert [document["kind"] for document in documents] == ["ServiceAccount", "ConfigMap", "RayJob"]
    assert documents[-1]["spec"]["entrypoint"] == "python -m jobs run /etc/sailloft/recipe.yaml"


def test_manifests_in_a_folder_are_named(command: CommandLine, tmp_path: Path) -> None:
    code, out, _ = command(*SCHEDULE, "--cron", "@daily", "--ray-cron-job", "--to", str(tmp_path))
    assert code == 0
    names = ["accounts.yaml", "recipe.yaml", "raycluster.yaml", "rayjob.yaml", "raycronjob.yaml"]
    assert out.split() == [str(tmp_path / name) for name in names]


def test_a_dry_submission_lists_and_asks_nobody(command: CommandLine, closed_port: int) -> None:
    address = f"http://127.0.0.1:{closed_port}"
    code, out, _ = command("submit", "smoke", "workspace=/shared", "--address", address, "--dry-run")
    assert code == 0
    assert "KiB  recipe.yaml" in out
    assert "exec python -m jobs run recipe.yaml" in out
    assert command("submit", "smoke", "workspace=/shared", "--address", address)[0] == 4
