"""A teacher that asks for nodes of its own runs there and nowhere else."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.schedule import Turn, make_manifests
from tests.local_cluster import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
TEACHER = "teachers=[{kind: sam2, checkpoint: tiny-sam2, image_size_px: 64, node_resource: teacher-sam2}]"


def start_parameters() -> str:
    """What KubeRay hands to `ray start` on the pods of this teacher."""
    turn = Turn("smoke", ("workspace=/shared", "kubernetes.image=sailloft:1"), "run")
    (cluster,) = make_manifests(turn, None, None, None, "cronjob")["raycluster.yaml"]
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    (amounts,) = shlex.split(groups["teacher-sam2"]["rayStartParams"]["resources"])
    return amounts


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head with room for everything, and a node with this teacher's mark."""
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), num_cpus=4)
    try:
        cluster.start(1)
        cluster.add_node(f"--resources={start_parameters()}")
        yield cluster
    finally:
        cluster.stop()


def test_a_teacher_runs_on_its_own_nodes(cluster: LocalCluster, tmp_path: Path) -> None:
    assert json.loads(start_parameters()) == {"teacher-sam2": 1}
    command = [
        sys.executable,
        "-m",
        "jobs",
        "teach",
        "smoke",
        f"workspace={tmp_path}",
        TEACHER,
        "features.num_actors=2",
    ]
    teaching = subprocess.Popen(
        command, cwd=REPOSITORY, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    while teaching.poll() is None:
        for node, pids in seen.items():
            pids.update(cluster.actor_pids("_TeacherActor", node))
        time.sleep(0.05)
    output = teaching.communicate()[0]
    assert teaching.returncode == 0, output
    assert "4 of 4 stages ran" in output
    assert seen[1]
    assert not seen[0]
