"""From predictions to the table of scores: overall and by family, task and split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from pipelines.evaluation.metrics.estimates import Estimate
from pipelines.evaluation.metrics.interval import bootstrap_interval
from pipelines.evaluation.records import Benchmark, Prediction, Score, Variant

__all__ = ["score_table"]

_Group = tuple[str | None, str | None, str | None]


def score_table(
    rows: Sequence[Prediction],
    benchmarks: Mapping[str, Benchmark],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Score]:
    """All scores of some predictions, each with its interval.

    Each benchmark and variant is scored over everything and, where there are several, over each
    (family, task, split). A score that nothing counts for is left out.

    Args:
        rows: predictions, in any order.
        benchmarks: the benchmarks by their names.
        num_resamples: bootstrap draws per interval.
        level: coverage of the intervals.
        seed: seed of the draws.
    """
    scores: list[Score] = []
    for name, benchmark in benchmarks.items():
        own = sorted((row for row in rows if row.benchmark == name), key=_place)
        standard = [row for row in own if row.variant is Variant.STANDARD]
        for variant in Variant:
            of_variant = [row for row in own if row.variant is variant]
            for group, members in _groups(of_variant):
                for metric, ratio in benchmark.metrics(variant, members, standard).items():
                    if not math.isfinite(ratio.value):
                        continue
                    low, high = bootstrap_interval(
                        ratio, [row.image_id for row in members], num_resamples=num_resamples, level=level, seed=seed
                    )
                    counted = _num_images(ratio, members)
                    scores.append(
                        Score(
                            benchmark=name,
                            variant=variant,
                            family=group[0],
                            task=group[1],
                            split=group[2],
                            metric=metric,
                            value=ratio.value,
                            low=low,
                            high=high,
                            num_samples=len(ratio.index),
                            num_images=counted,
                        )
                    )
    return scores


def _place(row: Prediction) -> tuple[str, str, int, str]:
    return row.image_id, row.sample_id, row.turn, row.variant.value


def _groups(rows: Sequence[Prediction]) -> Iterator[tuple[_Group, list[Prediction]]]:
    if not rows:
        return
    yield (None, None, None), list(rows)
    groups: dict[tuple[str, str, str], list[Prediction]] = {}
    for row in rows:
        groups.setdefault((row.family, row.task, row.split), []).append(row)
    if len(groups) > 1:
        for group in sorted(groups):
            yield group, groups[group]


def _num_images(ratio: Estimate, rows: Sequence[Prediction]) -> int:
    return len({rows[index].image_id for index in ratio.index})
