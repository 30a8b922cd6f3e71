"""What `sailloft doctor` makes of a machine."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from jobs import machine_checks as module
from jobs.doctor import machine_text
from jobs.machine_checks import (
    EXTRAS,
    Check,
    Health,
    check_extras,
    check_files,
    check_home,
    check_libraries,
    check_memory,
    check_python,
    check_ray,
    check_shared_memory,
    check_temporary,
    check_torch,
    check_workspace,
)

GIB = 2**30


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Pretends that every disk has so many GiB, and so many of them free."""

    def pretend(total_gib: float, free_gib: float) -> None:
        usage = types.SimpleNamespace(total=int(total_gib * GIB), free=int(free_gib * GIB))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return pretend


@pytest.mark.parametrize(
    ("gib", "health"), [(1.5, Health.PROBLEM), (4.0, Health.WARNING), (16.0, Health.OK), (300.0, Health.OK)]
)
def test_memory(gib: float, health: Health) -> None:
    check = check_memory(gib)
    assert check.health is health
    assert (check.remedy is None) == (health is Health.OK)


@pytest.mark.parametrize(("limit", "health"), [(1024, Health.WARNING), (65536, Health.OK), (None, Health.OK)])
def test_open_files(limit: int | None, health: Health) -> None:
    assert check_files(limit).health is health
    assert health is Health.OK or "ulimit -Hn" in (check_files(limit).remedy or "")


def test_shared_memory(tmp_path: Path, space: Callable[[float, float], None]) -> None:
    space(0.0625, 0.0625)  # what docker gives by default
    check = check_shared_memory(tmp_path, 16)
    assert check.health is Health.WARNING
    assert "docker run --shm-size=5g" in (check.remedy or "")
    space(8, 8)
    assert check_shared_memory(tmp_path, 16).health is Health.OK
    assert check_shared_memory(tmp_path / "absent", 16).health is Health.OK


def test_temporary_files(
    tmp_path: Path, space: Callable[[float, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    space(100, 50)
    assert check_temporary(tmp_path).health is Health.OK
    space(100, 4)  # Ray stops at 95 % of the disk, whatever is left
    assert check_temporary(tmp_path).health is Health.WARNING
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert check_temporary(tmp_path).health is Health.PROBLEM


@pytest.mark.parametrize(("free_gib", "health"), [(100, Health.OK), (3, Health.WARNING), (0.1, Health.PROBLEM)])
def test_space_of_a_workspace_that_is_not_there_yet(
    free_gib: float, health: Health, tmp_path: Path, space: Callable[[float, float], None]
) -> None:
    space(1000, free_gib)
    check = check_workspace(str(tmp_path / "a/b/runs"))
    assert check.health is health
    assert str(tmp_path / "a/b/runs") in check.found
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_cant_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert check_workspace(str(tmp_path / "file/runs")).health is Health.PROBLEM

    def refuse(dir: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check = check_workspace(str(tmp_path))
    assert (check.health, check.found) == (Health.PROBLEM, f"{tmp_path} can't be written: Permission denied")


def test_a_workspace_of_an_object_store(closed_port: int, s3_variables: Callable[..., None]) -> None:
    assert check_workspace("memory://doctor").health is Health.OK
    assert check_workspace("nonsense://x").health is Health.PROBLEM
    s3_variables(
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
        AWS_REGION="c",
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{closed_port}",
    )
    from storage.object_clients import finding_out_early

    with finding_out_early():
        check = check_workspace("s3://bucket/prefix")
    assert check.health is Health.PROBLEM
    assert "the connection is refused" in check.found


def test_home(tmp_path: Path) -> None:
    assert check_home(tmp_path).health is Health.OK
    assert check_home(tmp_path / "not yet").health is Health.OK
    assert check_home(Path("/proc/self/absent")).found == "/proc/self/absent can't be written"


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_libraries("no-such-distribution")[0].health is Health.WARNING
    needed = ["pydantic>=2", "numpy>=99", "no-such-package>=1", "peft; extra == 'lora'"]
    monkeypatch.setattr(module, "requires", lambda name: needed)
    found = check_libraries()
    assert [check.health for check in found] == [Health.PROBLEM, Health.PROBLEM]
    assert found[1].found == "no-such-package>=1: found nothing"
    assert found[1].remedy == "pip install 'no-such-package>=1'"


def test_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_torch()
    assert check.health in (Health.OK, Health.WARNING)
    assert "build for" in check.found
    torch: Any = sys.modules["torch"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "nvidiactl")
    assert check_torch().health is Health.WARNING
    monkeypatch.setitem(sys.modules, "torch", cast("Any", None))
    broken = check_torch()
    assert (broken.health, broken.remedy) == (
        Health.PROBLEM,
        "install it again: pip install --force-reinstall torch",
    )


def test_python_and_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sys.prefix in check_python().found
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "starts a session on this machine" in check_ray().found
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert "joins the cluster at ray://head:10001" in check_ray().found


def test_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "uvicorn" else object())
    found = {check.name: check for check in check_extras()}
    assert found["[view]"].health is Health.OPTIONAL
    assert found["[view]"].remedy == "if you want it: pip install 'sailloft[view]'"
    assert found["[lora]"].health is Health.OK


def test_extras_are_those_of_the_distribution() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    for_users = set(project["optional-dependencies"]) - {"dev", "s3test", "docs"}
    assert {extra.name for extra in EXTRAS} == for_users


def test_the_text_has_the_remedy_below_and_a_conclusion() -> None:
    checks = [Check("memory", Health.OK, "16 GiB"), Check("home", Health.PROBLEM, "HOME isn't set", "set HOME")]
    lines = machine_text(checks)
    assert lines[:3] == ["ok        memory  16 GiB", "problem   home    HOME isn't set", " " * 18 + "set HOME"]
    assert lines[-1].startswith("this machine has a problem")
    assert machine_text(checks, coloured=True)[1].startswith("\x1b[31mproblem ")
    assert machine_text(checks[:1])[-1] == "this machine is fit; begin with `sailloft demo`"
