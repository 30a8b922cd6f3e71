"""The five package names and `sailloft` are ours: nothing else that is installed may own them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import sailloft

ROOT = Path(sailloft.__file__).resolve().parent


@pytest.mark.parametrize("name", [*sailloft.PACKAGES, "sailloft"])
def test_no_other_distribution_owns_the_name(name: str) -> None:
    owners = set(metadata.packages_distributions().get(name, []))
    assert owners <= {"sailloft"}


def run_python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter outside the repository, with `path` before our packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", sailloft.PACKAGES)
def test_a_package_that_shadows_ours_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    result = run_python("import sailloft; sailloft.Sample", tmp_path)
    assert result.returncode == 1
    assert f"package '{name}': expected Sailloft's own at {ROOT / name}, found {tmp_path / name}" in result.stderr


def test_a_plain_module_that_shadows_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    result = run_python("import sailloft, sys; sys.exit(sailloft.main())", tmp_path)
    assert result.returncode == 4
    assert "package 'model': expected Sailloft's own" in result.stderr
    assert "Traceback" not in result.stderr


def test_public_names_are_imported_when_first_used(tmp_path: Path) -> None:
    code = "import sailloft, sys; print([name for name in ('torch', 'ray', *sailloft.PACKAGES) if name in sys.modules])"
    result = run_python(code, tmp_path)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("name", sorted(set(sailloft.__all__)))
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(sailloft, name) is not None
    assert name in dir(sailloft)


def test_an_unknown_public_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"has no 'open_feature'; it offers .*open_features"):
        sailloft.open_feature  # noqa: B018 (the access is the test)
