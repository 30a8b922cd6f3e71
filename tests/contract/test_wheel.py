"""The wheel: exactly the five packages and `sailloft.py`, and it works where the sources aren't."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import sailloft

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command without our sources on the path; its standard output.

    Raises:
        AssertionError: the command failed; the message holds both its streams.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean virtual environment with the wheel; the dependencies are lent by this one.

    They are lent through a path file, which unlike a site directory doesn't pass on other path
    files, so that the editable installation of this repository stays out.
    """
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_the_five_packages_and_one_module(wheel: Path) -> None:
    assert {name.split("/")[0] for name in files(wheel)} == {*sailloft.PACKAGES, "sailloft.py"}


def test_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for package in sailloft.PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files(wheel) == on_disk | {"sailloft.py"}
    assert any(name.startswith("jobs/recipes/") and name.endswith(".yaml") for name in on_disk)
    assert any(name.startswith("jobs/studies/") and name.endswith(".yaml") for name in on_disk)


def test_wheel_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        assert len(names) == 1
        assert archive.read(names[0]) == (ROOT / "LICENSE").read_bytes()


def test_installed_command_knows_its_subcommands(installed: Path, tmp_path: Path) -> None:
    output = run(installed.parent / "sailloft", "--help", cwd=tmp_path)
    assert "demo" in output
    assert "train" in output


def test_installed_packages_are_the_wheels_own(installed: Path, tmp_path: Path) -> None:
    code = "import sailloft; sailloft.check_packages(); print(sailloft.__file__); print(sailloft.open_features)"
    origin, function = run(installed, "-c", code, cwd=tmp_path).splitlines()
    assert Path(origin).is_relative_to(installed.parent.parent)
    assert "open_features" in function
