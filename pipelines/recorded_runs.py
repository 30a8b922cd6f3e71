"""What the records of runs tell of their stages and of what went wrong, for whoever shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from storage.objects import Objects
from storage.run_records import RecordedRun, read_run

__all__ = ["StageRow", "log_counts", "read_runs", "stage_rows"]

_NUM_READERS = 16


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage of a run."""

    name: str
    state: str
    """`ran`, `present` and the like, `begun` or `failed`."""
    seconds: float | None
    """Wall time, so far if it was only begun; None: unknown, or it didn't run."""
    url: str
    """Of its output."""

    @property
    def key(self) -> str:
        """Of its output, which is the last part of the URL."""
        return self.url.rstrip("/").rpartition("/")[2]


def read_runs(workspace: Objects, runs: Sequence[str]) -> list[RecordedRun]:
    """Beginning and end of some runs, in the given order, less those that have no record."""
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        found = pool.map(lambda run: read_run(workspace, run, with_pieces=False), runs)
    return [run for run in found if run is not None]


def stage_rows(run: RecordedRun) -> list[StageRow]:
    """A row for each stage that was begun or found, in the order of the run."""
    rows: dict[str, StageRow] = {}
    for event in run.events:
        if event["kind"] == "stage_began":
            name = event["stage"]
            rows[name] = StageRow(name, "begun", _seconds_since(event["time"], run.heard_of), event["url"])
        elif event["kind"] in ("stage_ended", "stage_failed"):
            name = event["stage"]
            url = rows[name].url if name in rows else ""
            rows[name] = StageRow(name, event.get("state", "failed"), event["seconds"], url)
    for stage in [] if run.end is None else run.end["stages"]:
        rows[stage["name"]] = StageRow(stage["name"], stage["state"], stage["seconds"], stage["url"])
    return list(rows.values())


def log_counts(run: RecordedRun) -> Counter[str]:
    """How often each warning and error stood in the log, by its first line."""
    return Counter(
        f"{event['level']} {event['stage'] or ''}: {event['message'].partition(chr(10))[0]}"
        for event in run.events
        if event["kind"] == "log"
    )


def _seconds_since(begun: str, heard_of: str | None) -> float | None:
    if heard_of is None:
        return None
    return (datetime.fromisoformat(heard_of) - datetime.fromisoformat(begun)).total_seconds()
