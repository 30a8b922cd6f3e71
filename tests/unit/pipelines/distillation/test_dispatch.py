from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from pipelines.distillation.dispatch import Died, Dispatcher, Done, Event, Failed, Limits, Stirred, retry_pause_s
from pipelines.distillation.plan import ShardTask
from storage.errors import DataError, InfrastructureError
from storage.feature_plan import ArrayPlan, PlannedRow, ShardPlan
from tests.counted_metrics import CountedMetrics

LIMITS = Limits(num_workers=2, max_retries=3, stuck_after_s=100.0)


def _tasks(count: int) -> list[ShardTask]:
    array = ArrayPlan("l4", count, 1, 4, 1)
    return [ShardTask(ShardPlan(array, index, (PlannedRow(str(index), 2, 2),)), ()) for index in range(count)]


class FakePool:
    """Workers that start at once and do a shard per poll; `script` may make something else of a poll.

    Time is the number of seconds that polls have waited.
    """

    def __init__(self, script: Callable[[FakePool], Sequence[Event[str]] | None] = lambda pool: None) -> None:
        self.now_s = 0.0
        self.script = script
        self.alive: dict[int, deque[str]] = {}
        self.unheard: deque[int] = deque()
        self.begun: Counter[str] = Counter()
        self.most_in_hand = 0
        self.killed: list[int] = []

    def clock(self) -> float:
        return self.now_s

    def start(self, worker: int) -> None:
        self.alive[worker] = deque()
        self.unheard.append(worker)

    def submit(self, worker: int, task: ShardTask) -> None:
        self.alive[worker].append(task.shard.key)
        self.begun[task.shard.key] += 1
        self.most_in_hand = max(self.most_in_hand, len(self.alive[worker]))

    def kill(self, worker: int) -> None:
        self.killed.append(worker)
        self.alive.pop(worker, None)

    def poll(self) -> Sequence[Event[str]]:
        self.now_s += 1.0
        if self.unheard:
            return [Stirred(self.unheard.popleft(), {})]
        scripted = self.script(self)
        if scripted is not None:
            return scripted
        return [Done(worker, key, key) for worker, keys in self.alive.items() if keys for key in [keys.popleft()]]


def _run(pool: FakePool, num_tasks: int, limits: Limits = LIMITS) -> tuple[list[str], Dispatcher[str]]:
    dispatcher = Dispatcher(pool, limits, pool.clock)
    return sorted(dispatcher.run(_tasks(num_tasks))), dispatcher


def test_every_shard_once_with_bounded_hands() -> None:
    pool = FakePool()
    done, dispatcher = _run(pool, 9)
    assert done == sorted(task.shard.key for task in _tasks(9))
    assert set(pool.begun.values()) == {1}
    assert pool.most_in_hand == 2
    assert pool.alive == {}
    assert not dispatcher.counts


def test_no_more_workers_than_shards() -> None:
    pool = FakePool()
    assert len(_run(pool, 1)[0]) == 1
    assert pool.killed == [0]
    assert _run(FakePool(), 0)[0] == []


def test_deaths_are_survived_and_the_pool_stays_full() -> None:
    generator = random.Random(0)

    def script(pool: FakePool) -> Sequence[Event[str]] | None:
        if generator.random() < 0.4:
            victim = generator.choice(list(pool.alive))
            pool.alive.pop(victim)
            return [Died(victim, "killed")]
        return None

    pool = FakePool(script)
    done, dispatcher = _run(pool, 40, Limits(2, max_retries=20, stuck_after_s=1e9))
    assert len(done) == 40
    assert dispatcher.counts["died"] > 10
    assert len(pool.killed) == 2


def test_of_the_shards_of_a_dead_worker_one_is_to_blame() -> None:
    deaths = deque([0])

    def script(pool: FakePool) -> Sequence[Event[str]] | None:
        if deaths and len(pool.alive.get(0, ())) == 2:
            pool.alive.pop(deaths.popleft())
            return [Died(0, "killed")]
        return None

    counted = CountedMetrics()
    pool = FakePool(script)
    dispatcher = Dispatcher(pool, LIMITS, pool.clock, counted)
    assert len(list(dispatcher.run(_tasks(6)))) == 6
    assert dispatcher.counts == {"died": 1, "retries": 1}
    assert counted.counts == {("sailloft_retries_total", "died"): 1, ("sailloft_retries_total", "shard"): 1}


def test_a_shard_that_fails_again_and_again_is_named() -> None:
    def script(pool: FakePool) -> Sequence[Event[str]] | None:
        for worker, keys in pool.alive.items():
            if "l4/c/3/0/0" in keys:
                keys.remove("l4/c/3/0/0")
                return [Failed(worker, "l4/c/3/0/0", "put refused")]
        return None

    pool = FakePool(script)
    with pytest.raises(InfrastructureError, match=r"shard l4/c/3/0/0: failed 4 times, the last time: put refused; run"):
        _run(pool, 5)
    assert pool.begun["l4/c/3/0/0"] == 4
    assert pool.alive == {}


def test_retries_wait_longer_each_time() -> None:
    begun_s: list[float] = []

    def script(pool: FakePool) -> Sequence[Event[str]] | None:
        for worker, keys in pool.alive.items():
            if keys and len(begun_s) < 4:
                begun_s.append(pool.now_s)
                return [Failed(worker, keys.popleft(), "put refused")]
        return None

    _run(FakePool(script), 1, Limits(1, max_retries=9, stuck_after_s=1e9, pause_s=10.0, max_pause_s=1e9))
    pauses = [later - earlier for earlier, later in pairwise(begun_s)]
    for attempt, pause_s in enumerate(pauses):
        assert 5 * 2**attempt <= pause_s <= 15 * 2**attempt + 2


def test_pauses_are_jittered_bounded_and_repeatable() -> None:
    pauses = [retry_pause_s(f"l4/c/{index}/0/0", 5, 1.0, 8.0) for index in range(100)]
    assert min(pauses) >= 4
    assert max(pauses) <= 12
    assert len(set(pauses)) == 100
    assert pauses[0] == retry_pause_s("l4/c/0/0/0", 5, 1.0, 8.0)


def test_a_worker_that_stands_still_is_replaced() -> None:
    stuck = "l4/c/1/0/0"

    def script(pool: FakePool) -> Sequence[Event[str]] | None:
        for worker, keys in pool.alive.items():
            if stuck in keys and worker < 2:  # its first worker never gets it done
                steps = min(7, int(pool.now_s))
                return [Stirred(worker, {stuck: steps})]
        return None

    pool = FakePool(script)
    done, dispatcher = _run(pool, 6)
    assert len(done) == 6
    assert dispatcher.counts == {"stuck": 1, "retries": 1}
    assert pool.begun[stuck] == 2
    assert pool.now_s < 130


def test_steps_keep_a_slow_shard_alive() -> None:
    def script(pool: FakePool) -> Sequence[Event[str]] | None:
        pool.now_s += 60
        if pool.now_s < 3000:
            return [Stirred(0, {"l4/c/0/0/0": int(pool.now_s)})]
        return None

    _, dispatcher = _run(FakePool(script), 1)
    assert not dispatcher.counts


def test_a_worker_that_never_starts_gets_nothing() -> None:
    class Starved(FakePool):
        def start(self, worker: int) -> None:
            super().start(worker)
            if worker == 1:
                self.unheard.pop()

    pool = Starved()
    done, _ = _run(pool, 7)
    assert len(done) == 7
    assert pool.most_in_hand == 2


def test_workers_that_die_at_birth_end_the_run() -> None:
    class Stillborn(FakePool):
        def poll(self) -> Sequence[Event[str]]:
            return [Died(self.unheard.popleft(), "no such package")]

    with pytest.raises(InfrastructureError, match=r"4 processes in a row died before they lived.*no such package"):
        _run(Stillborn(), 3)


def test_what_no_retry_mends_ends_the_run() -> None:
    def script(pool: FakePool) -> Sequence[Event[str]] | None:
        raise DataError("bad recipe")

    pool = FakePool(script)
    with pytest.raises(DataError, match="bad recipe"):
        _run(pool, 3)
    assert pool.alive == {}
