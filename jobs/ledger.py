"""Where the processes of a run hand in what they saw: one light actor, which the driver empties from time to time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.figures import FigureSums
from storage.keys import Json

__all__ = ["Ledger", "Report", "ledger_name"]

_MAX_LINES = 1000
"""Lines of logs that wait for the driver."""


@dataclass(slots=True)
class Report:
    """What a process saw since its last report."""

    sums: FigureSums = field(default_factory=FigureSums)
    lines: list[Mapping[str, Json]] = field(default_factory=list[Mapping[str, Json]])
    """Of its log, as `jobs.logs` writes them."""
    num_lines_lost: int = 0
    """Lines that there was no room for."""

    def __bool__(self) -> bool:
        return bool(self.sums or self.lines or self.num_lines_lost)


def ledger_name(run: str) -> str:
    """Name of a run's ledger among Ray's actors."""
    return f"sailloft-ledger-{run}"


class Ledger:
    """Adds up reports until somebody takes the sum; no work waits for it."""

    def __init__(self) -> None:
        self._sums = FigureSums()
        self._lines: deque[Mapping[str, Json]] = deque(maxlen=_MAX_LINES)
        self._num_lost = 0

    def add(self, report: Report) -> None:
        """Takes in a report."""
        self._sums.merge(report.sums)
        self._num_lost += report.num_lines_lost + max(0, len(self._lines) + len(report.lines) - _MAX_LINES)
        self._lines.extend(report.lines)

    def drain(self) -> Report:
        """All that came since it was called the last time."""
        drained = Report(self._sums, list(self._lines), self._num_lost)
        self._sums, self._num_lost = FigureSums(), 0
        self._lines.clear()
        return drained
