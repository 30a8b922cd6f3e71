"""The Ray runtime environments of the official teacher backends are ones that Ray accepts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "jobs" / "runtime_envs"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def requirements(packages: list[str]) -> dict[str, SpecifierSet]:
    """Version ranges by name; packages from a repository have none."""
    named = [Requirement(package) for package in packages if not package.startswith("git+")]
    return {requirement.name: requirement.specifier for requirement in named}


def test_both_backends_have_one() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {"sam2", "detectron2"}


@pytest.mark.parametrize("name", ["sam2", "detectron2"])
def test_ray_accepts_it(name: str) -> None:
    content = read(name)
    environment = RuntimeEnv(**content)
    assert environment.pip_config()["packages"] == content["pip"]["packages"]
    assert RuntimeEnv.deserialize(environment.serialize()).to_dict() == environment.to_dict()


@pytest.mark.parametrize("name", ["sam2", "detectron2"])
def test_it_agrees_with_the_extra_of_the_same_name(name: str) -> None:
    extra, packages = requirements(EXTRAS[name]), requirements(read(name)["pip"]["packages"])
    assert set(extra) <= set(packages)
    for package, versions in extra.items():
        # A pinned version lies in the extra's range; a range is the same one.
        pins = [part.version for part in packages[package] if part.operator == "=="]
        assert all(version in versions for version in pins) if pins else packages[package] == versions, package


@pytest.mark.parametrize("name", ["sam2", "detectron2"])
def test_torchvision_belongs_to_the_pinned_torch(name: str) -> None:
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    minor = int(torch.removeprefix("torch==2.").split(".")[0])
    # torchvision 0.(n + 15) has belonged to torch 2.n since torch 2.0.
    assert str(requirements(read(name)["pip"]["packages"])["torchvision"]) == f"==0.{minor + 15}.0"


def test_the_two_do_not_go_together() -> None:
    first, second = (requirements(read(name)["pip"]["packages"])["iopath"] for name in ("sam2", "detectron2"))
    assert not any(version in first and version in second for version in ("0.1.7", "0.1.9", "0.1.10", "0.2.0"))
