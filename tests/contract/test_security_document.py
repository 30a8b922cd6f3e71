"""docs/security.md names tests for every threat, and each of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/security.md"
NAMED = re.compile(r"^- `(?P<path>tests/[\w/]+\.py)::(?P<name>test_\w+)`$")


def threats(text: str) -> dict[str, list[str]]:
    """Lines of each section of the part on threats, by its title."""
    part = re.search(r"^## Threats\n(.*?)(?=^## )", text, flags=re.DOTALL | re.MULTILINE)
    assert part is not None, "a part `## Threats` with another one behind it"
    titles = re.split(r"^### (.+)\n", part[1], flags=re.MULTILINE)[1:]
    return {
        title: [line for line in body.splitlines() if line.startswith("- ")]
        for title, body in zip(titles[::2], titles[1::2], strict=True)
    }


@cache
def collected(path: Path) -> frozenset[str]:
    """Names that pytest collects of a file: functions of the module, not those inside others."""
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def wrong(text: str, root: Path = ROOT) -> list[str]:
    """What is wrong with the tests that a document names."""
    found = [f"{title}: names no test" for title, lines in threats(text).items() if not lines]
    for title, lines in threats(text).items():
        for line in lines:
            named = NAMED.match(line)
            if named is None:
                found.append(f"{title}: {line}: expected `tests/PATH.py::NAME`")
            elif named["name"] not in collected(root / named["path"]):
                found.append(f"{title}: {named['path']} has no {named['name']}")
    return found


def test_every_threat_names_tests_that_exist() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert len(threats(text)) >= 18
    assert wrong(text) == []


def test_no_test_is_named_twice() -> None:
    lines = [line for named in threats(DOCUMENT.read_text(encoding="utf-8")).values() for line in named]
    assert len(lines) == len(set(lines))


def test_every_test_of_what_is_read_back_and_of_hostile_checkpoints_is_named() -> None:
    """These modules are about security alone."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in ("test_hostile_checkpoints.py", "test_stored_paths.py", "test_tls.py"):
        path = ROOT / "tests/contract" / name
        assert {test for test in collected(path) if f"tests/contract/{name}::{test}`" not in text} == set()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("Words.\n", "Pickles: names no test"),
        ("- `tests/a.py::test_absent`\n", "Pickles: tests/a.py has no test_absent"),
        ("- `tests/absent.py::test_there`\n", "Pickles: tests/absent.py has no test_there"),
        ("- `tests/a.py::test_inner`\n", "Pickles: tests/a.py has no test_inner"),
        ("- `tests/a.py::helper`\n", "Pickles: - `tests/a.py::helper`: expected"),
        ("- tests/a.py\n", "Pickles: - tests/a.py: expected"),
    ],
)
def test_what_is_wrong_is_told(section: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/a.py").write_text(
        "def test_there():\n    def test_inner(): ...\ndef helper(): ...\nclass A:\n    def test_inner(self): ...\n"
    )
    text = f"# S\n\n## Threats\n\n### Pickles\n\n{section}\n### YAML\n\n- `tests/a.py::test_there`\n\n## Rest\n"
    (told,) = wrong(text, tmp_path)
    assert told.startswith(message)
