"""What a schedule's pod does, against a small API server that behaves as Kubernetes' does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from jobs.kubernetes import api, launch
from jobs.kubernetes.api import RayJobs
from storage.errors import InfrastructureError, UsageError

LABELS = {"app.kubernetes.io/name": "sailloft", "app.kubernetes.io/instance": "sailloft-smoke"}
JOB = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "sailloft-smoke", "labels": LABELS},
    "spec": {},
}


class Cluster(ThreadingHTTPServer):
    """RayJobs of one namespace; each look at a job takes it one state further."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.states: list[dict[str, str]] = []
        """States that the next looks find, one each."""
        self.refusals: list[int | None] = []
        """Statuses of the next answers; None: as usual; 0 takes a job and closes the connection."""
        self.seen: list[tuple[str, str, str]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any] | None) -> None:
        cluster, parts = self.server, urlsplit(self.path)
        cluster.seen.append((self.command, self.path, self.headers["Authorization"]))
        assert parts.path.startswith("/apis/ray.io/v1/namespaces/vision/rayjobs")
        refusal = cluster.refusals.pop(0) if cluster.refusals else None
        if refusal:
            self._send(refusal, {"message": "no"})
            return
        name = parts.path.rpartition("rayjobs")[2].strip("/")
        if body is not None:
            name = body["metadata"]["name"]
            if name in cluster.jobs:
                self._send(409, {"reason": "AlreadyExists"})
                return
            cluster.jobs[name] = body
            if refusal == 0:
                self.close_connection = True
                return
            self._send(201, body)
        elif not name:
            wanted = dict(item.split("=") for item in parse_qs(parts.query)["labelSelector"][0].split(","))
            items = [job for job in cluster.jobs.values() if wanted.items() <= job["metadata"]["labels"].items()]
            self._send(200, {"items": items})
        elif name not in cluster.jobs:
            self._send(404, {"message": f"{name} not found"})
        else:
            if cluster.states:
                cluster.jobs[name]["status"] = cluster.states.pop(0)
            self._send(200, cluster.jobs[name])

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(launch, "_POLL_S", 0.0)
    monkeypatch.setattr(api, "_RETRY_S", 0.0)
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def jobs(cluster: Cluster, tmp_path: Path) -> RayJobs:
    (tmp_path / "token").write_text("first\n")
    return RayJobs(f"http://127.0.0.1:{cluster.server_address[1]}", "vision", tmp_path)


def state(deployment: str, job: str = "", message: str = "") -> dict[str, str]:
    return {"jobDeploymentStatus": deployment, "jobStatus": job, "message": message}


def run(jobs: RayJobs, name: str = "sailloft-smoke-1") -> tuple[int, str]:
    shown: list[str] = []
    return launch.launch(jobs, JOB, name, "uid-1", shown.append), "".join(shown)


def test_a_job_is_created_under_the_turns_name_and_waited_for(cluster: Cluster, jobs: RayJobs) -> None:
    cluster.states = [{}, state("Initializing"), state("Running", "RUNNING"), state("Running", "RUNNING")]
    cluster.states.append(state("Complete", "SUCCEEDED"))
    code, shown = run(jobs)
    assert code == 0
    assert shown.splitlines() == [
        "created RayJob sailloft-smoke-1",
        "sailloft-smoke-1: New",
        "sailloft-smoke-1: Initializing",
        "sailloft-smoke-1: Running RUNNING",
        "sailloft-smoke-1: Complete SUCCEEDED",
    ]
    created = cluster.jobs["sailloft-smoke-1"]
    assert created["metadata"]["labels"] == LABELS
    # It goes when the schedule clears the turn away.
    assert created["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "sailloft-smoke-1", "uid": "uid-1", "controller": False}
    ]
    assert JOB["metadata"] == {"name": "sailloft-smoke", "labels": LABELS}


@pytest.mark.parametrize(
    "end",
    [state("Complete", "FAILED", "exit 3"), state("Failed", "", "exit 3"), state("ValidationFailed", "", "exit 3")],
)
def test_a_job_that_fails_is_told(cluster: Cluster, jobs: RayJobs, end: dict[str, str]) -> None:
    cluster.states = [end]
    code, shown = run(jobs)
    assert code == 4
    assert shown.endswith("sailloft-smoke-1: exit 3\n")


def test_a_pod_that_begins_again_finds_its_job(cluster: Cluster, jobs: RayJobs) -> None:
    cluster.states = [state("Complete", "SUCCEEDED")]
    assert run(jobs)[0] == 0
    code, shown = run(jobs)
    assert (code, "created" in shown) == (0, False)
    assert "RayJob sailloft-smoke-1 is there already" in shown


def test_an_answer_that_is_lost_creates_nothing_twice(cluster: Cluster, jobs: RayJobs) -> None:
    cluster.refusals = [None, 0]
    cluster.states = [state("Complete", "SUCCEEDED")]
    assert run(jobs)[0] == 0
    assert list(cluster.jobs) == ["sailloft-smoke-1"]


def test_nothing_begins_while_another_one_is_at_work(cluster: Cluster, jobs: RayJobs) -> None:
    cluster.jobs["sailloft-smoke-0"] = {**JOB, "metadata": {"name": "sailloft-smoke-0", "labels": LABELS}}
    other = {**LABELS, "app.kubernetes.io/instance": "sailloft-demo"}
    cluster.jobs["sailloft-demo-0"] = {**JOB, "metadata": {"name": "sailloft-demo-0", "labels": other}}
    assert run(jobs) == (0, "sailloft-smoke-0 is still at work; nothing was begun\n")
    assert len(cluster.jobs) == 2
    cluster.jobs["sailloft-smoke-0"]["status"] = state("Failed")
    cluster.states = [state("Complete", "SUCCEEDED")]
    assert run(jobs)[0] == 0


def test_a_server_that_is_busy_is_asked_again_with_the_newest_token(
    cluster: Cluster, jobs: RayJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotate(seconds: float) -> None:
        (jobs.account / "token").write_text(f"token-{len(cluster.seen)}")

    monkeypatch.setattr(api.time, "sleep", rotate)
    cluster.refusals = [503, 429]
    cluster.states = [state("Complete", "SUCCEEDED")]
    assert run(jobs)[0] == 0
    assert [seen[2] for seen in cluster.seen[:3]] == ["Bearer first", "Bearer token-1", "Bearer token-2"]


def test_a_server_that_stays_away(jobs: RayJobs, cluster: Cluster) -> None:
    cluster.refusals = [500] * 20
    with pytest.raises(InfrastructureError, match=r"GET .*no answer after 8 attempts \(status 500\)"):
        run(jobs)


def test_what_the_role_does_not_allow(jobs: RayJobs, cluster: Cluster) -> None:
    cluster.refusals = [403]
    with pytest.raises(InfrastructureError, match=r"status 403: .*; apply the role and its binding \(accounts\.yaml\)"):
        run(jobs)


def test_a_job_that_somebody_deletes(jobs: RayJobs, cluster: Cluster) -> None:
    with pytest.raises(InfrastructureError, match="status 404"):
        jobs.get("absent/../x")
    assert cluster.seen[-1][1].endswith("/rayjobs/absent%2F..%2Fx")


def test_outside_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="found no SAILLOFT_JOB_NAME, SAILLOFT_JOB_UID, SAILLOFT_NAMESPACE"):
        launch.launch_file(tmp_path / "rayjob.yaml", str)
    for name in ("SAILLOFT_JOB_NAME", "SAILLOFT_JOB_UID", "SAILLOFT_NAMESPACE"):
        monkeypatch.setenv(name, "x")
    (tmp_path / "rayjob.yaml").write_text("metadata: {}")
    with pytest.raises(UsageError, match="expected a pod with a service account, found none"):
        launch.launch_file(tmp_path / "rayjob.yaml", str)


def test_a_pods_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("t")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert RayJobs.of_this_pod("vision").server == "https://[fd00::1]:6443"
