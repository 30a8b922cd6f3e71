"""Training on a cluster whose nodes are lost, announced to go, and added, with a worker on each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fault.train_runs import Run, metrics, states, wait_until
from tests.local_cluster import LocalCluster
from tests.training_ranks import history

# Stages before training and a run in peace come first; then each test starts its workers two or three times and waits
# for what Ray notices by and by: two minutes each.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_STEPS = 160
SLOWLY = "tests.fault.train_slowly"


class Watched:
    """A run of `train_slowly` on a cluster."""

    def __init__(self, workspace: Path, cluster: LocalCluster, *overrides: str) -> None:
        self.workspace = workspace
        self.run = Run(workspace, [f"num_steps={NUM_STEPS}", *overrides], SLOWLY, cluster.environment)

    def num_noted(self) -> list[list[int]]:
        """Steps that each worker of each start has done."""
        starts = [sorted(start.iterdir()) for start in sorted(self.workspace.glob("notes/start-*"))]
        return [[len(path.read_text().splitlines()) for path in paths] for paths in starts]

    def wait_for_start(self, number: int, num_workers: int, num_steps: int = 4) -> None:
        """Waits until a start trains with so many workers."""

        def trains() -> bool:
            assert self.run.process.poll() is None, self.run.tail()
            starts = self.num_noted()
            return len(starts) > number and len(starts[number]) == num_workers and min(starts[number]) >= num_steps

        wait_until(trains)

    def finish(self) -> None:
        """Lets it hurry, and succeed."""
        (self.workspace / "hurry").touch()
        assert self.run.finish() == 0, self.run.tail()


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of a run that nothing happened to."""
    workspace = tmp_path_factory.mktemp("peace")
    (workspace / "hurry").touch()
    run = Run(workspace, [f"num_steps={NUM_STEPS}"], SLOWLY)
    try:
        assert run.finish() == 0, run.tail()
    finally:
        run.close()
    return workspace


@pytest.fixture(scope="module")
def cluster(peace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two nodes with room for one worker each, once there is peace; every test leaves as many."""
    environment = {
        # Killed nodes are found dead within seconds; by default it takes a quarter of a minute.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        # Ray's view of the room is 20 s old; by default it waits a minute for workers that have no place.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    }
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), num_cpus=1, environment=environment)
    try:
        cluster.start(2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def watch(cluster: LocalCluster, peace: Path, tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Starts a run on a workspace that has everything before training."""
    runs: list[Run] = []

    def start(*overrides: str) -> Watched:
        done = shutil.ignore_patterns("train", "logs", "notes", "hurry")
        watched = Watched(Path(shutil.copytree(peace, tmp_path / "workspace", ignore=done)), cluster, *overrides)
        runs.append(watched.run)
        return watched

    yield start
    for run in runs:
        run.close()


def assert_like_peace(watched: Watched, peace: Path) -> None:
    """The same samples and losses in each step, and the same rows of metrics, bit for bit."""
    assert history(watched.workspace / "notes") == history(peace / "notes")
    assert metrics(watched.workspace) == metrics(peace)


def test_a_node_is_lost_and_another_comes(cluster: LocalCluster, peace: Path, watch: Callable[..., Watched]) -> None:
    """Without a warning; the run goes on from its newest state."""
    watched = watch("checkpoint_every=5")
    watched.wait_for_start(0, num_workers=2)
    wait_until(lambda: bool(states(watched.workspace)))
    lost = cluster.newest_node
    assert len(cluster.actor_pids("RayTrainWorker", lost)) == 1
    assert not cluster.actor_pids("Meter", lost)  # the run would end with it
    cluster.kill_node(lost)
    cluster.add_node()
    watched.wait_for_start(1, num_workers=2)
    watched.finish()
    _, (num_done, num_done_beside) = watched.num_noted()
    assert num_done == num_done_beside <= NUM_STEPS - 5
    assert_like_peace(watched, peace)


def test_a_node_says_that_it_goes(cluster: LocalCluster, peace: Path, watch: Callable[..., Watched]) -> None:
    """A state is saved before it does, and the run goes on from there elsewhere."""
    watched = watch()
    watched.wait_for_start(0, num_workers=2)
    leaving = cluster.newest_node
    assert len(cluster.actor_pids("RayTrainWorker", leaving)) == 1
    cluster.drain_node(leaving, deadline_s=30)
    wait_until(lambda: bool(states(watched.workspace)), timeout_s=30)
    (saved,) = states(watched.workspace)
    cluster.add_node()
    watched.wait_for_start(1, num_workers=2)
    cluster.kill_node(leaving)  # its time is over, and nobody is there any more
    watched.finish()
    _, num_done = watched.num_noted()
    assert num_done == [NUM_STEPS - saved] * 2
    assert_like_peace(watched, peace)


def test_fewer_workers_and_then_more(cluster: LocalCluster, peace: Path, watch: Callable[..., Watched]) -> None:
    """Of two workers one is lost; the other goes on alone, and there are two again soon after a node has come."""
    watched = watch("checkpoint_every=5", "survival.min_workers=1", "survival.resize_interval_s=5")
    watched.wait_for_start(0, num_workers=2)
    cluster.kill_node(cluster.newest_node)
    watched.wait_for_start(1, num_workers=1)
    cluster.add_node()
    watched.wait_for_start(2, num_workers=2)
    watched.finish()
    assert [len(workers) for workers in watched.num_noted()] == [2, 1, 2]
    ours, theirs = history(watched.workspace / "notes"), history(peace / "notes")
    assert [step["samples"] for step in ours] == [step["samples"] for step in theirs]
    rows, expected = metrics(watched.workspace), metrics(peace)
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)  # found: 1.8e-7, since one worker sums otherwise
