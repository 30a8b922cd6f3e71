"""The user's own code that travels with a job: plugin modules, without data, weights, secrets and environments."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import sailloft
from jobs.secret_marks import SECRET_FILES, find_secret
from jobs.submission.ignore_rules import IgnoreRule, decide, parse_rules
from storage.errors import UsageError
from storage.keys import bytes_key, content_key

__all__ = ["RECIPE_NAME", "CarriedFile", "CodeFolder", "KeptOut", "gather_code"]

RECIPE_NAME = "recipe.yaml"
"""The job's own file in its working directory."""

_NEVER = (
    ".git", ".hg/", ".svn/", "__pycache__/", "*.pyc", ".venv", "venv/", "node_modules/", ".ipynb_checkpoints/",
    ".pytest_cache/", ".ruff_cache/", ".mypy_cache/", ".hypothesis/", ".tox/", ".nox/", ".idea/", ".vscode/",
    ".DS_Store",
)  # fmt: skip
_DATA = (
    "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "*.onnx", "*.gguf", "*.pkl", "*.pickle", "*.p",
    "*.parquet", "*.arrow", "*.feather", "*.h5", "*.hdf5", "*.npy", "*.npz", "*.zarr/", "*.tfrecord", "*.sqlite",
    "*.db", "*.zip", "*.tar", "*.tar.*", "*.tgz", "*.gz", "*.bz2", "*.xz", "*.zst", "*.7z", "*.whl",
    "*.jpg", "*.jpeg", "*.png", "*.gif", "*.tif", "*.tiff", "*.bmp", "*.webp", "*.mp4", "*.mov",
    "/runs/", "/data/", "/datasets/", "/checkpoints/", "/outputs/", "/wandb/", "/mlruns/", "/build/", "/dist/", "*.log",
)  # fmt: skip
_IGNORE_FILES = (".gitignore", ".rayignore")
_MIB = 2**20
_NUM_NAMED = 5
_RESERVED = {RECIPE_NAME, "sailloft.py", *sailloft.PACKAGES}


@dataclass(frozen=True, slots=True)
class CarriedFile:
    """A file that travels."""

    path: str
    """In the job's working directory, with `/` between parts."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class KeptOut:
    """A file or a folder, with all it holds, that stays."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class CodeFolder:
    """What travels of a folder, and what doesn't."""

    root: Path
    """What becomes the job's working directory: the folder, or its `src`."""
    files: tuple[CarriedFile, ...]
    kept_out: tuple[KeptOut, ...]
    declared: tuple[tuple[str, str], ...]
    """Files that are written for the job, with their text: the entry points that `pyproject.toml` declares, where
    Python looks for those of an installed distribution."""

    @property
    def size_bytes(self) -> int:
        """Bytes that travel."""
        return sum(file.size_bytes for file in self.files)

    @property
    def key(self) -> str:
        """Content key of all that travels."""
        files = {file.path: bytes_key((self.root / file.path).read_bytes()) for file in self.files}
        return content_key({**files, **{path: bytes_key(text.encode()) for path, text in self.declared}})

    def write(self, target: Path) -> None:
        """Copies what travels into a folder."""
        for file in self.files:
            place = target / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / file.path, place)
        for path, text in self.declared:
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")


def gather_code(folder: Path, limit_mib: float) -> CodeFolder:
    """Decides what of a folder travels with a job.

    Data, weights, pictures and archives stay unless the folder's `.rayignore` takes them back (`!small.npz`);
    what holds secrets by its name, version control, caches and environments always stay. `.gitignore` and
    `.rayignore` of the folder are honoured. Links stay.

    Args:
        folder: holds modules as they are imported, or a `pyproject.toml` with a `src`.
        limit_mib: upper bound of what travels.

    Raises:
        UsageError: no folder, nothing that travels, more than the limit, a name that Sailloft needs itself, or a
            file whose text holds a secret.
    """
    if not folder.is_dir():
        raise UsageError(f"--code {folder}: expected a folder, found none")
    project = _read_project(folder)
    root = folder / "src" if project and (folder / "src").is_dir() else folder
    rules = _Rules.of(folder, root)
    files: list[CarriedFile] = []
    kept_out: list[KeptOut] = []
    for path, reason in _walk(root, rules):
        if reason is None:
            files.append(CarriedFile(path, (root / path).stat().st_size))
        else:
            kept_out.append(KeptOut(path, reason))
    code = CodeFolder(root, tuple(files), tuple(kept_out), tuple(_entry_points(project, folder)))
    _check(code, folder, limit_mib)
    return code


def _check(code: CodeFolder, folder: Path, limit_mib: float) -> None:
    if not code.files:
        raise UsageError(f"--code {folder}: nothing in it travels; see --dry-run for what is kept out, and why")
    reserved = sorted({file.path.partition("/")[0] for file in code.files} & _RESERVED)
    if reserved:
        raise UsageError(
            f"--code {folder}: {', '.join(reserved)} would stand in the way of Sailloft's own; rename it, or give the "
            "folder that holds your modules alone"
        )
    if code.size_bytes > limit_mib * _MIB:
        largest = sorted(code.files, key=lambda file: -file.size_bytes)[:_NUM_NAMED]
        named = ", ".join(f"{file.path} {file.size_bytes / _MIB:.1f} MiB" for file in largest)
        raise UsageError(
            f"--code {folder}: {code.size_bytes / _MIB:.1f} MiB would travel, at most {limit_mib:g} may; the largest: "
            f"{named}; list what isn't code in .rayignore, or raise --code-limit-mib"
        )
    for file in code.files:
        found = find_secret((code.root / file.path).read_bytes())
        if found is not None:
            raise UsageError(
                f"--code {folder}: {file.path}, line {found[1]}, looks like {found[0]}; nothing was sent. Take it from "
                "the environment (--env NAME), or list the file in .rayignore"
            )


@dataclass(frozen=True, slots=True)
class _Rules:
    """Rules in the order in which they are asked, each with what it says of a path that it leaves out."""

    never: tuple[tuple[str, list[IgnoreRule]], ...]
    usual: tuple[tuple[str, list[IgnoreRule]], ...]
    """Later ones may take back what earlier ones left out."""

    @classmethod
    def of(cls, folder: Path, root: Path) -> _Rules:
        never = (("a secret by its name", parse_rules(SECRET_FILES)), ("no code", parse_rules(_NEVER)))
        own = [
            (f"{path.name}", parse_rules(path.read_text(encoding="utf-8", errors="replace").splitlines()))
            for place in dict.fromkeys((folder, root))
            for name in _IGNORE_FILES
            if (path := place / name).is_file()
        ]
        return cls(never, (("data or weights", parse_rules(_DATA)), *own))

    def reason(self, path: str, is_folder: bool) -> str | None:
        """Why a path stays; None: it travels."""
        for why, rules in self.never:
            if decide(rules, path, is_folder) is not None:
                return why
        for why, rules in reversed(self.usual):
            matching = [rule for rule in rules if rule.matches(path, is_folder)]
            if matching:
                return None if matching[-1].keeps else f"{why}: {matching[-1].text}"
        return None


def _walk(root: Path, rules: _Rules) -> Iterator[tuple[str, str | None]]:
    """Files below a folder and why each stays, if it does; a folder that stays comes as one."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for entry in sorted(os.scandir(root / prefix), key=lambda entry: entry.name):
            path = f"{prefix}{entry.name}"
            if entry.is_symlink():
                yield path, "a link"
            elif entry.is_dir():
                reason = rules.reason(path, is_folder=True)
                if reason is None and (root / path / "pyvenv.cfg").is_file():
                    reason = "a virtual environment"
                if reason is None:
                    waiting.append(f"{path}/")
                else:
                    yield f"{path}/", reason
            elif not entry.is_file():
                yield path, "no file"
            elif entry.name in _IGNORE_FILES:
                continue
            else:
                yield path, rules.reason(path, is_folder=False)


def _read_project(folder: Path) -> dict[str, object]:
    """The table `project` of a folder's `pyproject.toml`; empty without one."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--code {folder}: pyproject.toml can't be read: {error}") from error
    return cast("dict[str, object]", table)


def _entry_points(project: dict[str, object], folder: Path) -> Iterator[tuple[str, str]]:
    """Metadata of an installed distribution with the entry points of Sailloft's groups, if any are declared."""
    groups = cast("dict[str, dict[str, str]]", project.get("entry-points", {}))
    ours = {group: points for group, points in sorted(groups.items()) if group.startswith("sailloft.")}
    if not ours:
        return
    name, version = str(project.get("name", folder.resolve().name)), str(project.get("version", "0"))
    place = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [line for group, points in ours.items() for line in (f"[{group}]", *_points(points), "")]
    yield f"{place}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    yield f"{place}/entry_points.txt", "\n".join(lines)


def _points(points: dict[str, str]) -> list[str]:
    return [f"{name} = {value}" for name, value in sorted(points.items())]
