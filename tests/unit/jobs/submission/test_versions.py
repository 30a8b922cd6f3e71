"""The cluster's versions are asked for by a job that leaves no trace."""

from __future__ import annotations

import json
import platform

import pytest
import ray

from jobs.submission import versions
from jobs.submission.versions import ClusterVersions, check_versions, probe_versions
from storage.errors import InfrastructureError
from tests.fake_job_server import FakeClient, fake_server

HERE = ClusterVersions(platform.python_version(), ray.__version__, "2.13.0", "0.1.0")


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


def test_the_probing_job_is_removed() -> None:
    client = FakeClient()
    client.log = ["a warning\n", f"sailloft-versions {json.dumps(dict.fromkeys(('python', 'ray'), '1'))[:-1]}, "]
    client.log.append('"torch": null, "sailloft": "2"}\n')
    client.on_ask = lambda: client.add(client.handed_in[0]["submission_id"], "SUCCEEDED", 0)
    assert probe_versions(fake_server(client)) == ClusterVersions("1", "1", None, "2")
    assert client.jobs == {}


def test_an_answer_that_is_none() -> None:
    client = FakeClient()
    client.log = ["python: not found\n"]
    client.on_ask = lambda: client.add(client.handed_in[0]["submission_id"], "FAILED", 127)
    with pytest.raises(InfrastructureError, match="the version check failed: python: not found"):
        probe_versions(fake_server(client))


def test_a_head_that_is_too_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_TIMEOUT_S", 0.0)
    client = FakeClient()
    with pytest.raises(InfrastructureError, match="no answer on versions within 0 s"):
        probe_versions(fake_server(client))
    assert [job.status.value for job in client.jobs.values()] == ["STOPPED"]
