"""Decisions: what stands after all acts of a reviewer, and names."""

from __future__ import annotations

import pytest

from pipelines.benchmark_building.records import Texts
from pipelines.benchmark_building.review.decisions import (
    Decision,
    Verdict,
    clean_name,
    last_undoable,
    reviewer_key,
    standing,
)


def act(number: int, item_id: str, verdict: Verdict = Verdict.ACCEPTED, undoes: int | None = None) -> Decision:
    return Decision(
        reviewer="Ada",
        number=number,
        item_id=item_id,
        verdict=verdict,
        texts=Texts(caption="a") if verdict is Verdict.ACCEPTED else None,
        undoes=undoes,
        decided_at="2026-01-01T00:00:00+00:00",
    )


def test_the_latest_decision_on_an_item_stands() -> None:
    acts = [act(0, "a"), act(1, "b"), act(2, "a", Verdict.REJECTED)]
    assert {item: decision.number for item, decision in standing(acts).items()} == {"a": 2, "b": 1}


def test_undoing_uncovers_what_was_before() -> None:
    acts = [act(0, "a"), act(1, "a", Verdict.REJECTED), act(2, "a", Verdict.UNDONE, undoes=1)]
    assert standing(acts)["a"].number == 0
    assert last_undoable(acts) == acts[0]
    acts.append(act(3, "a", Verdict.UNDONE, undoes=0))
    assert standing(acts) == {}
    assert last_undoable(acts) is None


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x1b[31mb", "\u202eada"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="name: expected 1 to 60 characters that can be shown"):
        clean_name(name)


def test_keys_are_safe_and_tell_people_apart() -> None:
    names = ["Ada", "../../etc", "Ядвига", "a/b", "Ada ", "ADA"]
    keys = [reviewer_key(name) for name in names]
    assert len(set(keys)) == 4
    assert keys[0] == keys[4] == keys[5]
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for key in keys)
