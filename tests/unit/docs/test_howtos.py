"""docs/howto/new-teacher.md and docs/howto/new-family.md: followed to the letter, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import sailloft
from tests.readme_blocks import Block, read_blocks

_ROOT = Path(__file__).resolve().parents[3]
_OURS = "tested: tests/unit/docs/test_howtos.py"


def _copy(folder: Path, changed: Sequence[str]) -> None:
    """Lays out the repository: folders that are changed as copies, everything else as links."""
    for path in _ROOT.iterdir():
        if path.name in changed:
            ignored = shutil.ignore_patterns("__pycache__", "weights", "data")
            shutil.copytree(path, folder / path.name, ignore=ignored)
        elif path.name in ("sailloft.py", "pyproject.toml", "docs", *sailloft.PACKAGES):
            (folder / path.name).symlink_to(path)


def _apply(block: Block, folder: Path) -> None:
    """Writes the file that a block is, or puts the lines of a diff below the one that stands above them."""
    assert block.title is not None
    path = folder / block.title
    if block.language == "python":
        assert not path.exists()
        path.write_text(block.code)
        return
    above, *added = block.code.splitlines()
    assert above.startswith(" ")
    assert all(line.startswith("+") for line in added)
    lines = path.read_text().splitlines()
    assert lines.count(above[1:]) == 1, f"{block.title}: no longer has {above[1:]!r}"
    place = lines.index(above[1:]) + 1
    path.write_text("\n".join([*lines[:place], *(line[1:] for line in added), *lines[place:], ""]))


def _arguments(block: Block) -> list[str]:
    """What `make test ARGS="..."` hands to pytest."""
    found = re.fullmatch(r'make test ARGS="(.*)"\n', block.code)
    assert found is not None
    return shlex.split(found[1])


@pytest.mark.parametrize(
    ("page", "changed", "num_tests"),
    [
        ("docs/howto/new-teacher.md", ("teachers", "tests"), 10),
        ("docs/howto/new-family.md", ("pipelines", "tests"), 8),
    ],
)
def test_what_the_page_says_passes_the_contract(
    page: str, changed: Sequence[str], num_tests: int, tmp_path: Path
) -> None:
    _copy(tmp_path, changed)
    *changes, command = [block for block in read_blocks((_ROOT / page).read_text()) if block.mark == _OURS]
    for block in changes:
        _apply(block, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *_arguments(command)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{num_tests} passed" in result.stdout
