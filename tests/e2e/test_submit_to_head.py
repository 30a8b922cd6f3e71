"""`sailloft submit` against a real head with its job server, all on loopback and with token authentication on."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.manifest import read_manifest
from storage.objects import Objects
from tests.local_cluster import JobClient, job_server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

_WAIT_S = 300
EDGES = """
from typing import ClassVar, Literal

from PIL import Image
from torch import Tensor, nn

from teachers.base import BaseTeacherConfig, ModuleTeacher, StudentSource, build_seeded
from teachers.device import real_dtype
from teachers.resize import require_rgb, resize_antialiased


class EdgesConfig(BaseTeacherConfig, frozen=True):
    student_source: ClassVar[StudentSource] = "patches"
    kind: Literal["edges"] = "edges"

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        return 64, 64

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        return 4, 4

    def preprocess(self, image: Image.Image) -> Tensor:
        require_rgb(image)
        return resize_antialiased(image, 64, 64)

    def build(self, device: str = "cpu") -> "EdgesTeacher":
        network = build_seeded(lambda: nn.Conv2d(3, 8, 16, stride=16), seed=0)
        return EdgesTeacher(
            network,
            num_channels=8,
            geometry=self,
            identity={"kind": "edges"},
            dtype=real_dtype(self, device),
            device=device,
        )


class EdgesTeacher(ModuleTeacher):
    def _features(self, batch: Tensor) -> Tensor:
        return self._module(batch)
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobClient]:
    with job_server(tmp_path_factory.mktemp("head")) as running:
        yield running


def job_of(output: str) -> str:
    """The job's id, as submit printed it."""
    first = output.splitlines()[0].split()
    assert first[0] == "job", output
    return first[1]


def status(head: JobClient, job_id: str) -> dict[str, Any]:
    shown = head.run("jobs", "status", job_id, "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def wait_for_line(client: subprocess.Popen[str], text: str) -> list[str]:
    """Lines of a client up to the one that holds a text."""
    assert client.stdout is not None
    lines: list[str] = []
    for line in client.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"the client ended before {text!r}: {''.join(lines)}")


def test_a_lost_client_finds_its_job_which_runs_to_its_report(head: JobClient, tmp_path: Path) -> None:
    recipe = ("smoke", f"workspace={tmp_path}")
    client = head.start("submit", *recipe, "--follow")
    job_id = job_of("".join(wait_for_line(client, "curate")))
    client.kill()
    client.communicate(timeout=30)

    again = head.run("submit", *recipe)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"job {job_id} is at work already")
    other = head.run("submit", *recipe, "features.num_actors=1")
    assert other.returncode == 2
    assert f"error: job {job_id} is at work on the same outputs with other settings" in other.stderr

    attached = head.run("submit", "--attach", job_id)
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert "9 of 9 stages ran in" in attached.stdout
    assert "curate" in attached.stdout
    (report,) = tmp_path.glob("report/*")
    assert read_manifest(Objects.open(str(report))) is not None
    listed = json.loads(head.run("jobs", "list", "--json").stdout)
    assert [(job["job_id"], job["exit_code"]) for job in listed if job["metadata"]["workspace"] == str(tmp_path)] == [
        (job_id, 0)
    ]


def test_without_the_clusters_token_nothing_is_handed_in(head: JobClient, tmp_path: Path) -> None:
    given = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH")}
    for more in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}):
        stranger = dataclasses.replace(head, environment={**given, "HOME": str(tmp_path), **more})
        refused = stranger.run("submit", "smoke", f"workspace={tmp_path}/stranger")
        assert refused.returncode == 4
        assert f"error: job server {head.address}: access refused (" in refused.stderr
        assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in refused.stderr
    assert "stranger" not in head.run("jobs", "list", "--json").stdout


def test_own_modules_and_chained_jobs(head: JobClient, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "my_teacher").mkdir(parents=True)
    (code / "my_teacher" / "__init__.py").write_text("")
    (code / "my_teacher" / "edges.py").write_text(EDGES)
    (code / ".env").write_text("TOKEN=hidden\n")
    (code / "pyproject.toml").write_text(
        '[project]\nname = "my-teacher"\nversion = "1"\n'
        '[project.entry-points."sailloft.teachers"]\nedges = "my_teacher.edges:EdgesConfig"\n'
    )
    # The submitting process validates the recipe, so that the teacher is installed there.
    metadata = tmp_path / "installed" / "my_teacher-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-teacher\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[sailloft.teachers]\nedges = my_teacher.edges:EdgesConfig\n")
    path = f"{head.environment['PYTHONPATH']}:{code}:{metadata.parent}"
    here = dataclasses.replace(head, environment={**head.environment, "PYTHONPATH": path})
    recipe = ("smoke", f"workspace={tmp_path}/out", "teachers=[{kind: edges}]", "features.codec=raw16")

    curated = here.run("submit", *recipe, "--stages", "curate", "--code", str(code))
    assert curated.returncode == 0, curated.stderr
    first = job_of(curated.stdout)
    taught = here.run("submit", *recipe, "--stages", "teach", "--code", str(code), "--after", first, "--follow")
    assert taught.returncode == 0, taught.stdout + taught.stderr
    assert f"job {first}: SUCCEEDED" in taught.stdout
    assert "1 of 3 stages ran in" in taught.stdout
    assert list((tmp_path / "out" / "features").glob("*/parts/*/manifest.json"))

    # Nothing has trained: the job ends before it evaluates, and what waits for it doesn't begin.
    failed = here.run("submit", *recipe, "--stages", "evaluate", "--code", str(code), "--follow")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "evaluate: expected the output of train, which it reads, found none" in failed.stdout
    behind = here.run(
        "submit", *recipe, "--stages", "report", "--code", str(code), "--after", job_of(failed.stdout), "--follow"
    )
    assert behind.returncode == 2, behind.stdout + behind.stderr
    assert "exit code 2; nothing that needs it runs" in behind.stdout


def test_a_job_is_stopped_in_good_order(head: JobClient, tmp_path: Path) -> None:
    done = head.run("submit", "smoke", f"workspace={tmp_path}")
    job_id = job_of(done.stdout)
    deadline_s = time.monotonic() + _WAIT_S
    while not list(tmp_path.glob("features/*")) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert status(head, job_id)["status"] == "RUNNING"
    stopped = head.run("jobs", "stop", job_id)
    assert (stopped.returncode, stopped.stdout) == (0, f"job {job_id}: STOPPED\n")
    attached = head.run("jobs", "logs", job_id, "--follow")
    assert attached.returncode == 143, attached.stdout + attached.stderr
    assert "interrupted; what is finished stays, the same command continues" in attached.stdout


def test_the_exit_code_is_that_of_the_job(head: JobClient, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    done = head.run("submit", "smoke", f"workspace={tmp_path}", "scenes=null", f"curation.root={absent}", "--follow")
    assert done.returncode == 3, done.stdout + done.stderr
    assert str(absent) in done.stdout


def test_without_the_token_nothing_is_handed_in(head: JobClient, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    environment = {**head.environment, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    done = JobClient(head.address, environment).run("submit", "smoke", f"workspace={tmp_path}")
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stderr.startswith("error: job server")
    assert "Traceback" not in done.stderr
