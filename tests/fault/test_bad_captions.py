"""Damaged records of the caption families end as rejects; none crashes a run, and none vanishes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.testing import FamilyContract
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.objects import Objects
from tests.contract import test_families_captions as captions
from tests.mutations import mutated

_SUITES: dict[str, type[FamilyContract]] = {
    "gcg_refcocog": captions.TestGcgRefCocog,
    "gcg_grandf": captions.TestGcgGranDf,
    "gcg_flickr": captions.TestGcgFlickr,
    "sam_captions": captions.TestSamCaptions,
    "region_caption": captions.TestRegionCaption,
}


@pytest.mark.parametrize("suite", sorted(_SUITES))
@pytest.mark.parametrize("seed", range(4))
def test_mutated_captions_neither_crash_nor_vanish(tmp_path: Path, suite: str, seed: int) -> None:
    draw = random.Random(seed)
    source = _SUITES[suite]().write_source(tmp_path / "in")
    config = CurationConfig.model_validate({"root": str(tmp_path / "in"), "sources": [source], "max_reject_share": 1})
    (name,) = config.sources[0].source_files()
    content: Any = json.loads((tmp_path / "in" / name).read_text())
    lists = content if isinstance(content, dict) else {"records": content}
    for rows in lists.values():
        rows[:] = [mutated(row, draw) if draw.random() < 0.7 else row for row in rows]
    data = json.dumps(content, default=lambda value: value.decode())
    (tmp_path / "in" / name).write_text(data)
    curate_local(config, Objects.open(tmp_path / "out"), NullProgress())
    corpus = Corpus.open(Objects.open(tmp_path / "out"))  # curation checks itself that the records add up
    num_out = len(list(corpus.samples())) + len(list(corpus.rejects()))
    assert num_out >= len(lists.get("images", lists.get("records", [])))
    assert all(reject.detail for reject in corpus.rejects())
