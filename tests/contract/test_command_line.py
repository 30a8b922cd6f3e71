"""The contract of the command line, held by every command: examples, names of options, dry runs, JSON, near names."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from jobs import cli
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.registry import Registry
from storage.schema import SCHEMA_VERSION
from storage.testing import example_features, publish_example_part
from tests.command_line import CommandLine
from tests.registries import comparison_with, student_facts
from tests.small_corpora import write_labelled_corpus

WITHOUT_DRY_RUN = {
    "benchmark show": "only reads",
    "compare": "only reads",
    "corpus show": "only reads",
    "doctor": "only reads",
    "features stat": "only reads",
    "features verify": "only reads",
    "jobs list": "only reads",
    "jobs logs": "only reads",
    "jobs status": "only reads",
    "jobs wait": "only reads",
    "lineage": "only reads",
    "plan": "is itself the dry run of a recipe; its probe removes what it writes",
    "predict": "writes one picture, and only where --to says",
    "registry show": "only reads",
    "runs list": "only reads",
    "runs show": "only reads",
    "view": "shows; a review writes what people decide",
}
"""Commands that neither make nor delete anything."""

WITHOUT_JSON = {
    "jobs logs": "the text of another program",
    "jobs wait": "says by its exit code",
    "view": "serves pages until it is ended",
}
"""Commands whose answer isn't a document."""

METAVARS = {
    "--to": {"DIR", "URL", "URI", "FILE.png"},  # where something goes, whatever it is
    "--workspace": {"URL"},
    "--address": {"URL"},
    "--settings": {"FILE"},
    "--seed": {"N"},
    "--reviewers": {"N"},
    "--device": {"DEVICE"},
    "--reason": {"TEXT"},
    "--command": {"COMMAND"},
    "--shard-mib": {"MIB"},
}
"""What the options of several commands take."""

OTHER_NAMES = {"--out", "--output", "--dest", "--target", "--url", "--root", "--dryrun", "--yes", "--config", "--host"}
"""Names that mean the same as one of ours, and that no command may take up."""


@dataclass(frozen=True)
class Found:
    """A command of the application."""

    name: str
    command: Any

    @property
    def options(self) -> dict[str, Any]:
        """Its options by each of their names."""
        found = [parameter for parameter in self.command.params if parameter.param_type_name == "option"]
        return {name: parameter for parameter in found for name in parameter.opts}


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[Found]:
    if command.hidden:
        return
    yield Found(" ".join(path), command)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, (*path, name))


ROOT = typer.main.get_command(cli.app)
ALL = [found for found in _walk(ROOT, ()) if found.name]
LEAVES = [found for found in ALL if not hasattr(found.command, "commands")]
BY_NAME = {found.name: found for found in ALL}

leaves = pytest.mark.parametrize("found", LEAVES, ids=lambda found: found.name)
everything = pytest.mark.parametrize("found", ALL, ids=lambda found: found.name)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs the command line in this process; gives exit code, standard output and standard error."""
    return CommandLine(monkeypatch, capfd, columns=80)


def _examples(found: Found) -> list[list[str]]:
    """Command lines of the help, as words."""
    text = (found.command.epilog or "").replace("\b", "").partition(":")[2]
    lines = [part.strip() for line in text.splitlines() for part in line.split("   |   ")]
    return [shlex.split(line.partition("   (")[0]) for line in lines if line]


@everything
def test_help_tells_what_it_is_for(command: CommandLine, found: Found) -> None:
    code, out, err = command(*found.name.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: sailloft {found.name} ")
    summary = out.splitlines()[2].strip()
    assert summary, out
    assert "Example" in out or found not in LEAVES


@leaves
def test_examples_are_commands_that_exist(found: Found) -> None:
    examples = _examples(found)
    assert examples, "no example"
    assert any(words[1 : 1 + len(found.name.split())] == found.name.split() for words in examples)
    for words in examples:
        assert words[0] == "sailloft"
        words = words[: words.index("|")] if "|" in words else words
        words = words[: words.index("&&")] if "&&" in words else words
        name = next(name for name in (" ".join(words[1:3]), words[1]) if name in BY_NAME)
        known = {*BY_NAME[name].options, *(option for parameter in ROOT.params for option in parameter.opts)}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_short_descriptions_are_whole_on_a_terminal_of_80_columns(command: CommandLine) -> None:
    for group in ["", *(found.name for found in ALL if found not in LEAVES)]:
        _, out, _ = command(*group.split(), "--help")
        listed = out.partition("\nCommands:\n")[2].partition("\n\n")[0].splitlines()
        assert listed
        assert [line for line in listed if line.endswith("...") or not line.startswith("  ")] == []
        assert [line for line in listed if line.startswith("    ")] == [], "a description takes two lines"


@leaves
def test_what_makes_or_deletes_has_a_dry_run(found: Found) -> None:
    assert ("--dry-run" in found.options) != (found.name in WITHOUT_DRY_RUN)


@leaves
def test_what_tells_something_has_json(found: Found) -> None:
    assert ("--json" in found.options) != (found.name in WITHOUT_JSON)


def test_exceptions_are_of_commands_that_exist() -> None:
    assert {*WITHOUT_DRY_RUN, *WITHOUT_JSON} <= {found.name for found in LEAVES}


@leaves
def test_what_means_the_same_is_called_the_same(found: Found) -> None:
    assert OTHER_NAMES.isdisjoint(found.options)
    for name, option in found.options.items():
        assert option.metavar in METAVARS.get(name, {option.metavar}), name
        assert option.help, name
        assert option.help.endswith(".") or option.show_default, name


def test_shared_options_are_listed() -> None:
    """An option that two commands have is one of those whose meaning is fixed, or takes the same in both."""
    seen: dict[str, set[str | None]] = {}
    for found in LEAVES:
        for name, option in found.options.items():
            seen.setdefault(name, set()).add(option.metavar)
    assert {name for name, metavars in seen.items() if len(metavars) > 1} <= {"--to"}


@everything
def test_a_misspelt_command_is_answered_with_the_near_one(command: CommandLine, found: Found) -> None:
    *group, name = found.name.split()
    code, out, err = command(*group, f"{name}x")
    assert (code, out) == (2, "")
    assert f"No such command '{name}x'" in err
    assert f"'{name}'" in err.partition("Did you mean")[2]


@leaves
def test_a_misspelt_option_is_answered_with_the_near_one(command: CommandLine, found: Found) -> None:
    longest = max(found.options, key=len)
    code, out, err = command(*found.name.split(), f"{longest}x")
    assert (code, out) == (2, "")
    assert f"No such option: {longest}x" in err
    assert longest in err.partition("Possible options:")[2] or f"Did you mean {longest}" in err


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A corpus, a feature store of two parts and a registry, at `corpus`, `store` and `registry/demo`."""
    write_labelled_corpus(Objects.open(tmp_path / "corpus"))
    for number, row in enumerate(example_features()[:2]):
        publish_example_part(Objects.open(tmp_path / "store"), f"part{number}", [row], "int8")
    registry = Registry(Objects.open(tmp_path).child("registry/demo"), now=lambda: "2026-01-02T03:04:05+00:00")
    for name, parent in (("a" * 64, None), ("b" * 64, 1)):
        facts = student_facts(name, parent, folder=str(tmp_path))
        publish(Objects.open(facts.checkpoint.url), Manifest("checkpoint", name, SCHEMA_VERSION, {}, {}, ()))
        version = registry.register(facts)
        registry.decide(version, True, ["it is better"], None if parent is None else comparison_with(parent))
    return tmp_path


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TELLING = {
    "corpus show": ("corpus", "show", "{w}/corpus", "--json"),
    "corpus export": ("corpus", "export", "{w}/corpus", "--format", "coco", "--to", "{w}/new", "--dry-run", "--json"),
    "features stat": ("features", "stat", "{w}/store", "--json"),
    "features verify": ("features", "verify", "{w}/store", "--json"),
    "features compact": ("features", "compact", "{w}/store", "--dry-run", "--json"),
    "features gc": ("features", "gc", "{w}/store", "--older-than-hours", "0", "--dry-run", "--json"),
    "features transcode": (
        *("features", "transcode", "{w}/store", "--codec", "int8", "--workspace", "{w}/runs", "--dry-run", "--json"),
    ),
    "registry show": ("registry", "show", "demo", "--workspace", "{w}", "--json"),
    "registry promote": ("registry", "promote", "demo", "1", "--workspace", "{w}", "--dry-run", "--json"),
    "registry rollback": ("registry", "rollback", "demo", "--workspace", "{w}", "--dry-run", "--json"),
    "registry mirror": (
        *("registry", "mirror", "demo", "--workspace", "{w}", "--to", "http://127.0.0.1:1", "--dry-run", "--json"),
    ),
    "runs list": ("runs", "list", "{w}", "--json"),
    "run": ("run", "smoke", "workspace={w}/runs", "--dry-run", "--json"),
    "curate": ("curate", "smoke", "workspace={w}/runs", "--dry-run", "--json"),
    "demo": ("demo", "--workspace", "{w}/runs", "--dry-run", "--json"),
    "retrain": ("retrain", "smoke", "workspace={w}/runs", "--dry-run", "--json"),
    "study": ("study", "ablation", "workspace={w}/runs", "--dry-run", "--json"),
    "submit": ("submit", "smoke", "workspace=/shared", "--dry-run", "--json"),
    "schedule": ("schedule", "smoke", "--cron", "@daily", "--dry-run", "--json"),
    "schedule on Kubernetes": (
        *("schedule", "smoke", "workspace=/shared", "kubernetes.image=a:1", "--kuberay", "--to", "{w}/new"),
        *("--dry-run", "--json"),
    ),
    "train-teacher": ("train-teacher", "tiny-sam2", "{w}/new", "--dry-run", "--json"),
    "doctor": ("doctor", "--workspace", "{w}", "--json"),
}
"""Command lines that are cheap enough to be run here, by what they show."""


@pytest.mark.parametrize("arguments", TELLING.values(), ids=TELLING)
def test_json_is_one_document_and_a_dry_run_leaves_everything(
    command: CommandLine, workspace: Path, arguments: tuple[str, ...]
) -> None:
    before = _files(workspace)
    code, out, _ = command(*(argument.format(w=workspace) for argument in arguments))
    assert code == 0
    document = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} isn't JSON"))
    assert isinstance(document, dict | list)
    if "--dry-run" in arguments:
        assert document["dry_run"] is True
    assert _files(workspace) == before


ABSENT = {
    "benchmark export": ("benchmark", "export", "{w}/none", "--to", "{w}/new"),
    "benchmark show": ("benchmark", "show", "{w}/none"),
    "compare": ("compare", "{w}/none", "{w}/none"),
    "corpus export": ("corpus", "export", "{w}/none", "--format", "hf", "--to", "{w}/new"),
    "corpus show": ("corpus", "show", "{w}/none"),
    "features compact": ("features", "compact", "{w}/none"),
    "features stat": ("features", "stat", "{w}/none"),
    "features verify": ("features", "verify", "{w}/none"),
    "forget": ("forget", "0" * 64, "--workspace", "{w}/none"),
    "lineage": ("lineage", "{w}/none/curate/0123"),
    "predict": ("predict", "{w}/none", "{w}/picture.png", "the ring"),
    "registry show": ("registry", "show", "none", "--workspace", "{w}"),
    "runs show": ("runs", "show", "{w}/none"),
    "view": ("view", "{w}/none"),
}
"""Command lines with the address of an output that isn't there."""


@pytest.mark.parametrize("arguments", ABSENT.values(), ids=ABSENT)
def test_an_output_that_is_not_there_is_exit_code_4(
    command: CommandLine, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    code, out, err = command(*(argument.format(w=tmp_path) for argument in arguments))
    assert (code, out) == (4, "")
    assert err.startswith("error: ")
    assert "none" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_script(shell: str) -> None:
    environment = {"_SAILLOFT_COMPLETE": f"source_{shell}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from jobs.cli import main; sys.exit(main())"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert "sailloft" in done.stdout
    assert f"complete_{shell}" in done.stdout
