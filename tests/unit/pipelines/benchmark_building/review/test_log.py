"""The log in the store: create-only, for several people and servers at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipelines.benchmark_building.records import Texts
from pipelines.benchmark_building.review.decisions import Verdict, standing
from pipelines.benchmark_building.review.log import DecisionLog
from storage.errors import CorruptObject
from storage.objects import Objects

_TEXTS = Texts(caption="a cup")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "drafts")


def log_on(objects: Objects) -> DecisionLog:
    return DecisionLog(objects, lambda: "2026-01-01T00:00:00+00:00")


def test_what_was_decided_is_there_for_the_next_server(objects: Objects) -> None:
    first = log_on(objects)
    first.decide("Ada", "a", Verdict.ACCEPTED, _TEXTS)
    first.decide("Ada", "b", Verdict.REJECTED, reason="blurred")
    first.decide("Bo", "a", Verdict.REJECTED)
    second = log_on(objects)
    assert second.by_reviewer() == {}
    second.refresh()
    assert second.by_reviewer() == first.by_reviewer()
    ada, bo = sorted(second.by_reviewer().values(), key=len, reverse=True)
    assert [decision.number for decision in ada] == [0, 1]
    assert (ada[1].reason, bo[0].verdict) == ("blurred", Verdict.REJECTED)
    assert len(list(objects.list("decisions"))) == 3


def test_undo_takes_back_one_after_the_other(objects: Objects) -> None:
    log = log_on(objects)
    for item in ("a", "b"):
        log.decide("Ada", item, Verdict.ACCEPTED, _TEXTS)
    assert [undone.item_id for undone in (log.undo("ada"), log.undo("Ada")) if undone] == ["b", "a"]
    assert log.undo("Ada") is None
    assert log.undo("Bo") is None
    (own,) = log.by_reviewer().values()
    assert standing(own) == {}
    assert len(own) == 4  # nothing was overwritten or removed


def test_two_servers_of_one_reviewer_lose_nothing(objects: Objects) -> None:
    logs = [log_on(objects) for _ in range(4)]

    def work(number: int) -> None:
        for place in range(8):
            logs[number].decide("Ada", f"{number}-{place}", Verdict.ACCEPTED, _TEXTS)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = log_on(objects)
    reader.refresh()
    (own,) = reader.by_reviewer().values()
    assert sorted(decision.number for decision in own) == list(range(32))
    assert len({decision.item_id for decision in own}) == 32


@pytest.mark.parametrize("data", [b"not json", b"{}", b'{"reviewer": "Bo"}'])
def test_what_is_no_decision_is_told_by_name(objects: Objects, data: bytes) -> None:
    objects.create("decisions/ada-0/000000.json", data)
    with pytest.raises(CorruptObject, match=r"decisions/ada-0/000000.json: expected a decision, got .*; move it away"):
        log_on(objects).refresh()


def test_a_decision_under_another_name_is_refused(objects: Objects) -> None:
    log = log_on(objects)
    log.decide("Ada", "a", Verdict.ACCEPTED, _TEXTS)
    (own,) = objects.list("decisions")
    objects.create("decisions/bo-0/000000.json", objects.read(own.key))
    with pytest.raises(CorruptObject, match="names another reviewer or number"):
        log_on(objects).refresh()
