"""What is noted of a stage's run beside its output, which holds no clock: how long it took, by which code, of what.

    runs/times/<key of the output>.json

Notes may be absent or older than what they would say by now: nothing but people reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from storage.errors import ObjectNotFound
from storage.keys import Json
from storage.objects import Objects

__all__ = ["STAGE_NOTES", "CodeVersion", "StageNote", "read_note", "write_note"]

STAGE_NOTES = "runs/times"
"""Prefix of the notes below a workspace."""

_VERSION = 2


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """Which Sailloft did some work."""

    version: str | None
    """Of the distribution; None: it isn't installed."""
    commit: str | None
    """Of the repository that it ran from or was installed from; None: unknown."""
    changed: bool | None
    """Whether sources differed from that commit; None: unknown."""
    sources: str
    """Content key of its Python files: the same for the same program, wherever it is from."""

    def __str__(self) -> str:
        said = [self.version or "not installed", f"sources {self.sources[:12]}"]
        if self.commit is not None:
            said.insert(1, f"commit {self.commit[:12]}" + (" with changes" if self.changed else ""))
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class StageNote:
    """What is noted of the run, or of the runs, that made an output."""

    seconds: float | None
    """Wall time of the start that finished it; None: it isn't finished."""
    num_starts: int
    code: tuple[CodeVersion, ...] = ()
    """Of all starts, each once, in the order of their first start; none in notes of early versions."""
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Keys of what the stage was given, by the name of the stage that made it."""

    def to_json(self) -> dict[str, Json]:
        """As it is written."""
        return {
            "version": _VERSION,
            "seconds": self.seconds,
            "num_starts": self.num_starts,
            "code": [asdict(code) for code in self.code],
            "inputs": dict(self.inputs),
        }


def read_note(notes: Objects, key: str) -> StageNote | None:
    """The note of an output; None: there is none, or it is torn.

    Args:
        notes: prefix of the notes.
        key: of the output.
    """
    try:
        note = cast("dict[str, Any]", json.loads(notes.read(f"{key}.json")))
        seconds = note["seconds"]
        code = tuple(CodeVersion(**entry) for entry in note.get("code", ()))
        return StageNote(
            None if seconds is None else float(seconds), int(note["num_starts"]), code, note.get("inputs", {})
        )
    except (ObjectNotFound, ValueError, KeyError, TypeError):
        return None


def write_note(notes: Objects, key: str, note: StageNote) -> None:
    """Writes, or overwrites, the note of an output."""
    notes.put(f"{key}.json", json.dumps(note.to_json()).encode())
