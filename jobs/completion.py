"""What the shell offers behind a command: names of recipes, studies, stages and registries, without reading a store.

A shell asks at every press of the tab key, so that nothing heavy is imported here and no network is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from typer import Context

__all__ = [
    "codec_names",
    "job_commands",
    "local_registries",
    "recipe_names",
    "registry_names",
    "stage_lists",
    "study_names",
    "teacher_recipe_names",
]

_HERE = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
_STAGES = ("curate", "teach", "train", "evaluate", "report")
_COMMANDS = ("run", "retrain", "curate", "teach", "train", "evaluate")
_CODECS = ("int8", "klt", "klt-20db")
_REGISTRIES = "registry"
_OF_A_TEACHER = "\nnetwork:"


def recipe_names(incomplete: str) -> list[str]:
    """Packaged recipes of runs, and YAML files."""
    return [*_starting(incomplete, _packaged(teachers=False)), *_yaml_files(incomplete)]


def teacher_recipe_names(incomplete: str) -> list[str]:
    """Packaged recipes of teachers, and YAML files."""
    return [*_starting(incomplete, _packaged(teachers=True)), *_yaml_files(incomplete)]


def study_names(incomplete: str) -> list[str]:
    """Packaged studies, and YAML files."""
    names = sorted(path.stem for path in (_HERE / "studies").glob("*.yaml"))
    return [*_starting(incomplete, names), *_yaml_files(incomplete)]


def stage_lists(incomplete: str) -> list[str]:
    """The last of several stages with commas between them; none twice.

    >>> stage_lists("train,e"), stage_lists("t")
    (['train,evaluate'], ['teach', 'train'])
    """
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [f"{before}{comma}{name}" for name in _starting(last, _STAGES) if name not in given]


def job_commands(incomplete: str) -> list[str]:
    """Commands that a schedule or a cluster runs."""
    return _starting(incomplete, _COMMANDS)


def codec_names(incomplete: str) -> list[str]:
    """Encodings that features can be brought into."""
    return _starting(incomplete, _CODECS)


def registry_names(context: Context, incomplete: str) -> list[str]:
    """Registries of the workspace that the command line names, or of `runs`, if it is a local folder."""
    workspace = context.params.get("workspace")
    return _starting(incomplete, local_registries(Path(workspace if isinstance(workspace, str) else "runs")))


def local_registries(workspace: Path) -> list[str]:
    """Names of the registries in a local workspace; none where there is no such folder."""
    folder = workspace / _REGISTRIES
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _packaged(teachers: bool) -> list[str]:
    paths = sorted((_HERE / "recipes").glob("*.yaml"))
    return [path.stem for path in paths if (_OF_A_TEACHER in path.read_text(encoding="utf-8")) == teachers]


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _yaml_files(incomplete: str) -> list[str]:
    """Files and folders as the user has begun to write them; hidden ones only if that begins with a dot."""
    folder, slash, begun = incomplete.rpartition("/")
    place = Path(folder + slash) if slash else Path()
    if not place.is_dir():
        return []
    found: list[str] = []
    for path in sorted(place.iterdir()):
        if not path.name.startswith(begun) or (path.name.startswith(".") and not begun):
            continue
        if path.is_dir():
            found.append(f"{folder}{slash}{path.name}/")
        elif path.suffix in _SUFFIXES:
            found.append(f"{folder}{slash}{path.name}")
    return found
