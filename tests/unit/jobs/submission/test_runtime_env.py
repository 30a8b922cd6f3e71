"""Runtime environments that a job may bring: libraries, no working directory and no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.submission.runtime_env import packaged_runtime_envs, read_runtime_env
from storage.errors import UsageError


@pytest.mark.parametrize("name", ["sam2", "detectron2"])
def test_packaged_ones_are_known_by_name(name: str) -> None:
    assert set(packaged_runtime_envs()) == {"sam2", "detectron2"}
    assert read_runtime_env(name)["pip"]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "libraries.yaml"
    path.write_text("pip: [timm]\nenv_vars: {SAM2_BUILD_CUDA: '0'}\n")
    assert read_runtime_env(str(path)) == {"pip": ["timm"], "env_vars": {"SAM2_BUILD_CUDA": "0"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("working_dir: .", "working_dir: the working directory is Sailloft's; give your modules by --code"),
        ("py_modules: [./mine, s3://bucket/x.zip]", r"expected URLs, got \./mine of this machine"),
        ("env_vars: {HF_TOKEN: abc, A: b}", "expected no secrets by value, got HF_TOKEN; pass them on"),
        (
            "pip: [--extra-index-url https://ci:hush@index/simple, timm]",
            r"pip\.0: expected no secret, got a user or password in a URL; whoever may use the cluster's dashboard",
        ),
        ("pip: ['mine @ git+https://hush@host/mine.git']", r"pip\.0: expected no secret"),
        ("env_vars: {A: 1}", "runtime environment .*: .*env_vars"),
        ("{pip: [timm], conda: base}", "runtime environment .*: .*pip"),
        ("pip: [timm", "isn't valid YAML"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "libraries.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_runtime_env(str(path))
    assert "hush" not in str(caught.value)


def test_an_absent_file_is_told_with_the_known_names() -> None:
    with pytest.raises(UsageError, match="expected a YAML file or one of detectron2, sam2, found neither"):
        read_runtime_env("sam3")
