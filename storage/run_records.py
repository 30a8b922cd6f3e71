"""The record of a run: what it was, what happened in it, what it used, and how it ended; it outlives the cluster.

    runs/<name>-<time>-<digits>/start.json           recipe, code, versions, machine; first
                                pieces/000001.json   events and sums of figures so far; one after the other
                                record.json          last: stages, exit code, error, figures, costs

Every object is written once and never changed. A run that was killed leaves its start and the pieces until then.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from storage.errors import ObjectNotFound
from storage.keys import Json
from storage.numbered import NumberedObjects
from storage.objects import Objects

__all__ = ["RUNS", "RecordedRun", "RunFolder", "find_runs", "new_run_id", "read_run"]

RUNS = "runs"
"""Prefix of records below a workspace."""

_START, _PIECES, _END = "start.json", "pieces", "record.json"
_NUM_DIGITS = 6
_ID = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)-(?P<time>\d{8}T\d{9})-[0-9a-f]{6}")
_VERSION = 2


def new_run_id(name: str, now_s: float) -> str:
    """An id for a run that begins now, with the time to milliseconds in it: the later one sorts behind.

    Args:
        name: of the recipe.
        now_s: seconds since 1970.
    """
    whole = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_s))
    return f"{name}-{whole}{int(now_s % 1 * 1000):03d}-{secrets.token_hex(3)}"


class RunFolder:
    """Writes the record of one run.

    Args:
        workspace: of the run.
        run: its id.
    """

    def __init__(self, workspace: Objects, run: str) -> None:
        self.objects = workspace.child(f"{RUNS}/{run}")
        self._pieces = NumberedObjects(self.objects, _PIECES, _NUM_DIGITS)
        self._num_pieces = 0

    def write_start(self, start: Mapping[str, Json]) -> None:
        """Writes how the run begins; raises InfrastructureError."""
        self.objects.create(_START, _bytes({"version": _VERSION, **start}))

    def write_piece(self, piece: Mapping[str, Json]) -> None:
        """Writes what happened since the last piece; raises InfrastructureError."""
        self._pieces.create(self._num_pieces + 1, _bytes(piece))
        self._num_pieces += 1

    def write_end(self, end: Mapping[str, Json]) -> None:
        """Writes how the run ended; raises InfrastructureError."""
        self.objects.create(_END, _bytes({"version": _VERSION, **end}))


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What is recorded of a run."""

    run: str
    url: str
    start: Mapping[str, Any]
    """Empty: it isn't there."""
    pieces: Sequence[Mapping[str, Any]]
    end: Mapping[str, Any] | None
    """None: the run goes on, or was killed."""

    @property
    def events(self) -> list[Mapping[str, Any]]:
        """All that happened, in order."""
        return [event for piece in self.pieces for event in piece["events"]]

    @property
    def newest(self) -> Mapping[str, Any]:
        """Figures and costs as they were last written; empty if none were."""
        if self.end is not None:
            return self.end
        return self.pieces[-1] if self.pieces else {}

    @property
    def heard_of(self) -> str | None:
        """When the run was heard of last, in UTC."""
        return cast("str | None", self.newest.get("time", self.start.get("time")))

    @property
    def state(self) -> str:
        """`done`, `failed`, `interrupted`, or `unfinished`: it goes on, or was killed."""
        if self.end is None:
            return "unfinished"
        code = self.end.get("exit_code", 0)
        return "done" if code == 0 else "interrupted" if code > 128 else "failed"


def find_runs(workspace: Objects, name: str | None = None) -> list[str]:
    """Ids of the recorded runs, by their time, the newest last; one listing of names.

    Args:
        workspace: of the runs.
        name: of a recipe; None: of all.
    """
    found = [match for folder in workspace.folders(RUNS) if (match := _ID.fullmatch(folder))]
    chosen = [match for match in found if name is None or match["name"] == name]
    return [match[0] for match in sorted(chosen, key=lambda match: (match["time"], match[0]))]


def read_run(workspace: Objects, run: str, *, with_pieces: bool = True) -> RecordedRun | None:
    """The record of a run; None: there is none.

    Args:
        workspace: of the run.
        run: its id.
        with_pieces: reads what happened on the way; False: only beginning and end, or the newest piece without an end.
    """
    objects = workspace.child(f"{RUNS}/{run}")
    start, end = _read(objects, _START), _read(objects, _END)
    if start is None and end is None:
        return None
    numbered = NumberedObjects(objects, _PIECES, _NUM_DIGITS)
    pieces: list[Mapping[str, Any]] = []
    if with_pieces or end is None:
        newest = numbered.newest() or 0
        numbers = range(1, newest + 1) if with_pieces else range(max(newest, 1), newest + 1)
        pieces = [piece for number in numbers if (piece := _read(objects, numbered.key(number))) is not None]
    return RecordedRun(run, objects.url, start or {}, pieces, end)


def _read(objects: Objects, key: str) -> Mapping[str, Any] | None:
    try:
        return cast("dict[str, Any]", json.loads(objects.read(key)))
    except ObjectNotFound:
        return None


def _bytes(value: Mapping[str, Json]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
