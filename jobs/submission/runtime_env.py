"""Ray runtime environments: libraries that a job lays over those of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from jobs.loading import read_yaml
from jobs.secret_marks import refuse_secret_names, refuse_secrets
from storage.errors import UsageError

__all__ = ["RUNTIME_ENVS_FOLDER", "packaged_runtime_envs", "read_runtime_env"]

RUNTIME_ENVS_FOLDER = Path(__file__).parents[1] / "runtime_envs"
"""Folder of those that come with the package."""

_OURS = ("working_dir", "excludes")


def packaged_runtime_envs() -> dict[str, Path]:
    """Runtime environments that come with the package: name to file."""
    return {path.stem: path for path in sorted(RUNTIME_ENVS_FOLDER.glob("*.yaml"))}


def read_runtime_env(name: str) -> dict[str, object]:
    """A runtime environment as plain data, such as Ray takes it.

    Args:
        name: path of a YAML file, or of one that comes with the package, such as `sam2`.

    Raises:
        UsageError: no such file, a working directory, modules of this machine (those travel by `--code`), secrets
            among its variables or in URLs, or anything else that Ray refuses.
    """
    packaged = packaged_runtime_envs()
    path = packaged.get(name, Path(name))
    if not path.is_file():
        raise UsageError(f"--runtime-env {name}: expected a YAML file or one of {', '.join(packaged)}, found neither")
    content = read_yaml(path)
    for key in _OURS:
        if key in content:
            raise UsageError(
                f"runtime environment {path}: {key}: the working directory is Sailloft's; give your modules by --code"
            )
    modules = content.get("py_modules") or []
    local = [str(item) for item in cast("list[object]", modules) if not urlsplit(str(item)).scheme]
    if local:
        raise UsageError(
            f"runtime environment {path}: py_modules: expected URLs, got {', '.join(local)} of this machine; "
            "give your modules by --code"
        )
    refuse_secret_names(
        cast("Mapping[str, object]", content.get("env_vars") or {}),
        f"runtime environment {path}: env_vars",
        "pass them on from your environment, by --env NAME",
    )
    refuse_secrets(
        content,
        f"runtime environment {path}",
        "whoever may use the cluster's dashboard reads it: let the nodes bring their own (pip.conf, .netrc)",
    )
    _check(path, content)
    return content


def _check(path: Path, content: Mapping[str, object]) -> None:
    from ray.runtime_env import RuntimeEnv

    fields = cast("dict[str, Any]", content)
    try:
        RuntimeEnv(**fields)
    except (TypeError, ValueError) as error:
        raise UsageError(f"runtime environment {path}: {error}") from error
