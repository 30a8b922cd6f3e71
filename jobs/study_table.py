"""What a study measured: means over seeds, differences seed by seed, steps to a target, and how sure all that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

from scipy import stats

from pipelines.evaluation.records import Score
from storage.keys import Json

__all__ = ["LEVEL", "Estimate", "Measured", "StudyResult", "mean_interval", "steps_to_reach"]

LEVEL = 0.95
"""Coverage of the intervals."""

Curve = Sequence[tuple[int, float]]
"""(steps done, score) pairs, ascending."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval; NaN ends: there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 3) -> str:
        """The number and its interval with so many decimals."""
        if math.isnan(self.low):
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


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
    curve: tuple[tuple[int, float], ...] = ()
    """Validation scores during training: steps done and cIoU; empty: none were taken."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Addresses of its outputs, by stage."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """All that a study has measured so far."""

    name: str
    question: str
    baseline: str
    metrics: tuple[str, ...]
    runs: tuple[str, ...]
    """Names of the runs that are scored, in order, finished or not."""
    planned: tuple[tuple[str, int], ...]
    """(run, seed) of all that are scored, finished or not."""
    measured: tuple[Measured, ...]

    @property
    def missing(self) -> tuple[tuple[str, int], ...]:
        """(run, seed) pairs that aren't finished."""
        done = {(one.run, one.seed) for one in self.measured}
        return tuple(pair for pair in self.planned if pair not in done)

    @property
    def has_one_seed(self) -> bool:
        """Whether nothing can be said of how far another seed would lie."""
        return len({seed for _, seed in self.planned}) == 1

    def finished_runs(self) -> list[str]:
        """Names of the runs of which at least one seed is finished, in order."""
        done = {one.run for one in self.measured if one.scores}
        return [run for run in self.runs if run in done]

    def of(self, run: str) -> dict[int, Measured]:
        """What a run gave, by seed."""
        return {one.seed: one for one in self.measured if one.run == run}

    def values(self, run: str, metric: str) -> dict[int, float]:
        """Scores of a run, by seed."""
        return {seed: one.scores[metric].value for seed, one in self.of(run).items() if one.scores}

    def estimate(self, run: str, metric: str) -> Estimate:
        """The mean over seeds; of a single seed its score, with the interval over pictures."""
        scores = [one.scores[metric] for one in self.of(run).values()]
        if len(scores) == 1:
            return Estimate(scores[0].value, scores[0].low, scores[0].high)
        return mean_interval([score.value for score in scores])

    def difference(self, run: str, metric: str, than: str | None = None) -> Estimate | None:
        """The mean difference to another run, seed by seed, over the seeds of which both are finished.

        Args:
            run: which.
            metric: label of the score.
            than: the other run; None: the baseline.

        Returns:
            Of a single seed without an interval; None if no seed of both is finished.
        """
        own, other = self.values(run, metric), self.values(than or self.baseline, metric)
        pairs = [(own[seed], other[seed]) for seed in own if seed in other]
        return mean_interval([one - two for one, two in pairs]) if pairs else None

    def steps_to(self, run: str, target: str) -> dict[int, float | None]:
        """Steps in which a run reaches the last validation score of another with the same seed, by seed.

        None: it never does. Seeds without validation scores of both are left out.
        """
        own, other = self.of(run), self.of(target)
        return {
            seed: steps_to_reach(own[seed].curve, other[seed].curve[-1][1])
            for seed in own
            if seed in other and own[seed].curve and other[seed].curve
        }

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
                    "validation_cIoU": [[step, value] for step, value in one.curve],
                    "keys": dict(one.keys),
                }
            )
        return {"measured": rows, "missing": [[run, seed] for run, seed in self.missing]}


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


def steps_to_reach(curve: Curve, target: float) -> float | None:
    """Steps until a curve first reaches a score, linearly between the two validations around that.

    A curve that is there at its first validation counts with the steps of that one: how it came there isn't known.

    Args:
        curve: validation scores, at least one.
        target: the score to be reached.

    Returns:
        None if no validation reaches it.

    >>> steps_to_reach([(100, 0.25), (200, 0.5), (300, 0.375)], 0.4375)
    175.0
    """
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value >= target:
            if before is None:
                return float(step)
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0])
        before = step, value
    return None
