"""A registry keeps its word on a disk and on a real S3 server, with several that write at once."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.errors import CorruptObject
from storage.objects import Objects
from storage.registry import Registry
from storage.registry_records import Happening
from tests.registries import check_history, comparison_with, student_facts

_NUM_WRITERS = 4


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "file":
        return Objects.open(tmp_path / "registry")
    return Objects.open(f"{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex}/registry/tests")


def _retrain(objects: Objects, writer: int) -> list[bool]:
    """Registers three students; compares each with whoever is the champion, until it is decided."""
    registry = Registry(objects)
    decided: list[bool] = []
    for round_number in range(3):
        version = registry.register(student_facts(f"{writer}-{round_number}", retrain_key=f"{writer}-{round_number}"))
        event = None
        while event is None:
            state = registry.state()
            assert state is not None
            comparison = None if state.champion is None else comparison_with(state.champion)
            event = registry.decide(version, round_number != 1 or comparison is None, ["compared"], comparison)
        decided.append(event.happening is Happening.PROMOTED)
    return decided


def test_several_write_at_once(objects: Objects) -> None:
    with ThreadPoolExecutor(_NUM_WRITERS) as pool:
        decided = list(pool.map(_retrain, [objects] * _NUM_WRITERS, range(_NUM_WRITERS)))
    registry = Registry(objects)
    events, versions = registry.history(), registry.versions()
    check_history(events)
    assert len(events) == 2 * len(versions)
    assert sorted(version.checkpoint.key for version in versions) == [f"{w}-{r}" for w in range(4) for r in range(3)]
    promoted = [event for event in events if event.happening is Happening.PROMOTED]
    assert len(promoted) == sum(map(sum, decided))
    state = registry.state()
    assert state is not None
    assert state.champion == promoted[-1].version


def test_a_damaged_log_is_told(objects: Objects) -> None:
    registry = Registry(objects)
    for name in "ab":
        registry.promote(registry.register(student_facts(name)).number, ["by hand"])
    whole = objects.read("events/000004.json")
    objects.put("events/000004.json", whole[:-1])
    with pytest.raises(CorruptObject, match=r"events/000004\.json: expected a record of a registry \(Event\)"):
        registry.state()
    objects.put("events/000004.json", whole)
    objects.delete("events/000003.json")
    with pytest.raises(CorruptObject, match=r"events/000003\.json: missing, though events/000004\.json is there"):
        registry.state()
