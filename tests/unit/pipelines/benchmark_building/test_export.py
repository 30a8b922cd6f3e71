"""Accepted items as PerBench's files, and back through the family that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.export import accepted_items, export_benchmark
from pipelines.benchmark_building.records import BenchmarkTask, Texts
from pipelines.benchmark_building.review.decisions import Verdict
from pipelines.benchmark_building.review.log import DecisionLog
from pipelines.benchmark_building.review.outcomes import Outcome, outcomes
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import DataError
from storage.masks import decode_mask
from storage.objects import Objects
from storage.schema import Sample, Task


def reviewed(drafts: Drafts, edits: Mapping[str, Texts] | None = None, rejected: str = "") -> dict[str, Outcome]:
    """What stands after two people accepted everything, but for what they edited or rejected."""
    log = DecisionLog(drafts.objects)
    for name in ("Ada", "Bo"):
        for item in drafts.to_review:
            texts = (edits or {}).get(item.item_id)
            if item.item_id == rejected:
                log.decide(name, item.item_id, Verdict.REJECTED)
            else:
                log.decide(name, item.item_id, Verdict.EDITED if texts else Verdict.ACCEPTED, texts or item.texts)
    return outcomes(log.by_reviewer(), [item.item_id for item in drafts.to_review])


def curated(folder: Path, output: Path, **fields: object) -> Corpus:
    source = {"kind": "perbench", "images": "images", **fields}
    config = CurationConfig.model_validate({"root": str(folder), "sources": [source]})
    curate_local(config, Objects.open(output), NullProgress())
    corpus = Corpus.open(output)
    assert corpus.manifest.facts["num_rejects"] == 0
    return corpus


def facts(task: Task, image_id: str | None, masks: list[np.ndarray], *texts: object) -> tuple[object, ...]:
    return task, image_id, tuple(mask.tobytes() for mask in masks), *texts


def sample_facts(sample: Sample) -> tuple[object, ...]:
    (turn,) = sample.turns
    masks = [decode_mask(region.mask) for region in sample.regions]
    assert len(sample.prompts) == 1
    return facts(sample.task, sample.image_id, masks, turn.text, turn.answer, turn.options)


def test_what_is_exported_is_read_back_the_same(drafts: Drafts, tmp_path: Path) -> None:
    choice = next(item for item in drafts.to_review if item.task is BenchmarkTask.MULTIPLE_CHOICE)
    edit = Texts(question='Was ist <region1>, "genau"?', options=("eine Tasse", "ein Krug <grün>"), right=1)
    rejected = next(item for item in drafts.to_review if item.task is BenchmarkTask.DETAILED_CAPTION).item_id
    found = reviewed(drafts, {choice.item_id: edit}, rejected)
    folder = tmp_path / "benchmark"
    folder.mkdir()
    done = export_benchmark(drafts, found, folder, NullProgress())
    assert list(done.num_items.values()) == [3, 4, 4]

    expected: set[tuple[object, ...]] = set()
    for task, items in accepted_items(drafts, found, 500).items():
        for item, texts in items:
            masks = [decode_mask(region.region().mask) for region in (*item.prompts, *item.targets)]
            if task is BenchmarkTask.DETAILED_CAPTION:
                expected.add(facts(Task.DESCRIPTION, item.image_id, masks, "<region1>", texts.caption, ()))
            elif task is BenchmarkTask.MULTIPLE_CHOICE:
                answer = texts.options[texts.right]
                one = facts(Task.MULTIPLE_CHOICE, item.image_id, masks, texts.question, answer, texts.options)
                expected.add(one)
            else:
                one = facts(Task.VISUAL_TEXT_REFERRING, item.image_id, masks, texts.question, texts.answer, ())
                expected.add(one)
    corpus = curated(folder, tmp_path / "corpus-of-it")
    assert len(expected) == 11
    assert {sample_facts(sample) for sample in corpus.samples()} == expected
    assert {sample.split for sample in corpus.samples()} == {"val"}


def test_the_readme_says_who_made_it(drafts: Drafts, tmp_path: Path) -> None:
    folder = tmp_path / "benchmark"
    folder.mkdir()
    first = next(item for item in drafts.to_review if item.task is BenchmarkTask.MULTIPLE_CHOICE)
    export_benchmark(drafts, reviewed(drafts, rejected=first.item_id), folder, NullProgress(), num_per_task=2)
    text = (folder / "README.md").read_text()
    assert "| `perbench/val/mcq.json` | 2 |" in text
    assert "- **Captioner**: template, version 1." in text
    assert "decisions per item: 2; reviewers: 2; 100% of 12 pairs of decisions are equal, Cohen's kappa 1.00." in text
    assert "- Of 12 items that passed the checks: 0 open, 11 accepted, 1 rejected, 0 disputed." in text
    assert drafts.manifest.key in text
    rows = json.loads((folder / "perbench/val/visual_text_res.json").read_text())
    assert len(rows) == 2
    assert set(rows[0]["segmentations"]) == {"<region1>", "<target1>"}
    assert {path.name for path in (folder / "images").iterdir()} == {
        row["image_name"]
        for name in ("detailed_caption", "mcq", "visual_text_res")
        for row in json.loads((folder / f"perbench/val/{name}.json").read_text())
    }


def test_a_task_without_accepted_items_has_no_file_and_the_recipe_says_so(drafts: Drafts, tmp_path: Path) -> None:
    log = DecisionLog(drafts.objects)
    item = next(item for item in drafts.to_review if item.task is BenchmarkTask.DETAILED_CAPTION)
    log.decide("Ada", item.item_id, Verdict.ACCEPTED, item.texts)
    folder = tmp_path / "benchmark"
    folder.mkdir()
    found = outcomes(log.by_reviewer(), [item.item_id for item in drafts.to_review], 1)
    export_benchmark(drafts, found, folder, NullProgress(), reviewers_per_item=1)
    assert "{kind: perbench, images: images, mcq: null, visual_text_res: null}" in (folder / "README.md").read_text()
    corpus = curated(folder, tmp_path / "corpus-of-it", mcq=None, visual_text_res=None)
    assert corpus.manifest.facts["num_samples"] == 1


def test_nothing_accepted_is_told(drafts: Drafts, tmp_path: Path) -> None:
    found = outcomes({}, [item.item_id for item in drafts.to_review])
    with pytest.raises(DataError, match=r"expected items that 2 reviewers accept, found none \(12 open\); go on with"):
        export_benchmark(drafts, found, tmp_path, NullProgress())
    assert list(tmp_path.glob("perbench")) == []
