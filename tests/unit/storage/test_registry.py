"""The registry: nothing is lost or overwritten, whoever writes at the same time and whenever one of them is killed."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptObject, UsageError
from storage.keys import content_key
from storage.objects import Objects
from storage.registry import Registry
from storage.registry_records import Event, Happening, Version
from tests.registries import check_history, comparison_with, student_facts


def _in_memory() -> Registry:
    return Registry(Objects.open(f"memory://{uuid.uuid4().hex}/registry/tests"))


@pytest.fixture(params=["file", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return Registry(Objects.open(tmp_path)) if request.param == "file" else _in_memory()


def _with_champion(registry: Registry, *names: str) -> Registry:
    """Registers students, each of which becomes the champion."""
    for name in names:
        registry.promote(registry.register(student_facts(name)).number, ["by hand"])
    return registry


def test_an_empty_registry(registry: Registry) -> None:
    assert registry.state() is None
    assert registry.history() == registry.versions() == []
    with pytest.raises(UsageError, match="no version 1; found a registry without versions"):
        registry.promote(1, ["by hand"])
    with pytest.raises(UsageError, match="expected an earlier champion, found none: there is no champion"):
        registry.roll_back(["by hand"])


def test_events_tell_how_things_stand(registry: Registry) -> None:
    first = registry.register(student_facts("a"))
    assert (first.number, first.checkpoint.key) == (1, "a")
    assert registry.decide(first, True, ["there was no champion"], None)
    second = registry.register(student_facts("b", parent=1, retrain_key="k"))
    comparison = comparison_with(1)
    refused = registry.decide(second, False, ["worse"], comparison)
    assert refused is not None
    assert (refused.aliases, refused.reasons) == ({"champion": 1, "challenger": 2}, ("worse",))
    assert (refused.comparison, refused.retrain_key) == (comparison, "k")
    third = registry.register(student_facts("c", parent=1))
    promoted = registry.decide(third, True, ["better"], comparison)
    assert promoted is not None
    assert promoted.aliases == {"champion": 3}
    assert registry.roll_back(["by hand"]).aliases == {"champion": 1}
    assert registry.state() == registry.history()[-1]
    assert [event.happening.value for event in registry.history()] == [
        *("registered", "promoted", "registered", "refused", "registered", "promoted", "rolled_back")
    ]
    assert registry.versions() == [first, second, third]
    assert registry.version(2).parent == 1
    check_history(registry.history())
    keys = {info.key for info in registry.objects.list()}
    assert keys == {f"events/{n:06d}.json" for n in range(1, 8)} | {f"versions/{n:06d}.json" for n in range(1, 4)}


def test_a_decision_against_another_champion_is_not_written(registry: Registry) -> None:
    _with_champion(registry, "a", "b")
    third = registry.register(student_facts("c"))
    before = registry.state()
    assert registry.decide(third, True, ["better"], comparison_with(1)) is None
    assert registry.decide(third, False, ["worse"], comparison_with(1)) is None
    assert registry.decide(third, True, ["there was no champion"], None) is None
    assert registry.state() == before
    assert registry.decide(third, True, ["better"], comparison_with(2))


def test_rolling_back_goes_from_champion_to_champion(registry: Registry) -> None:
    _with_champion(registry, "a", "b", "c")
    registry.register(student_facts("d"))
    assert [registry.roll_back(["by hand"]).version for _ in range(2)] == [2, 1]
    with pytest.raises(UsageError, match="found none: version 1 is the first champion; promote a version"):
        registry.roll_back(["by hand"])
    with pytest.raises(UsageError, match="version 1 is the champion already"):
        registry.promote(1, ["by hand"])
    with pytest.raises(UsageError, match="no version 5; found versions 1 to 4"):
        registry.promote(5, ["by hand"])
    registry.promote(3, ["by hand"])
    assert registry.roll_back(["by hand"]).aliases == {"champion": 1, "challenger": 4}
    check_history(registry.history())


def test_a_retrain_starts_from_the_same_when_it_is_repeated(registry: Registry) -> None:
    assert registry.plan("k") is None
    first = registry.begin("k")
    assert (first.champion, first.after_event) == (None, 0)
    _with_champion(registry, "a")
    assert registry.begin("k") == registry.plan("k") == first
    second = registry.begin("another")
    assert (second.champion, second.after_event) == (1, 2)
    assert registry.last_event_of(second) is None
    version = registry.register(student_facts("b", retrain_key="another"))
    registered = registry.last_event_of(second)
    assert registered is not None
    assert registered.happening is Happening.REGISTERED
    registry.promote(2, ["by hand"])
    assert registry.last_event_of(second) == registered
    assert registry.decide(version, False, ["worse"], comparison_with(2)) == registry.last_event_of(second)
    assert registry.last_event_of(first) is None


class _Killed(Exception):
    """In the place of a signal."""


def _killed_between_version_and_event(registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(event: Event) -> bool:
        raise _Killed(event)

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_append", killed)
        with pytest.raises(_Killed, match="registered"):
            registry.register(student_facts(name))


@pytest.mark.parametrize("num_before", [0, 2])
def test_who_was_killed_between_version_and_event_goes_on_with_its_version(
    registry: Registry, num_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_champion(registry, *"ab"[:num_before])
    before = registry.state()
    _killed_between_version_and_event(registry, "x", monkeypatch)
    assert registry.state() == before
    assert len(registry.versions()) == num_before
    assert registry.register(student_facts("x")).number == num_before + 1
    assert [version.checkpoint.key for version in registry.versions()] == [*"ab"[:num_before], "x"]
    check_history(registry.history())


def test_the_next_one_registers_who_was_killed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_champion(registry, "a")
    _killed_between_version_and_event(registry, "x", monkeypatch)
    assert registry.register(student_facts("y")).number == 3
    assert [version.checkpoint.key for version in registry.versions()] == ["a", "x", "y"]
    assert [event.version for event in registry.history()] == [1, 1, 2, 3]
    check_history(registry.history())


def test_the_loser_of_a_race_decides_on_what_the_winner_wrote(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_champion(registry, "a", "b", "c")
    fourth = registry.register(student_facts("d"))
    append = registry._append
    faster: list[int] = []

    def late(event: Event) -> bool:
        """Somebody else is faster, once."""
        if not faster:
            faster.append(Registry(registry.objects).roll_back(["it answers nonsense"]).number)
        return append(event)

    monkeypatch.setattr(registry, "_append", late)
    assert registry.decide(fourth, True, ["better"], comparison_with(3)) is None
    faster.clear()
    assert registry.promote(4, ["by hand"]).number == 10
    assert [(event.happening.value, event.champion) for event in registry.history()[6:]] == [
        *(("registered", 3), ("rolled_back", 2), ("rolled_back", 1), ("promoted", 4))
    ]
    check_history(registry.history())


def test_a_repeat_of_a_write_whose_answer_was_lost_counts_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = _in_memory()
    create = Objects.create

    def answer_lost(objects: Objects, key: str, data: bytes) -> bool:
        create(objects, key, data)
        return create(objects, key, data)

    monkeypatch.setattr(Objects, "create", answer_lost)
    _with_champion(registry, "a", "b")
    assert [event.version for event in registry.history()] == [1, 1, 2, 2]
    assert len(registry.versions()) == 2


def _altered(data: bytes) -> bytes:
    return data.replace(b'"num_versions":2', b'"num_versions":1')


def _of_tomorrow(data: bytes) -> bytes:
    value = {**json.loads(data), "format": 2}
    del value["key"]
    return json.dumps({**value, "key": content_key(value)}).encode()


def _without_a_field(data: bytes) -> bytes:
    value = json.loads(data)
    del value["key"], value["nonce"]
    return json.dumps({**value, "key": content_key(value)}).encode()


def _of_no_version(data: bytes) -> bytes:
    value = json.loads(data)
    del value["key"]
    value["aliases"] = {"champion": 7}
    return json.dumps({**value, "key": content_key(value)}).encode()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda data: data[:-20],
            r"events/000004.json: expected a record of a registry \(Event\), found something else",
        ),
        (lambda data: b"\xff" + data, r"events/000004.json: .*found something else"),
        (lambda data: b"[]", r"events/000004.json: .*found something else"),
        (lambda data: b'{"a":NaN}', r"events/000004.json: .*found something else"),
        (_altered, r"events/000004.json: .*its hash doesn't match: it was altered; restore it"),
        (_of_tomorrow, r"events/000004.json: .*of format 1, found 2; use a newer Sailloft"),
        (_without_a_field, r"events/000004.json: .*got nonce: Field required; restore it"),
        (_of_no_version, r"events/000004.json: .*expected versions of 1 to 2, got 2 and {'champion': 7}"),
    ],
    ids=["torn", "no text", "a list", "no number", "altered", "newer", "lacking", "unknown version"],
)
def test_a_damaged_event_is_named(registry: Registry, spoil: Callable[[bytes], bytes], told: str) -> None:
    _with_champion(registry, "a", "b")
    registry.objects.put("events/000004.json", spoil(registry.objects.read("events/000004.json")))
    with pytest.raises(CorruptObject, match=told):
        registry.state()
    with pytest.raises(CorruptObject, match=told):
        registry.roll_back(["by hand"])


def test_missing_and_swapped_records_are_named(registry: Registry) -> None:
    _with_champion(registry, "a", "b")
    objects = registry.objects
    second = objects.read("events/000002.json")
    objects.delete("events/000002.json")
    with pytest.raises(CorruptObject, match=r"events/000002.json: missing, though events/000004.json is there"):
        registry.state()
    objects.put("events/000002.json", objects.read("events/000001.json"))
    with pytest.raises(CorruptObject, match=r"events/000002.json: holds event 1; restore it"):
        registry.history()
    objects.put("events/000002.json", second)
    objects.put("versions/000002.json", objects.read("versions/000001.json"))
    with pytest.raises(CorruptObject, match=r"versions/000002.json: holds version 1; restore it"):
        registry.versions()
    objects.delete("versions/000002.json")
    with pytest.raises(CorruptObject, match=r"versions/000002.json: missing, though later records name it"):
        registry.version(2)
    objects.put("plans/k.json", b"{}")
    with pytest.raises(CorruptObject, match=r"plans/k.json: expected a record of a registry \(RetrainPlan\)"):
        registry.begin("k")


def test_other_files_beside_the_events_are_passed_over(registry: Registry) -> None:
    registry.objects.put("events/notes.txt", b"")
    registry.objects.put("events/17.json", b"")
    assert len(_with_champion(registry, "a").history()) == 2


_ACT = st.one_of(
    st.tuples(st.just("register"), st.sampled_from("abcd")),
    st.tuples(st.just("promote"), st.integers(1, 5)),
    st.tuples(st.just("decide"), st.booleans()),
    st.tuples(st.just("roll back"), st.just(0)),
)


def _act(registry: Registry, own: list[Version], act: tuple[str, object]) -> Event | Version | None:
    """Does one thing; None if it can't be done as things stand."""
    verb, detail = act
    try:
        if verb == "register":
            own.append(registry.register(student_facts(str(detail))))
            return own[-1]
        if verb == "promote":
            return registry.promote(int(str(detail)), ["by hand"])
        if verb == "roll back":
            return registry.roll_back(["by hand"])
        state = registry.state()
        if not own or state is None or state.champion == own[-1].number:
            return None
        comparison = None if state.champion is None else comparison_with(state.champion)
        return registry.decide(own[-1], bool(detail) or comparison is None, ["compared"], comparison)
    except UsageError:
        return None


@settings(max_examples=30)
@given(st.lists(st.lists(_ACT, min_size=1, max_size=6), min_size=2, max_size=4))
def test_whatever_several_do_at_once_stands_in_the_log_once(scripts: list[list[tuple[str, object]]]) -> None:
    registry = _in_memory()

    def write(script: list[tuple[str, object]]) -> list[Event | Version | None]:
        mine, own = Registry(registry.objects), list[Version]()
        return [_act(mine, own, act) for act in script]

    with ThreadPoolExecutor(len(scripts)) as pool:
        done = [item for items in pool.map(write, scripts) for item in items if item is not None]
    events, versions = registry.history(), registry.versions()
    check_history(events)
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    written = [event for event in events if event.happening is not Happening.REGISTERED]
    assert Counter(e.number for e in done if isinstance(e, Event)) == Counter(event.number for event in written)
    assert all(events[event.number - 1] == event for event in done if isinstance(event, Event))
    assert all(versions[version.number - 1] == version for version in done if isinstance(version, Version))
    assert {version.number for version in versions} == {v.number for v in done if isinstance(v, Version)}
