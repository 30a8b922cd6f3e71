"""`sailloft registry`: what the commands show and leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from storage.errors import ObjectNotFound, UsageError
from storage.manifest import MANIFEST_NAME, Manifest, publish
from storage.objects import Objects
from storage.registry import Registry
from storage.schema import SCHEMA_VERSION
from tests.registries import check_history, comparison_with, student_facts


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The first version was the champion, the second one is, the third was refused."""
    registry = Registry(Objects.open(tmp_path).child("registry/demo"), now=lambda: "2026-01-02T03:04:05+00:00")
    for name, parent in (("a" * 64, None), ("b" * 64, 1), ("c" * 64, 2)):
        facts = student_facts(name, parent, folder=str(tmp_path))
        publish(Objects.open(facts.checkpoint.url), Manifest("checkpoint", name, SCHEMA_VERSION, {}, {}, ()))
        version = registry.register(facts)
        comparison = None if parent is None else comparison_with(parent)
        registry.decide(version, parent != 2, [f"because of {name[0]}"], comparison)
    return registry


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["registry", *arguments])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def test_show(registry: Registry, tmp_path: Path) -> None:
    lines = _run("show", registry.url).splitlines()
    assert lines[:3] == [
        f"{registry.url}: 3 versions, 6 events",
        f"  champion: version 2, {tmp_path}/train/{'b' * 64}",
        f"  challenger: version 3, {tmp_path}/train/{'c' * 64}",
    ]
    assert lines[4].split() == ["version", "from", "checkpoint", "corpus", "code", "now"]
    assert [line.split()[0:3] for line in lines[5:8]] == [
        *(["1", "-", "a" * 12], ["2", "1", "b" * 12], ["3", "2", "c" * 12])
    ]
    assert [line.split(maxsplit=5)[5] for line in lines[5:8]] == ["former champion", "champion", "challenger refused"]
    assert lines[-1] == "    6  2026-01-02T03:04:05+00:00  refused           3  because of c"
    assert _run("show", "demo", "--workspace", str(tmp_path)).splitlines() == lines


def test_show_as_json(registry: Registry) -> None:
    shown = json.loads(_run("show", registry.url, "--json"))
    assert (shown["url"], shown["aliases"]) == (registry.url, {"champion": 2, "challenger": 3})
    assert [version["checkpoint"]["key"][0] for version in shown["versions"]] == ["a", "b", "c"]
    assert shown["events"][-1]["comparison"]["figures"][0]["low"] == 0.03
    assert shown["events"][-1]["happening"] == "refused"


def test_roll_back_and_promote(registry: Registry, tmp_path: Path) -> None:
    shown = _run("rollback", registry.url, "--reason", "wrong on night scenes")
    assert shown == f"version 1 rolled back: wrong on night scenes\nchampion: version 1, {tmp_path}/train/{'a' * 64}\n"
    event = json.loads(_run("promote", "demo", "3", "--workspace", str(tmp_path), "--json"))
    assert (event["version"], event["reasons"], event["aliases"]) == (3, ["by hand"], {"champion": 3})
    check_history(registry.history())


def test_what_cannot_be_done_is_told_and_leaves_all_as_it_is(registry: Registry, tmp_path: Path) -> None:
    before = registry.state()
    with pytest.raises(UsageError, match=r"no version 9; found versions 1 to 3"):
        _run("promote", registry.url, "9")
    with pytest.raises(UsageError, match=r"version 2 is the champion already"):
        _run("promote", registry.url, "2")
    for number, letter in ((3, "c"), (1, "a")):
        Objects.open(registry.version(number).checkpoint.url).delete(MANIFEST_NAME)
        with pytest.raises(
            UsageError, match=rf"version {number}: expected a checkpoint at .*{letter * 64}, found none"
        ):
            _run(*(("promote", registry.url, "3") if number == 3 else ("rollback", registry.url)))
    with pytest.raises(ObjectNotFound, match=r"registry/other: expected a registry, .*; this workspace has demo;"):
        _run("show", "other", "--workspace", str(tmp_path))
    with pytest.raises(ObjectNotFound, match=r"nothing registered there; give <workspace>/registry/<name>"):
        _run("show", str(tmp_path / "absent"))
    assert registry.state() == before
