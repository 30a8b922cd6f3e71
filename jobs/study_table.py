"""The table of a study: means over seeds, differences to the baseline, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from scipy import stats

from pipelines.evaluation.records import Score
from storage.keys import Json

__all__ = ["LEVEL", "Estimate", "Measured", "StudyResult", "mean_interval"]

LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval; NaN ends: there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run with one seed gave."""

    run: str
    seed: int
    num_steps: int
    scores: Mapping[str, Score]
    """By the label of the metric; empty for a run that isn't scored."""
    seconds: float | None
    """Wall time of its training; None: unknown."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """All that a study measured."""

    name: str
    question: str
    baseline: str
    metrics: tuple[str, ...]
    measured: tuple[Measured, ...]

    @property
    def num_seeds(self) -> int:
        """Seeds of each run."""
        return len({one.seed for one in self.measured})

    def runs(self) -> list[str]:
        """Names of the runs that are scored, in order."""
        return list(dict.fromkeys(one.run for one in self.measured if one.scores))

    def values(self, run: str, metric: str) -> list[float]:
        """Scores of a run, one per seed."""
        return [one.scores[metric].value for one in self.measured if one.run == run]

    def estimate(self, run: str, metric: str) -> Estimate:
        """The mean over seeds; of a single seed its score, with the interval over pictures."""
        if self.num_seeds > 1:
            return mean_interval(self.values(run, metric))
        (score,) = [one.scores[metric] for one in self.measured if one.run == run]
        return Estimate(score.value, score.low, score.high)

    def difference(self, run: str, metric: str) -> Estimate:
        """The mean difference to the baseline, seed by seed; of a single seed without an interval."""
        pairs = zip(self.values(run, metric), self.values(self.baseline, metric), strict=True)
        return mean_interval([own - other for own, other in pairs])

    def markdown(self) -> list[str]:
        """The table in Markdown, with what its intervals mean."""
        headings = [heading for metric in self.metrics for heading in (metric, f"less {self.baseline}")]
        lines = [f"| run | {' | '.join(headings)} |", f"|{'---|' * (1 + len(headings))}"]
        for run in self.runs():
            cells = [cell for metric in self.metrics for cell in self._cells(run, metric)]
            lines.append(f"| {run} | {' | '.join(cells)} |")
        return [f"{self.question}", "", *lines, "", self._caption(), *self._by_seed()]

    def _cells(self, run: str, metric: str) -> tuple[str, str]:
        difference = "" if run == self.baseline else str(self.difference(run, metric))
        return str(self.estimate(run, metric)), difference

    def _caption(self) -> str:
        if self.num_seeds > 1:
            return (
                f"Means over {self.num_seeds} seeds of training on the same pictures; {LEVEL:.0%} intervals by "
                "Student's t over seeds, differences paired by seed."
            )
        return (
            f"One seed: {LEVEL:.0%} intervals are over the evaluated pictures alone and say nothing of how far another "
            "seed would lie."
        )

    def _by_seed(self) -> Iterator[str]:
        if self.num_seeds == 1:
            return
        yield ""
        for metric in self.metrics:
            for run in self.runs():
                values = ", ".join(f"{value:.3f}" for value in self.values(run, metric))
                yield f"- {metric}, {run}: {values}"

    def to_json(self) -> dict[str, Json]:
        """What was measured, as plain data."""
        rows: list[Json] = []
        for one in self.measured:
            scores: dict[str, Json] = {
                label: cast("Json", {**asdict(score), "variant": score.variant.value})
                for label, score in one.scores.items()
            }
            rows.append(
                {
                    "run": one.run,
                    "seed": one.seed,
                    "num_steps": one.num_steps,
                    "seconds": one.seconds,
                    "scores": scores,
                }
            )
        return {"measured": rows}


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of independent values with its interval by Student's t.

    Args:
        values: such as one score per seed.
        level: coverage.

    Returns:
        The interval's ends are NaN where a single value leaves them open.

    >>> str(mean_interval([0.1, 0.2, 0.3]))
    '0.200 (-0.048 to 0.448)'
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean, math.nan, math.nan)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * spread
    return Estimate(mean, mean - half, mean + half)
