"""`parent: latest`: which of the corpora of a workspace is gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local, find_target
from pipelines.progress import NullProgress
from storage.errors import UsageError
from storage.manifest import MANIFEST_NAME
from storage.objects import Objects
from tests.small_workspaces import SmallWorkspace


@pytest.fixture
def small(tmp_path: Path) -> SmallWorkspace:
    """Three files of rows: of one, two and three records."""
    small = SmallWorkspace(Objects.open(tmp_path / "work"), tmp_path / "sources")
    for number in (1, 2, 3):
        small.rows(f"{number}.jsonl", *((10 * number + row, "the cup", "train") for row in range(number)))
    return small


def latest(small: SmallWorkspace, *files: str, **fields: object) -> str | None:
    """Key of the corpus that a corpus of files of rows goes on from."""
    config = small.config(*files, **fields).model_copy(update={"parent": "latest"})
    target = find_target(config, corpora=small.workspace.child("curate"))
    assert target.key == find_target(config.model_copy(update={"parent": target.parent})).key
    return None if target.parent is None else target.parent.rpartition("/")[2]


def test_the_one_of_which_most_records_stay_and_fewest_go(small: SmallWorkspace) -> None:
    assert latest(small, "1.jsonl") is None
    one, three = small.curate("1.jsonl"), small.curate("3.jsonl")
    both, all_three = small.curate("1.jsonl", "2.jsonl"), small.curate("1.jsonl", "2.jsonl", "3.jsonl")
    assert latest(small, "1.jsonl") == one
    assert latest(small, "3.jsonl") == three
    assert latest(small, "2.jsonl") == both
    assert latest(small, "2.jsonl", "1.jsonl") == both
    assert latest(small, "2.jsonl", "3.jsonl") == all_three
    small.rows("3.jsonl", (40, "another", "train"))
    assert latest(small, "3.jsonl") is None
    assert latest(small, "1.jsonl", "2.jsonl", "3.jsonl") == both


def test_of_equals_the_one_that_has_gone_on_furthest(small: SmallWorkspace) -> None:
    alone = small.curate("1.jsonl", "2.jsonl")
    first = small.curate("1.jsonl")
    second = small.curate("1.jsonl", "2.jsonl", parent=first)
    assert second != alone
    assert latest(small, "1.jsonl", "2.jsonl") == latest(small, "1.jsonl", "2.jsonl", "3.jsonl") == second


def test_corpora_that_cannot_be_gone_on_from_are_passed_over(small: SmallWorkspace) -> None:
    old, new = small.curate("1.jsonl"), small.curate("1.jsonl", "2.jsonl")
    assert latest(small, "1.jsonl", "2.jsonl", filters={"max_words": 9}) is None
    unfinished = small.workspace.child("curate/0123")
    unfinished.create("samples/00000.parquet", b"")
    assert latest(small, "1.jsonl", "2.jsonl") == new
    small.corpus(new).objects.delete(MANIFEST_NAME)
    assert latest(small, "1.jsonl", "2.jsonl") == old
    forgotten = {small.picture(10)}
    config = small.config("1.jsonl", "2.jsonl").model_copy(update={"parent": "latest"})
    assert find_target(config, None, forgotten, small.workspace.child("curate")).parent is None


def test_without_a_workspace_nothing_is_the_latest(small: SmallWorkspace) -> None:
    config = CurationConfig.model_validate({**small.config("1.jsonl").model_dump(mode="json"), "parent": "latest"})
    with pytest.raises(UsageError, match="latest is looked for in a recipe's workspace; give a URL"):
        curate_local(config, small.workspace.child("here"), NullProgress())
