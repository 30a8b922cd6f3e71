from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from storage.leases import Digests, Holder, Lease, Leases, LeaseTimes, id_digests, uncovered
from storage.objects import Objects

TIMES = LeaseTimes(heartbeat_s=0.02, expires_after_s=60.0, look_again_s=0.005)
NEVER = replace(TIMES, heartbeat_s=1e6)


class Clock:
    """Seconds that stand still until somebody moves them."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "store" if request.param == "file" else f"memory://{tmp_path.name}")


@pytest.fixture(autouse=True)
def no_heart_beats_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leases that a test leaves behind, as a killed process would, don't live on beside the next test."""
    begun: list[Lease] = []
    begin = Lease.begin

    def noted(lease: Lease, digests: Digests) -> bool:
        begun.append(lease)
        return begin(lease, digests)

    monkeypatch.setattr(Lease, "begin", noted)
    yield
    for lease in begun:
        lease.close()


def _keys(store: Objects) -> list[str]:
    return [info.key for info in store.list()]


def test_a_lease_is_seen_by_others_alone_and_given_back(store: Objects) -> None:
    mine, other = Leases(store, TIMES), Leases(store, TIMES)
    lease = mine.claim("plan", ["a", "b"])
    assert lease is not None
    with lease:
        assert mine.others() == []
        (seen,) = other.others()
        assert (seen.name, seen.holder, seen.state) == ("plan", Holder.this_process(), "held")
        assert uncovered(["a", "c", "b"], [seen]).tolist() == [False, True, False]
        assert other.claim("plan", ["a", "b"]) is None
        assert other.claim("another", ["b", "c"]) is None
        with other.claim("further", ["c"]) or pytest.fail("nobody holds c"):
            assert [found.name for found in mine.others()] == ["further"]
    assert other.others() == []
    assert _keys(store) == []


def test_a_lease_dies_when_it_stands_unchanged(store: Objects) -> None:
    clock = Clock()
    lease = Leases(store, NEVER).claim("plan", ["a"])
    assert lease is not None
    watcher = Leases(store, NEVER, clock)
    for now_s, alive in ((0, 1), (59, 1), (60, 1), (61, 0)):
        clock.now_s = now_s
        assert len(watcher.others()) == alive
    assert _keys(store) == []
    assert watcher.claim("plan", ["a"]) is not None


def test_a_lease_lives_as_long_as_it_states_itself(store: Objects) -> None:
    clock = Clock()
    assert Leases(store, replace(NEVER, expires_after_s=100.0)).claim("plan", ["a"])
    watcher = Leases(store, NEVER, clock)
    (seen,) = watcher.others()
    assert (seen.num_beats, seen.expires_after_s) == (1, 100.0)
    assert datetime.fromisoformat(seen.since) <= datetime.now(UTC)
    clock.now_s = 100
    assert watcher.others()
    clock.now_s = 101
    assert not watcher.others()


def test_a_heartbeat_keeps_it_alive(store: Objects) -> None:
    clock = Clock()
    with Leases(store, TIMES).claim("plan", ["a"]) or pytest.fail("free"):
        watcher = Leases(store, TIMES, clock)
        assert watcher.others()
        before = store.read("leases/plan.json")
        while store.read("leases/plan.json") == before:
            pass
        clock.now_s = 61
        assert watcher.others()


def test_the_lease_of_a_process_that_is_gone_is_dead_at_once(tmp_path: Path) -> None:
    store = Objects.open(tmp_path)
    program = (
        "import os, sys\n"
        "from storage.leases import Leases\n"
        "from storage.objects import Objects\n"
        "assert Leases(Objects.open(sys.argv[1])).claim('plan', ['a'])\n"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, store.url], check=False, cwd=Path(__file__).parents[3])
    assert len(_keys(store)) == 2
    assert Leases(store, TIMES).others() == []
    assert _keys(store) == []


def test_who_is_gone() -> None:
    here = Holder.this_process()
    assert not here.is_gone()
    assert replace(here, birth="0").is_gone()
    assert not replace(here, birth="").is_gone()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert replace(here, pid=ended.pid).is_gone()
    assert not replace(here, pid=ended.pid, machine="another").is_gone()
    assert str(replace(here, host="node1", pid=7)) == "node1, process 7"


def test_a_holder_taken_for_dead_leaves_its_successor_alone(store: Objects) -> None:
    clock = Clock()
    first = Leases(store, NEVER).claim("plan", ["a"])
    assert first is not None
    watcher = Leases(store, NEVER, clock)
    watcher.others()
    clock.now_s = 61
    watcher.others()
    second = watcher.claim("plan", ["a"])
    assert second is not None
    first.close()
    assert [lease.nonce for lease in Leases(store, NEVER).others()] == [second.nonce]


def test_of_two_that_claim_the_smaller_name_stays(store: Objects) -> None:
    """The larger one sees the smaller one claim, and the other way round."""
    claiming = Leases(store, NEVER)
    rival = Lease(store, "b", NEVER)
    rival.begin(id_digests(["x"]))
    assert claiming.claim("c", ["x"]) is None
    looks: list[float] = []

    def rival_withdraws(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            rival.close()

    assert Leases(store, NEVER, sleep=rival_withdraws).claim("a", ["x", "y"]) is not None
    assert len(looks) == 2


def test_who_claims_withdraws_from_one_that_turns_out_to_hold(store: Objects) -> None:
    rival = Lease(store, "b", NEVER)
    rival.begin(id_digests(["x"]))
    assert Leases(store, NEVER, sleep=lambda seconds: rival.hold()).claim("a", ["x"]) is None
    assert [lease.name for lease in Leases(store, NEVER).others()] == ["b"]


@pytest.mark.parametrize("round_number", range(5))
def test_of_many_at_once_one_gets_each_image(store: Objects, round_number: int) -> None:
    def claim(number: int) -> int:
        lease = Leases(store, TIMES).claim(f"plan{number}", ["shared", f"own{number}"])
        return 0 if lease is None else 1

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(claim, range(6))) == 1


def test_digests_are_sorted_and_small() -> None:
    digests = id_digests(str(number) for number in range(1000))
    assert digests.dtype == np.uint64
    assert len(np.unique(digests)) == 1000
    assert (np.diff(digests.astype(object)) > 0).all()
