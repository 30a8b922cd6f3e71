"""Submission: what travels, what is refused, how a log is followed. The cluster is a fake here."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml

from jobs import submit
from jobs.submit import ClusterVersions, check_versions, check_workspace, passed_environment, submit_recipe
from storage.errors import InfrastructureError, UsageError

TREE = {"name": "smoke", "workspace": "s3://bucket/prefix", "cluster": {"address": "ray://mine"}, "training": {"a": 1}}
HERE = ClusterVersions(platform.python_version(), ray.__version__, "2.13.0", "0.1.0")


class FakeClient:
    """Takes one job and plays back its log, cut in two by a lost connection."""

    def __init__(self, exit_code: int | None = 0, status: str = "SUCCEEDED") -> None:
        self.jobs: list[dict[str, Any]] = []
        self.sent: dict[str, str] = {}
        self._exit_code, self._status = exit_code, status
        self._num_tails = 0

    def submit_job(self, **job: Any) -> str:
        self.jobs.append(job)
        folder = Path(job["runtime_env"]["working_dir"])
        self.sent = {path.name: path.read_text() for path in folder.iterdir()}
        return "raysubmit_1"

    def get_job_info(self, job_id: str) -> Any:
        status = SimpleNamespace(is_terminal=lambda: True, __str__=lambda self: self.name)
        return SimpleNamespace(status=status, driver_exit_code=self._exit_code, message="worker lost")

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self._num_tails += 1
        yield "scenes done\n"
        if self._num_tails == 1:
            raise RuntimeError("connection lost")
        yield "curate done\n"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(submit, "_connect", lambda address: fake)
    monkeypatch.setattr(submit, "_probe", lambda client: HERE)
    monkeypatch.setattr(submit, "_RETRY_S", 0.0)
    return fake


def test_only_the_recipe_and_named_variables_travel(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("OTHER_SECRET", "hidden")
    done = submit_recipe(TREE, "http://head:8265")
    assert (done.job_id, done.exit_code) == ("raysubmit_1", None)
    assert list(client.sent) == ["recipe.yaml"]
    assert yaml.safe_load(client.sent["recipe.yaml"]) == {**TREE, "cluster": {}}
    job = client.jobs[0]
    assert job["entrypoint"] == "python -m jobs run recipe.yaml"
    assert job["runtime_env"]["env_vars"]["AWS_ACCESS_KEY_ID"] == "key"
    assert "OTHER_SECRET" not in job["runtime_env"]["env_vars"]
    assert "key" not in str(job["metadata"])


def test_a_followed_log_has_every_line_once(client: FakeClient) -> None:
    shown: list[str] = []
    done = submit_recipe(TREE, "http://head:8265", follow=True, write=shown.append)
    assert done.exit_code == 0
    assert "".join(shown) == "job raysubmit_1 handed in to http://head:8265\nscenes done\ncurate done\n"


def test_the_exit_code_is_the_jobs(client: FakeClient) -> None:
    client._exit_code = 3
    assert submit_recipe(TREE, "http://head:8265", follow=True).exit_code == 3


def test_a_job_without_an_exit_code_is_infrastructure(client: FakeClient) -> None:
    client._exit_code = None
    assert submit_recipe(TREE, "http://head:8265", follow=True).exit_code == 4


def test_tail_gives_up_after_some_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_RETRY_S", 0.0)
    tries: list[str] = []

    class Broken:
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            tries.append(job_id)
            raise OSError("gone")
            yield ""

    asyncio.run(submit._tail(Broken(), "job", lambda text: None))  # type: ignore[arg-type]
    assert len(tries) == submit._MAX_TAIL_FAILURES


@pytest.mark.parametrize("url", ["runs", "./runs", "file://runs", "memory://x", "~/runs"])
def test_a_workspace_of_this_machine_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="a cluster needs a URL that all its nodes reach"):
        check_workspace(url)


@pytest.mark.parametrize("url", ["/shared/runs", "file:///shared/runs", "s3://bucket/x", "gs://bucket", "az://a/c"])
def test_a_workspace_that_nodes_reach(url: str) -> None:
    check_workspace(url)


def test_a_variable_that_is_not_set() -> None:
    with pytest.raises(UsageError, match="--env TOKEN: expected a variable that is set"):
        passed_environment(["TOKEN"], {})
    assert passed_environment(["AWS_*", "TOK?N"], {"TOKEN": "1"}) == {"TOKEN": "1"}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (ClusterVersions("3.8.1", HERE.ray, "2", "0"), r"Python 3\.8 there, 3\.\d+ here"),
        (ClusterVersions(HERE.python, "2.0.0", "2", "0"), r"Ray 2\.0\.0 there, .* here"),
        (ClusterVersions(HERE.python, None, "2", "0"), "Ray absent there"),
        (ClusterVersions(HERE.python, HERE.ray, None, "0"), "torch isn't installed"),
        (ClusterVersions(HERE.python, HERE.ray, "2", None), "Sailloft isn't installed"),
    ],
)
def test_versions_that_differ(found: ClusterVersions, message: str) -> None:
    check_versions(HERE)
    with pytest.raises(InfrastructureError, match=message):
        check_versions(found)


def test_no_job_server() -> None:
    with pytest.raises(InfrastructureError, match=r"job server http://127\.0\.0\.1:1: no connection"):
        submit_recipe(TREE, "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="expected the job server's URL"):
        submit_recipe(TREE, "head:8265")
