"""The page on users' own data: its programs run, its rows are good, and its table names every field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.families.generic import known_row_fields
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.objects import Objects
from storage.schema import Task
from tests.readme_blocks import DOCUMENTS, read_blocks

_PAGE = Path(__file__).resolve().parents[3] / "docs/own-data.md"


@pytest.fixture(scope="module")
def page() -> str:
    return _PAGE.read_text()


def test_programs_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    programs = [block for block in read_blocks(page) if block.language == "python"]
    assert [program.mark for program in programs] == ["run"] * 3
    printed: list[str] = []
    for program in programs:
        exec(compile(program.code, f"{_PAGE.name}:{program.line}", "exec"), {"__name__": "__main__"})
        printed.append(capsys.readouterr().out)
    assert "row=3 annotation_missing expression: expected segmentation or regions beside it" in printed[0]
    assert printed[1].count("\n") == 7
    assert printed[2].startswith("('photos.zip/kitchen.png', 'photos.zip/photos/kitchen.png', 'photos/kitchen.png') [")


def test_rows_of_the_first_example_are_good(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(next(block.code for block in read_blocks(page) if block.language == "python"), {"__name__": "__main__"})
    (lines,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert all(json.loads(line) for line in lines.splitlines())
    Path("runs/own-data/rows.jsonl").write_text(lines)
    config = CurationConfig.model_validate({"root": "runs/own-data", "sources": [{"kind": "generic"}]})
    curate_local(config, Objects.open(tmp_path / "out"), NullProgress())
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.manifest.facts["num_rejects"] == 0
    assert [sample.task for sample in sorted(corpus.samples(), key=lambda sample: sample.locator)] == [
        *(Task.REFERRING, Task.REFERRING, Task.CONVERSATION, Task.CAPTION)
    ]


def test_the_table_names_every_field_and_task(page: str) -> None:
    table = page.partition("## Fields of a row")[2].partition("**Segmentations**")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == known_row_fields()
    assert all(f"`{task}`" in table for task in Task)


def test_the_page_is_among_those_whose_blocks_run() -> None:
    assert "docs/own-data.md" in DOCUMENTS
