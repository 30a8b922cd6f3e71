"""What is particular to the demo: where real photographs lie, where its results are, and what to try next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.runner import RunResult
from storage.errors import UsageError

__all__ = ["demo_overrides", "next_steps", "program_name"]

_HELD_OUT = "images/*/COCO_*_0000200000??.png"
"""Pictures of drawn scenes that the student is scored on and has not learnt from."""


def demo_overrides(real: Path | None, workspace: str | None) -> list[str]:
    """Overrides that stand for the demo's options.

    Args:
        real: folder in RefCOCO layout, or None for synthetic scenes.
        workspace: URL of the outputs, or None for the recipe's own.

    Raises:
        UsageError: the folder doesn't exist.
    """
    overrides: list[str] = []
    if real is not None:
        if not real.is_dir():
            raise UsageError(
                f"--real {real}: expected a folder in RefCOCO layout, found none; see `sailloft demo --help`"
            )
        overrides.append(f"curation.root={_quoted(str(real.resolve()))}")
    if workspace is not None:
        overrides.append(f"workspace={_quoted(workspace)}")
    return overrides


def next_steps(recipe: str, result: RunResult, program: str) -> str:
    """Where the pictures are, and commands that a newcomer may try behind the demo, with the paths of this run.

    Args:
        recipe: its name.
        result: what the demo made or found.
        program: how the user calls `sailloft`.
    """
    urls = {outcome.name: outcome.url for outcome in result.outcomes}
    picture = _held_out_picture(urls)
    steps: list[tuple[str, str]] = []
    if "train" in urls and picture is not None:
        asked = f"{_shown(urls['train'])} {_shown(picture)} 'all rings' --to answer.png"
        steps.append(("ask the student about a picture it has never seen", f"predict {asked}"))
    if "curate" in urls:
        steps.append(("look at what it learnt from, in the browser", f"view {_shown(urls['curate'])} --open"))
    steps += [
        ("the same on busier pictures and all tasks, about 30 minutes", "demo --recipe demo-all-tasks"),
        ("the same on photographs in RefCOCO layout", "demo --real DIR"),
        ("change any field; only what depends on it is made again", f"run {recipe} student.num_layers=6"),
        ("every field, and the address of every output", f"run {recipe} --dry-run"),
        ("whether this machine is fit for more", "doctor"),
    ]
    lines = [f"  # {why}\n  {program} {command}" for why, command in steps]
    head = [] if result.report is None else [f"open it in a browser: {_shown(result.report)}"]
    return "\n".join([*head, "", "what next:", *lines])


def program_name(called: str | None = None) -> str:
    """What a user types for `sailloft` here.

    Args:
        called: what this process was called by; None: as the system says.

    >>> program_name("/no/such/jobs/__main__.py")
    'python -m jobs'
    """
    path = Path(sys.argv[0] if called is None else called)
    if path.name == "__main__.py":
        return "python -m jobs"
    found = shutil.which("sailloft")
    if found is not None and Path(found).absolute() == path.absolute():
        return "sailloft"
    return _shown(str(path.absolute()))


def _held_out_picture(urls: Mapping[str, str]) -> str | None:
    folder = Path(urls.get("scenes", ""))
    return next((str(path) for path in sorted(folder.glob(_HELD_OUT))), None) if folder.is_absolute() else None


def _shown(path: str) -> str:
    """A path as it can be pasted behind a command: below this folder as a relative one; URLs as they are."""
    here = os.getcwd().rstrip("/") + "/"
    return shlex.quote(path.removeprefix(here))


def _quoted(text: str) -> str:
    """A YAML scalar that is this text, whatever it holds."""
    return "'" + text.replace("'", "''") + "'"
