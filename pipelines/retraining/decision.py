"""Whether a challenger takes the champion's place: a pure function of the differences of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.evaluation.comparison import Difference
from pipelines.evaluation.records import Score, shown_scale
from pipelines.retraining.config import ComparedScore, GuardedScore, RetrainConfig
from storage.errors import UsageError
from storage.registry_records import Figure

__all__ = ["FIRST", "Verdict", "check_scores", "judge"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is decided, why, and by what figures."""

    promoted: bool
    reasons: tuple[str, ...]
    figures: tuple[Figure, ...] = ()


FIRST = Verdict(True, ("the first version",))
"""Of a challenger without a champion."""


def check_scores(scores: Sequence[Score], config: RetrainConfig) -> None:
    """Looks whether an evaluation has the scores that are compared.

    Args:
        scores: of one evaluation.
        config: what is compared.

    Raises:
        UsageError: one isn't among them; names those that are.
    """
    known = {(score.benchmark, score.metric, score.variant.value) for score in scores if score.overall}
    for wanted in config.compared:
        if (wanted.benchmark, wanted.metric, wanted.variant) not in known:
            names = sorted(f"{name} {metric} {variant}" for name, metric, variant in known)
            raise UsageError(
                f"retrain: expected a score {wanted} of the evaluation, got {', '.join(names)}; correct "
                "retrain.decides and retrain.guarded"
            )


def judge(differences: Sequence[Difference], config: RetrainConfig) -> Verdict:
    """Decides about a challenger.

    It is promoted if the whole interval of the score that decides lies above the minimum gain, and no guarded score
    falls. Everything that speaks against it is told.

    Args:
        differences: of champion (first) and challenger (second), on the same samples.
        config: the rules.
    """
    found = {(row.benchmark, row.metric, row.variant.value): row for row in differences}
    figures: list[Figure] = []
    for_it: list[str] = []
    against: list[str] = []
    for score in config.compared:
        row = found.get((score.benchmark, score.metric, score.variant))
        if row is None:
            against.append(f"{score}: no difference, since it isn't a number for both")
            continue
        guarded = score if isinstance(score, GuardedScore) else None
        figures.append(_figure(row, "decides" if guarded is None else "guarded"))
        passes, told = _gains(score, row, config.min_gain) if guarded is None else _holds(guarded, row)
        (for_it if passes else against).append(told)
    promoted = not against
    return Verdict(promoted, tuple(for_it if promoted else against), tuple(figures))


def _gains(score: ComparedScore, row: Difference, min_gain: float) -> tuple[bool, str]:
    """Whether the score that decides is better by enough, and how that is told."""
    least = _points(score, min_gain)
    if row.low > min_gain:
        return True, _told(score, row, "better" if not min_gain else f"better by more than {least}")
    if row.high < 0:
        return False, _told(score, row, "worse")
    if row.low > 0:
        return False, _told(score, row, f"better, but it may be by less than {least}")
    return False, _told(score, row, "within noise")


def _holds(score: GuardedScore, row: Difference) -> tuple[bool, str]:
    """Whether a guarded score doesn't fall, and how that is told."""
    allowed = f"{_points(score, score.max_fall)} allowed"
    if row.high < -score.max_fall:
        return False, _told(score, row, f"falls, {allowed}")
    if row.low < -score.max_fall and score.refused_if == "possible":
        return False, _told(score, row, f"may fall, {allowed}")
    return True, _told(score, row, "holds")


def _told(score: ComparedScore, row: Difference, verdict: str) -> str:
    scale = shown_scale(score.metric)
    return f"{score}: {verdict}: {scale * row.value:+.2f} ({scale * row.low:+.2f} to {scale * row.high:+.2f})"


def _points(score: ComparedScore, difference: float) -> str:
    return f"{shown_scale(score.metric) * difference:.2f}"


def _figure(row: Difference, role: Literal["decides", "guarded"]) -> Figure:
    return Figure(
        role=role,
        benchmark=row.benchmark,
        variant=row.variant.value,
        metric=row.metric,
        champion=row.first,
        challenger=row.second,
        low=row.low,
        high=row.high,
        num_samples=row.num_samples,
        num_images=row.num_images,
    )
