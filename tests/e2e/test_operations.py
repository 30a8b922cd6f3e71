"""A student in operation: a cluster of a head and two workers, a real S3 server, and the commands that users type."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from storage.manifest import read_manifest
from storage.objects import Objects
from tests.local_cluster import LocalCluster
from tests.operations import RUINED, STAGES, Lake, Operations, num_taught
from tests.registries import check_history
from tests.s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


@pytest.fixture
def operations(
    s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operations]:
    """A head without CPUs for tasks, as on Kubernetes, and two workers."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path_factory.mktemp("cluster")
    cluster = LocalCluster(folder, num_cpus=2, environment=s3_server.environment, head_cpus=0, jobs=True)
    try:
        cluster.start(3)
        yield Operations(cluster.client, f"s3://{s3_server.bucket}/{uuid.uuid4().hex}", folder / "recipe.yaml")
    finally:
        cluster.stop()


def test_a_student_in_operation(operations: Operations) -> None:
    lake = Lake(operations.lake_url, train=16, val=4)
    lake.bring("train", 12)
    lake.bring("val", 4)
    made = operations.submit("--stages", STAGES)
    assert "5 of 5 stages ran in" in made
    assert [num_taught(run) for run in operations.runs()] == [16]

    # The student that is there becomes the champion as it is.
    adopted = operations.submit("--command", "retrain")
    assert "0 of 5 stages ran" in adopted
    assert "version 1 promoted: the first version" in adopted
    assert champion(operations) == 1

    lake.bring("train", 16)
    better(operations)
    worse(operations)

    rolled_back = operations.client.run_here("registry", "rollback", operations.registry.url, "--reason", "too wordy")
    assert rolled_back.returncode == 0, rolled_back.stderr
    assert "version 1 rolled back: too wordy" in rolled_back.stdout
    assert champion(operations) == 1
    again = operations.submit("--command", "retrain")  # what was found wrong isn't trained again
    assert "nothing new since version 2" in again
    assert champion(operations) == 1
    check_history(operations.registry.history())
    assert [run.state for run in operations.runs()] == ["done"] * len(operations.runs())


def champion(operations: Operations) -> int | None:
    """The version in use, as the command line tells it."""
    shown = operations.client.run_here("registry", "show", operations.registry.url, "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)["aliases"]["champion"]


def better(operations: Operations) -> None:
    """New pictures have arrived: a better student is trained, nobody else trains meanwhile, and it is promoted."""
    client = operations.client
    job = client.start("submit", operations.recipe, "--command", "retrain", "--follow")
    assert job.stdout is not None
    begun = next((line for line in job.stdout if line.startswith("curate ")), None)
    assert begun is not None, "the job ended before its first stage"

    refused = client.run_here("retrain", operations.recipe, "retrain.min_gain=0.5")
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert f"error: {operations.registry.url}: expected nobody else at work (retrain), found " in refused.stderr
    assert "it is free when that ends" in refused.stderr

    said = job.communicate()[0]
    assert job.returncode == 0, said
    assert "version 2 promoted: description attribute_accuracy: better: " in said
    assert champion(operations) == 2
    only_new_pictures_were_taught(operations)
    first, second = (operations.registry.version(number) for number in (1, 2))
    corpora = [read_manifest(Objects.open(version.corpora[0].url)) for version in (first, second)]
    assert [corpus.facts["parents"] for corpus in corpora if corpus is not None] == [[], [first.corpora[0].key]]
    assert second.parent == 1


def only_new_pictures_were_taught(operations: Operations) -> None:
    """By the store's own count and by that of the run."""
    assert [part.num_images for part in operations.snapshot().parts] == [16, 4]
    verified = operations.client.run_here("features", "verify", operations.features_url)
    assert verified.returncode == 0, verified.stderr
    record = operations.runs()[-1]
    assert num_taught(record) == 4
    assert {stage["name"]: stage["state"] for stage in record.newest["stages"]} == {
        **dict.fromkeys(("curate", "teach sam2", "train", "evaluate", "evaluate champion"), "ran"),
        "calibrate sam2": "present",
    }


def worse(operations: Operations) -> None:
    """A student whose training went wrong stays challenger, with the reason."""
    said = operations.submit("--command", "retrain", RUINED)
    assert "version 3 refused: description attribute_accuracy: worse: -" in said
    assert operations.registry.version(3).parent == 2
    state = operations.registry.state()
    assert state is not None
    assert state.aliases == {"champion": 2, "challenger": 3}
    assert num_taught(operations.runs()[-1]) == 0
