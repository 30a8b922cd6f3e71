"""What a run notes of itself while it trains: curves for trackers, seconds and scores for the report.

Nothing here is part of an output: it lies below `logs/<key>/` of the workspace, since seconds differ between
equal runs. What belongs to the checkpoint is in its `metrics.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pipelines.training.notes import SPEED, VALIDATION, read_notes
from pipelines.training.trackers.base import Tracker
from pipelines.training.validation import Validation
from storage.objects import Objects

__all__ = ["Logbook"]

_FAMILY = "loss/"


class Logbook:
    """Notes of rank 0.

    Args:
        logs: prefix of the run's notes.
        trackers: are told too.
        first_step: steps done before this start; notes of an earlier start about later steps are dropped.
    """

    def __init__(self, logs: Objects, trackers: Sequence[Tracker], first_step: int = 0) -> None:
        self._logs, self._trackers = logs, trackers
        self._notes = {
            name: [row for row in read_notes(logs, name) if row["step"] <= first_step] for name in (SPEED, VALIDATION)
        }

    def log(self, step: int, metrics: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Notes the steps since the last note.

        Args:
            step: steps done.
            metrics: means of the losses and other figures that don't depend on the clock.
            speed: a reading of `pipelines.training.throughput.Throughput`.
        """
        self._notes[SPEED].append({"step": step, **speed})
        curves = {_curve(name): value for name, value in metrics.items() if name != "step"}
        curves |= {f"speed/{name}": value for name, value in speed.items()}
        for tracker in self._trackers:
            tracker.log_scalars(step, curves)

    def log_validation(self, step: int, validation: Validation) -> None:
        """Notes scores, and gives them to the trackers with the pictures."""
        self._notes[VALIDATION].append({"step": step, **validation.scores})
        for tracker in self._trackers:
            tracker.log_scalars(step, {f"validation/{name}": value for name, value in validation.scores.items()})
            for number, picture in enumerate(validation.pictures):
                tracker.log_image(step, f"validation/{number}", picture)

    def flush(self) -> None:
        """Makes all notes outlive this process; to be called before a checkpoint, so that none is lost behind it."""
        for name, rows in self._notes.items():
            if rows:
                self._logs.put(name, "".join(json.dumps(row) + "\n" for row in rows).encode())
        for tracker in self._trackers:
            tracker.flush()

    def close(self, *, finished: bool) -> None:
        """Ends the notes; see `Tracker.close`."""
        self.flush()
        for tracker in self._trackers:
            tracker.close(finished=finished)


def _curve(metric: str) -> str:
    """Name of a metric's curve: families stand in a group of their own."""
    return f"family/{metric.removeprefix(_FAMILY)}" if metric.startswith(_FAMILY) else f"train/{metric}"
