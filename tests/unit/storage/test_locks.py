"""One at a time: who lives is left alone, who is dead is taken over from."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.errors import Locked
from storage.leases import Holder, Lease, LeaseTimes, id_digests
from storage.locks import exclusive, lock_times
from storage.objects import Objects

SILENT = LeaseTimes(heartbeat_s=1e6, expires_after_s=60.0)


@pytest.fixture(params=["file", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "registry" if request.param == "file" else f"memory://{tmp_path.name}")


class Time:
    """Passes while somebody waits; something may happen on the way."""

    def __init__(self, holder: Lease | None = None, beat_at_s: float = float("inf")) -> None:
        self.now_s, self._holder, self._beat_at_s = 0.0, holder, beat_at_s

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self._holder is not None and self.now_s >= self._beat_at_s:
            self._holder.hold()


def test_a_lock_is_given_back(objects: Objects) -> None:
    for _ in range(2):
        with exclusive(objects, "work", SILENT):
            assert [info.key for info in objects.list() if info.key.endswith(".json")] == ["leases/work.json"]
        assert not list(objects.list())
    with pytest.raises(ZeroDivisionError, match="division"), exclusive(objects, "work", SILENT):
        _ = 1 / 0
    assert not list(objects.list())


def test_who_gives_a_sign_of_life_is_left_alone(objects: Objects) -> None:
    holder = Lease(objects, "work", SILENT)
    assert holder.begin(id_digests(["work"]))
    waited: list[str] = []
    passing = Time(holder, beat_at_s=30.0)
    expected = (
        rf"expected nobody else at work \(work\), found {re.escape(str(Holder.this_process()))}, since \S+; it is free "
        r"when that ends, or at \S+ without a further sign of life: try again then"
    )
    with (
        pytest.raises(Locked, match=expected) as refused,
        exclusive(objects, "work", SILENT, lambda seen: waited.append(seen.name), passing.clock, passing.sleep),
    ):
        pytest.fail("it is held")
    assert refused.value.exit_code == 4
    assert waited == ["work"]
    assert 30.0 <= passing.now_s < 31.0
    holder.close()


def test_a_stale_lock_expires(objects: Objects) -> None:
    holder = Lease(objects, "work", SILENT)
    assert holder.begin(id_digests(["work"]))
    passing = Time()
    with exclusive(objects, "work", SILENT, clock=passing.clock, sleep=passing.sleep):
        assert 60.0 <= passing.now_s < 61.0
        holder.close()  # it wakes up, and sees that the lock isn't its own any more
        assert [info.key for info in objects.list() if info.key.endswith(".json")] == ["leases/work.json"]
    assert not list(objects.list())


def test_other_work_is_nobodys_business(objects: Objects) -> None:
    with exclusive(objects, "work", SILENT), exclusive(objects, "other", SILENT):
        assert len([info for info in objects.list() if info.key.endswith(".json")]) == 2


def test_the_lock_of_a_process_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from storage.locks import exclusive, lock_times\n"
        "from storage.objects import Objects\n"
        "with exclusive(Objects.open(sys.argv[1]), 'work', lock_times(1000.0)):\n"
        "    os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=False, cwd=Path(__file__).parents[3], timeout=60
    )
    assert done.returncode == 9
    assert len(list(Objects.open(tmp_path).list())) == 2
    passing = Time()
    with exclusive(Objects.open(tmp_path), "work", lock_times(1000.0), clock=passing.clock, sleep=passing.sleep):
        assert passing.now_s == 0


@pytest.mark.parametrize("round_number", range(5))
def test_of_many_at_once_one_works(objects: Objects, round_number: int) -> None:
    times = LeaseTimes(heartbeat_s=0.02, expires_after_s=60.0, look_again_s=0.005)
    at_work: list[int] = []
    refused: list[int] = []

    def work(number: int) -> None:
        try:
            with exclusive(objects, "work", times):
                at_work.append(number)
                while len(refused) < 3:
                    pass
                assert at_work == [number]
        except Locked:
            refused.append(number)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(work, range(4)):
            pass
    assert (len(at_work), len(refused)) == (1, 3)
