"""A student in operation while processes, nodes and the object server end: everything is as after a life in peace."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.corpus import Corpus
from storage.features import open_features
from storage.objects import Objects
from tests.computed_once import check_computed_once
from tests.local_cluster import LocalCluster
from tests.operations import RUINED, STAGES, Lake, Operations
from tests.promised import promised
from tests.registries import check_history
from tests.s3_server import WeedServer
from tests.saboteur import Saboteur

# Two clusters one after the other, the second under fire: half an hour on two cores.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(5400)]

FAULTS = {"worker": 20, "node": 8, "driver": 6, "server": 6}
IMAGES_PER_SHARD = 2
NUM_ACTORS = 2
_OF_A_LEDGER: dict[str, object] = {
    "student": {"distillation": [{"teacher": "ledger", "num_channels": 8, "source": "patches"}]},
    "features": {
        "codec": "raw16",
        "batch_size": 2,
        "images_per_shard": IMAGES_PER_SHARD,
        "num_actors": NUM_ACTORS,
        "num_cpus_per_decoder": 0,
        "max_retries": 40,
        "lease_expires_after_s": 10,
    },
}
_PLUGIN = {
    "METADATA": "Metadata-Version: 2.1\nName: sailloft-ledger\nVersion: 1.0\n",
    "entry_points.txt": "[sailloft.teachers]\nledger = tests.ledger_teacher:LedgerTeacherConfig\n",
}


@dataclass(frozen=True)
class World:
    """A cluster, its object server, and people who work with them."""

    cluster: LocalCluster
    weed: WeedServer
    operations: Operations
    ledger: Path


@contextmanager
def world(folder: Path, plugins: Path) -> Generator[World]:
    """A head without CPUs for tasks, as on Kubernetes, two workers, and an S3 server: the same URLs in each world."""
    weed = WeedServer(folder / "s3")
    environment = {
        **weed.server.environment,
        # A killed node is found dead in ten seconds; one that a busy machine halts for some seconds isn't.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "10",
    }
    cluster = LocalCluster(folder, num_cpus=2, environment=environment, head_cpus=0, jobs=True, modules=plugins)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in weed.server.environment.items():
            patch.setenv(name, value)
        try:
            weed.start()
            cluster.start(3)
            teacher = {"kind": "ledger", "service_s": 3.0, "ledger": str(folder / "ledger")}
            training = {"num_steps": 1, "checkpoint_every": 10, "log_every": 20, "survival": {"max_failures": 40}}
            changes = {**_OF_A_LEDGER, "teachers": [teacher], "training": training}
            operations = Operations(cluster.client, f"s3://{weed.server.bucket}/life", folder / "recipe.yaml", changes)
            yield World(cluster, weed, operations, folder / "ledger")
        finally:
            cluster.stop()
            weed.stop()


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules in which the ledger teacher is an installed plugin."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "sailloft_ledger-1.0.dist-info").mkdir()
    for name, text in _PLUGIN.items():
        (folder / "sailloft_ledger-1.0.dist-info" / name).write_text(text)
    return folder


@dataclass
class People:
    """Those who hand in jobs, again where one failed."""

    operations: Operations
    patience: int
    """Jobs that may fail."""
    failed: int = 0

    def submit(self, *arguments: str) -> str:
        """Hands a job in until one succeeds; gives its log."""
        while True:
            done = self.operations.client.run("submit", self.operations.recipe, *arguments, "--follow")
            if done.returncode == 0:
                return done.stdout
            self.failed += 1
            assert self.failed <= self.patience, done.stdout[-6000:] + done.stderr


def live(people: People) -> None:
    """From the first pictures to a champion, a better one, one that is refused, and back to the first."""
    operations = people.operations
    lake = Lake(operations.lake_url, train=40, val=4)
    lake.bring("train", 24)
    lake.bring("val", 4)
    people.submit("--stages", STAGES)
    people.submit("--command", "retrain")
    lake.bring("train", 40)
    people.submit("--command", "retrain")
    people.submit("--command", "retrain", RUINED)
    rolled_back = operations.client.run_here("registry", "rollback", operations.registry.url, "--reason", "too wordy")
    assert rolled_back.returncode == 0, rolled_back.stderr
    said = people.submit("--command", "retrain")
    assert "nothing new since version 2" in said


def registered(operations: Operations) -> list[dict[str, object]]:
    """Versions and events, without moments, nonces and the recipes, which name each world's own ledger."""
    registry = operations.registry
    check_history(registry.history())
    events = [event.model_dump(mode="json", exclude={"at", "nonce"}) for event in registry.history()]
    versions = [version.model_dump(mode="json", exclude={"recipe", "recipe_key"}) for version in registry.versions()]
    return [*events, *versions]


def corpus_of(operations: Operations, version: int) -> Corpus:
    return Corpus.open(operations.registry.version(version).corpora[0].url)


def check_each_image_once(world: World, num_again: int) -> None:
    """By the ledger, of the corpus that has all pictures; SeaweedFS counts whole seconds."""
    store = Objects.open(world.operations.features_url)
    check_computed_once(store, corpus_of(world.operations, 2), world.ledger, num_again, tick_s=1.0)


def test_forty_faults_change_nothing(plugins: Path, tmp_path: Path) -> None:
    with world(tmp_path / "peace", plugins) as peace:
        live(People(peace.operations, patience=0))
        champion = peace.operations.registry.state()
        outputs, versions = promised(peace.operations.workspace), registered(peace.operations)
        check_each_image_once(peace, num_again=0)
    assert champion is not None
    assert champion.aliases == {"champion": 1, "challenger": 3}
    assert [event["happening"] for event in versions if "happening" in event] == [
        *("registered", "promoted"),
        *("registered", "promoted"),
        *("registered", "refused"),
        "rolled_back",
    ]

    with world(tmp_path / "war", plugins) as war:
        people = People(war.operations, patience=sum(FAULTS.values()))  # each ends one job at most
        with Saboteur(war.cluster, war.weed, FAULTS, seed=0) as saboteur:
            live(people)
            assert saboteur.dealt == FAULTS, "the life was over before all faults were dealt: make it longer"
        assert promised(war.operations.workspace) == outputs
        assert registered(war.operations) == versions
        # A process that ends takes two shards with it, a driver those of all teachers.
        in_flight = 2 * IMAGES_PER_SHARD
        check_each_image_once(war, in_flight * (sum(FAULTS.values()) + (NUM_ACTORS - 1) * FAULTS["driver"]))
        assert len(open_features(war.operations.features_url)) == 44
