"""The page on building a benchmark names every setting, check, captioner and key there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.benchmark_building.captioners.registry import CAPTIONERS
from pipelines.benchmark_building.records import Code
from pipelines.benchmark_building.settings import BuildConfig
from tests.readme_blocks import DOCUMENTS, read_blocks

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def page() -> str:
    return (_ROOT / "docs/benchmark-building.md").read_text()


def _first_cells(page: str, head: str) -> set[str]:
    """What stands in code in the first column of the table under a head."""
    rows = page.partition(f"| {head} | ")[2].partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_tables_are_complete(page: str) -> None:
    assert _first_cells(page, "setting") == set(BuildConfig.model_fields)
    assert _first_cells(page, "code") == {code.value for code in Code}
    kinds = {re.match(r"{kind: (\w+)", cell) for cell in _first_cells(page, "captioner settings")}
    assert {kind[1] for kind in kinds if kind} == set(CAPTIONERS)


def test_keys_are_those_of_the_page_in_the_browser(page: str) -> None:
    script = (_ROOT / "pipelines/viewer/benchmark_review/static/review.js").read_text()
    letters = re.findall(r"[{ ]([a-z]): \"", script.partition("const keys = {")[2].partition("};")[0])
    assert len(letters) == 10
    assert [letter for letter in letters if f"**{letter.upper()}**" not in page] == []


def test_its_blocks_run(page: str) -> None:
    assert "docs/benchmark-building.md" in DOCUMENTS
    assert [block.mark for block in read_blocks(page)].count("run") == 3
