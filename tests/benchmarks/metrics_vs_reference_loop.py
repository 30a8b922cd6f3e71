"""Mask metrics on run-length masks against the loop evaluations are written as: decode both, count pixels."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pytest
from scipy import ndimage

from pipelines.evaluation.metrics.res import GRES_THRESHOLDS, RES_THRESHOLDS, Outcome, gres_scores, overlap, res_scores
from storage.masks import decode_mask, encode_mask
from storage.schema import Mask
from tests.benchmarks.measuring import Figures, Options, alternate, compared_times, judged, machine

__all__ = ["metrics_vs_reference_loop"]

_Pair: TypeAlias = tuple[Mask, Mask, bool]
"""Prediction, truth, and whether the truth is that nothing is meant, as the records say it."""
_SIZE_PX = (480, 640)
_DISTINCT = 64
"""Pairs that are drawn; the workload repeats them."""
_NO_TARGET = 10
"""One pair in so many has no target."""


def metrics_vs_reference_loop(options: Options) -> Figures:
    """Seconds of both over the same pairs; their scores are compared before anything is timed."""
    size_px, num_pairs, repeats = ((48, 64), 40, 1) if options.tiny else (_SIZE_PX, 2_000, options.times(5))
    drawn = [_pair(seed, size_px) for seed in range(_DISTINCT)]
    pairs = [drawn[place % _DISTINCT] for place in range(num_pairs)]
    ours, reference = _ours(pairs), _reference(pairs)
    assert ours == pytest.approx(reference, abs=1e-9), "both compute the same scores"
    sides = {"reference loop": lambda: _reference(pairs), "ours": lambda: _ours(pairs)}
    seconds = alternate(sides, repeats, options.warmups)
    figures, ratio = compared_times(seconds, "s", ("reference loop", "ours"))
    return {
        "machine": machine(options, repeats),
        "workload": {
            "pairs": f"{num_pairs} of {size_px[1]} x {size_px[0]} px, {_DISTINCT} different ones, seeds 0 to 63",
            "median_counts_bytes": float(np.median([len(truth.counts) for _, truth, _ in drawn])),
            "no_target": f"1 in {_NO_TARGET}",
            "what": "masks as the predictions hold them to all scores of both protocols",
        },
        **figures,
        "ratio": judged(ratio, at_least=5.0),
        "cIoU": round(ours["cIoU"], 6),
    }


def _pair(seed: int, size_px: tuple[int, int]) -> _Pair:
    """A blob with a rough outline, and the same one moved."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(size_px), min(size_px) / 16)
    blob = noise > np.quantile(noise, 0.85)
    moved = np.roll(blob, tuple(rng.integers(1, 1 + min(size_px) // 20, 2)), (0, 1))
    truth = np.zeros_like(blob) if seed % _NO_TARGET == 0 else blob
    return encode_mask(moved), encode_mask(truth), seed % _NO_TARGET == 0


def _ours(pairs: list[_Pair]) -> dict[str, float]:
    outcomes: list[Outcome] = []
    for predicted, truth, no_target in pairs:
        intersection_px, union_px = overlap(predicted, truth)
        outcomes.append(Outcome(intersection_px=intersection_px, union_px=union_px, no_target=no_target))
    gres = {f"gres_{name}": score.value for name, score in gres_scores(outcomes).items()}
    return {name: score.value for name, score in res_scores(outcomes).items()} | gres


def _reference(pairs: list[_Pair]) -> dict[str, float]:
    """Both protocols as their published evaluations are written, mask by mask."""
    intersections = unions = all_intersections = all_unions = 0
    ious: list[float] = []
    exact: list[float] = []
    gres_ious: list[float] = []
    empty = 0
    for predicted_rle, truth_rle, no_target in pairs:
        predicted, truth = decode_mask(predicted_rle), decode_mask(truth_rle)
        intersection = int(np.logical_and(predicted, truth).sum())
        union = int(np.logical_or(predicted, truth).sum())
        if no_target:
            empty += 1
            all_unions += union
            gres_ious.append(0.0)
            continue
        intersections, unions = intersections + intersection, unions + union
        all_intersections, all_unions = all_intersections + intersection, all_unions + union
        ious.append(intersection / (union + 1e-5))
        exact.append(intersection / union)
        gres_ious.append(intersection / union)
    scores = {"cIoU": intersections / unions, "gIoU": float(np.mean(ious))}
    scores |= {f"Pr@{limit}": float(np.mean([iou >= limit for iou in exact])) for limit in RES_THRESHOLDS}
    scores |= {"gres_gIoU": float(np.mean(gres_ious)), "gres_cIoU": all_intersections / all_unions}
    scores |= {"gres_N_acc": 0.0 if empty else float("nan"), "gres_T_acc": 1.0}
    return scores | {f"gres_Pr@{limit}": float(np.mean([iou >= limit for iou in exact])) for limit in GRES_THRESHOLDS}
