"""Rows of users' own data with anything in any place: each is a sample or a reject, and none ends the run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.testing import polygon_of, write_picture
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.objects import Objects
from tests.mutations import mutated

_CUP = {"segmentation": polygon_of((2, 3, 12, 9)), "category": "cup", "id": 3}
_ROWS: list[dict[str, object]] = [
    {"image": "a.png", "expression": "the cup", "segmentation": {"box_xyxy_px": [2, 3, 12, 9]}},
    {"image": "a.png", "caption": "<p>a cup</p> [SEG]", "regions": [_CUP], "height": 24, "width": 32, "split": "val"},
    {"image": "a.png", "task": "instance", "category": "cup", "regions": [_CUP, {"segmentation": {"png": "a.png"}}]},
    {
        "image": "a.png",
        "turns": [
            {"question": "Left of <region1>?", "answer": "[SEG]", "targets": [[1]]},
            {"question": "Why?", "answer": "So."},
        ],
        "regions": [_CUP, _CUP],
        "prompts": [{"kind": "scribble", "region": 2, "points_xy_px": [[3, 4], [5.5, 6]]}],
    },
    {"image": "a.png", "description": "a cup", "prompts": [{"kind": "box", "box_xyxy_px": [2, 3, 12, 9]}]},
    {"image": "a.png", "question": "What is <region1>?", "answer": "tea", "options": ["tea", "ink"], "regions": [_CUP]},
]


@pytest.mark.parametrize("seed", range(3))
def test_mutated_rows_neither_crash_nor_vanish(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    write_picture(tmp_path / "in/a.png", seed=1)
    rows = [*_ROWS, *(mutated(draw.choice(_ROWS), draw) for _ in range(300))]
    text = "\n".join(json.dumps(row, default=lambda value: value.decode()) for row in rows)
    (tmp_path / "in/rows.jsonl").write_text(text)
    # A damaged `split` would make an evaluation picture of the one that all rows are about.
    kept = {"leakage": {"gate": "off"}, "filters": {"near_duplicate_expressions": False}}
    config = CurationConfig.model_validate(
        {"root": str(tmp_path / "in"), "sources": [{"kind": "generic"}], "max_reject_share": 1, **kept}
    )
    output = Objects.open(tmp_path / "out")
    curate_local(config, output, NullProgress())  # which checks itself that samples and rejects add up to records
    corpus = Corpus.open(output)
    samples, rejects = list(corpus.samples()), list(corpus.rejects())
    assert len(samples) + len(rejects) == len(rows)
    assert {f"row={number}" for number in range(len(_ROWS))} <= {sample.locator for sample in samples}
    assert len(rejects) > 100
    assert all(reject.detail for reject in rejects)
