"""Our scores against those of the released RES evaluation and of the gRefCOCO authors' evaluator."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.metrics.res import Outcome, gres_scores, overlap, res_scores
from storage.masks import decode_mask
from storage.schema import Mask

TOLERANCE = 1e-6
"""Absolute; the worst difference measured is 2e-8 (cIoU of the released evaluation)."""


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    named = os.environ.get("SAILLOFT_GOLDEN_METRICS")
    path = Path(named or Path(__file__).resolve().parents[3] / "shared" / "golden" / "metrics_a.json")
    path = path if path.suffix == ".json" else path.with_name(path.name + ".json")
    if not path.is_file():
        assert named is None, f"SAILLOFT_GOLDEN_METRICS: expected a file, found none at {path}"
        pytest.skip(f"no golden metrics at {path}; set SAILLOFT_GOLDEN_METRICS to the file, with or without .json")
    return json.loads(path.read_text())


def _mask(rle: dict[str, Any] | None) -> Mask | None:
    if rle is None:
        return None
    counts = rle["counts"]
    return Mask(*rle["size"], counts.encode() if isinstance(counts, str) else counts)


def _outcomes(rows: list[dict[str, Any]], *, decoded: bool) -> list[Outcome]:
    outcomes = []
    for row in rows:
        predicted, truth = _mask(row["pred"]), _mask(row["gt"])
        assert truth is not None
        if decoded:
            bitmap = None if predicted is None else decode_mask(predicted)
            intersection_px, union_px = overlap(bitmap, decode_mask(truth))
        else:
            intersection_px, union_px = overlap(predicted, truth)
        outcomes.append(
            Outcome(
                intersection_px=intersection_px,
                union_px=union_px,
                no_target=row["no_target"],
                predicted_no_target=predicted is None,
            )
        )
    return outcomes


@pytest.mark.parametrize("decoded", [False, True], ids=["rle", "bitmap"])
def test_res_protocol_matches_the_released_evaluation(golden: dict[str, Any], decoded: bool) -> None:
    scores = res_scores(_outcomes(golden["rows"], decoded=decoded))
    expected = golden["expected"]["res"]
    assert expected
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=TOLERANCE), name


@pytest.mark.parametrize("decoded", [False, True], ids=["rle", "bitmap"])
def test_gres_protocol_matches_the_authors_evaluator(golden: dict[str, Any], decoded: bool) -> None:
    scores = gres_scores(_outcomes(golden["rows"], decoded=decoded))
    expected = golden["expected"]["gres"]
    assert expected
    for name, value in expected.items():
        percent = name not in ("N_acc", "T_acc")
        ours = scores[name].value * (100 if percent else 1)
        assert ours == pytest.approx(value, abs=TOLERANCE), name
