"""Rules on paths are git's: `git check-ignore` decides the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.submission.ignore_rules import decide, parse_rules

PATHS = ("a", "b.log", "a/b", "a/b.log", "a/b/c.log", "keep/a", "x/keep/a.py", "[z", "a b ", "x/#c", "!d")
RULES = (
    "*.log", "a", "a/", "/a", "a/b", "**/b", "a/**", "a/**/c.log", "keep/*", "!keep", "!*.py", "x/", "?", "[ab]*",
    "[!a]", "# a", "", "a b\\ ", "a b ", "\\#c", "\\!d", "[z", "*", "!a/b.log", "/**/a.py", "x/*/a.py", "**",
)  # fmt: skip


def left_out(lines: list[str], path: str) -> bool:
    """Whether the rules leave a file out, or one of the folders that it lies in."""
    rules = parse_rules(lines)
    parts = path.split("/")
    return any(
        decide(rules, "/".join(parts[:number]), is_folder=number < len(parts)) is not None
        for number in range(1, len(parts) + 1)
    )


def ignored_by_git(repository: Path, lines: list[str]) -> set[str]:
    (repository / ".gitignore").write_text("\n".join(lines) + "\n")
    command = ["git", "check-ignore", "--no-index", "--stdin", "-z"]
    found = subprocess.run(
        command, cwd=repository, input="\0".join(PATHS) + "\0", capture_output=True, text=True, check=False
    )
    assert found.returncode in {0, 1}, found.stderr
    return set(found.stdout.split("\0")) - {""}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("no git to compare with")
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_gits(repository: Path, rule: str) -> None:
    assert {path for path in PATHS if left_out([rule], path)} == ignored_by_git(repository, [rule])


@settings(max_examples=30)
@given(st.lists(st.sampled_from(RULES), max_size=5))
def test_rules_in_any_order_are_gits(repository: Path, lines: list[str]) -> None:
    assert {path for path in PATHS if left_out(lines, path)} == ignored_by_git(repository, lines)
