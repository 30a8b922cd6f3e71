"""What the repository promises about itself: doctests hold, files stay small, pins cover ranges."""

from __future__ import annotations

import doctest
import importlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sailloft

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for package in sailloft.PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
MAX_MODULE_LINES = 600


def dotted(path: Path) -> str:
    """`storage/keys.py` as `storage.keys`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", [path for path in MODULES if ">>> " in path.read_text()], ids=dotted)
def test_doctests_hold(path: Path) -> None:
    results = doctest.testmod(importlib.import_module(dotted(path)))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("path", [path for path in MODULES if path.stat().st_size], ids=dotted)
def test_module_is_described_and_stays_readable(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""'), "a module opens with what it is for"
    assert text.count("\n") <= MAX_MODULE_LINES


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES}
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()


def test_unit_tests_mirror_the_packages() -> None:
    folders = {path.parent.relative_to(ROOT / "tests" / "unit").as_posix() for path in TESTS if "unit" in path.parts}
    assert {folder for folder in folders if not (ROOT / folder).is_dir()} == set()


def pins() -> dict[str, str]:
    """Name to version, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    """All that pyproject.toml asks for, the build and extras too, but for extras that can't share an environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    apart = {item["extra"] for group in project["tool"]["uv"]["conflicts"] for item in group}
    extras = [x for name, x in project["project"]["optional-dependencies"].items() if name not in apart]
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"], *(x for e in extras for x in e)]
    return [requirement for line in lines if (requirement := Requirement(line)).name != "sailloft"]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_pin_lies_in_the_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_pins_are_names_and_versions_alone() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_make_targets_named_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    pattern = re.compile(r"(?:^|`)make ([a-z-]+)", flags=re.MULTILINE)
    named = {name for path in documents for name in pattern.findall(path.read_text())}
    assert named <= targets
    assert {"demo", "test"} <= named


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{path.name}: {link}"
        for path in documents
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
        if not (path.parent / link).exists()
    ]
    assert broken == []
