"""Two checkpoints on the same questions: differences of all scores, with intervals that know of the pairing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import read_predictions
from pipelines.evaluation.metrics.interval import bootstrap_draws
from pipelines.evaluation.records import Benchmark, Prediction, Variant
from storage.errors import DataError, ObjectNotFound, UsageError
from storage.keys import Json, canonical_json
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects

__all__ = ["Difference", "compare_evaluations", "paired_differences"]

_Place = tuple[str, str, str, int, str, str, int]
_SHOWN = 3
"""Questions that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One score of two checkpoints.

    Attributes:
        benchmark: name of the benchmark.
        variant: the rules by which answers were judged.
        metric: name of the score.
        first: the score of the first checkpoint, as a fraction.
        second: that of the second.
        low: lower end of the interval of `second - first`.
        high: upper end.
        share_above: share of the draws in which the second is better; ties count half.
        num_samples: questions that count.
        num_images: pictures that were drawn from.
    """

    benchmark: str
    variant: Variant
    metric: str
    first: float
    second: float
    low: float
    high: float
    share_above: float
    num_samples: int
    num_images: int

    @property
    def value(self) -> float:
        """`second - first`."""
        return self.second - self.first

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out zero: the second is better or worse by more than chance among pictures."""
        return self.low > 0 or self.high < 0


def paired_differences(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    benchmarks: Mapping[str, Benchmark],
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Differences of every score by a paired bootstrap: each draw of pictures scores both checkpoints.

    What makes pictures hard meets both alike and leaves the difference alone, so that its interval is narrower than
    those of the two scores suggest.

    Args:
        first: predictions of one checkpoint.
        second: predictions of the other, on the same questions; any order.
        benchmarks: the benchmarks by their names; those without predictions are left out.
        num_resamples: bootstrap draws.
        level: coverage of the intervals.
        seed: seed of the draws.

    Raises:
        UsageError: the questions differ, or what they were compared with.
        DataError: a question is there twice.
    """
    pairs = _paired(first, second)
    differences: list[Difference] = []
    for name, benchmark in benchmarks.items():
        standard = [pair for pair in pairs if pair[0].benchmark == name and pair[0].variant is Variant.STANDARD]
        for variant in (Variant.STANDARD, Variant.RELEASED):
            own = [pair for pair in pairs if pair[0].benchmark == name and pair[0].variant is variant]
            if not own:
                continue
            scores = [
                benchmark.metrics(variant, [pair[side] for pair in own], [pair[side] for pair in standard])
                for side in (0, 1)
            ]
            image_ids = [pair[0].image_id for pair in own]
            for metric in (metric for metric in scores[0] if metric in scores[1]):
                both = [scores[side][metric] for side in (0, 1)]
                values = [score.value for score in both]
                if not np.isfinite(values).all():
                    continue
                before, after = bootstrap_draws(both, image_ids, num_resamples=num_resamples, seed=seed)
                draws = (after - before)[np.isfinite(after - before)]
                low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
                counted = np.union1d(both[0].index, both[1].index)
                differences.append(
                    Difference(
                        benchmark=name,
                        variant=variant,
                        metric=metric,
                        first=values[0],
                        second=values[1],
                        low=float(low),
                        high=float(high),
                        share_above=float((draws > 0).mean() + (draws == 0).mean() / 2),
                        num_samples=len(counted),
                        num_images=len({image_ids[int(row)] for row in counted}),
                    )
                )
    return differences


def compare_evaluations(first: Objects, second: Objects) -> list[Difference]:
    """`paired_differences` of two finished evaluations, by the settings that they share.

    Args:
        first: prefix of one evaluation.
        second: prefix of the other.

    Raises:
        UsageError: one isn't an evaluation, or they didn't ask the same.
        ObjectNotFound: one isn't there or isn't finished, or its predictions are gone.
    """
    manifests = [_evaluation(objects) for objects in (first, second)]
    recipes = [{**manifest.recipe} for manifest in manifests]
    if canonical_json(cast("Json", recipes[0])) != canonical_json(cast("Json", recipes[1])):
        named = sorted(name for name in {*recipes[0], *recipes[1]} if recipes[0].get(name) != recipes[1].get(name))
        raise UsageError(
            f"{second.url}: expected the evaluation settings of {first.url}, got others in {', '.join(named)}; "
            "evaluate both with the same `evaluation` part of the recipe"
        )
    config = EvaluationConfig.model_validate(recipes[0])
    names = [
        [entry.path for entry in manifest.files if entry.path.startswith("predictions/")] for manifest in manifests
    ]
    return paired_differences(
        read_predictions(first, names[0]),
        read_predictions(second, names[1]),
        config.built(),
        num_resamples=config.num_resamples,
        level=config.interval_level,
        seed=config.seed,
    )


def _evaluation(objects: Objects) -> Manifest:
    manifest = read_manifest(objects)
    expected = f"{objects.url}: expected a finished evaluation"
    remedy = "give the folder that `sailloft evaluate` names, evaluate/<key> of the workspace"
    if manifest is None:
        raise ObjectNotFound(f"{expected}, got no manifest; {remedy}")
    if manifest.kind != "evaluation":
        raise UsageError(f"{expected}, got a {manifest.kind}; {remedy}")
    return manifest


def _paired(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    by_place = [{_place(row): row for row in rows} for rows in (first, second)]
    for side, rows in zip(by_place, (first, second), strict=True):
        if len(side) != len(rows):
            raise DataError(f"predictions: expected each question once, got {len(rows) - len(side)} of them again")
    lost = [sorted(by_place[0].keys() - by_place[1].keys()), sorted(by_place[1].keys() - by_place[0].keys())]
    if any(lost):
        examples = ", ".join(_shown(place) for place in (lost[0] + lost[1])[:_SHOWN])
        raise UsageError(
            f"predictions: expected the same questions of both, got {len(lost[0])} of the first alone and "
            f"{len(lost[1])} of the second alone, such as {examples}; evaluate both on the same corpus and benchmarks"
        )
    pairs = [(by_place[0][place], by_place[1][place]) for place in sorted(by_place[0])]
    for one, other in pairs:
        for name in ("image_id", "question", "prompts", "truth_text", "references", "truth_area_px"):
            if getattr(one, name) != getattr(other, name):
                raise UsageError(
                    f"predictions: {_shown(_place(one))}: expected the same {name} of both, got others; "
                    "the corpora differ, evaluate both on one"
                )
    return pairs


def _place(row: Prediction) -> _Place:
    # Pictures first, as the table of scores orders rows: CIDEr and AP50 then see them in the same order.
    return (
        *(row.image_id, row.benchmark, row.sample_id, row.turn),
        *(row.variant.value, row.truth_sample_id, row.truth_turn),
    )


def _shown(place: _Place) -> str:
    return f"{place[1]} / sample {place[2][:12]} turn {place[3]} ({place[4]})"
