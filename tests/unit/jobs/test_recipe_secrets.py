"""Credentials in a recipe are refused before anything is stored, shown or sent."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import cli
from jobs.config import load_recipe
from jobs.submission.server import JobServer
from storage.errors import UsageError
from tests.fake_job_server import FakeClient, fake_server

SECRET = "hunter22"
REFUSED = [
    (f"workspace=s3://AKIA0:{SECRET}@bucket/prefix", "workspace"),
    (f"workspace=https://ada:{SECRET}@host/prefix", "workspace"),
    (f"curation.root=s3://{SECRET}@bucket/data", "curation.root"),
    (f"curation.sources.0.root=https://host/data?X-Amz-Signature={SECRET}", "curation.sources.0.root"),
    (
        f"training.tracking.trackers=[{{kind: mlflow, tracking_uri: 'https://ada:{SECRET}@mlflow'}}]",
        "training.tracking.trackers.0.tracking_uri",
    ),
    (f"retrain.mlflow.tracking_uri=https://ada:{SECRET}@mlflow", "retrain.mlflow.tracking_uri"),
    (f"no_such_field=https://ada:{SECRET}@host", "no_such_field"),
]


@pytest.mark.parametrize(("override", "field"), REFUSED, ids=[field for _, field in REFUSED])
def test_credentials_in_urls_are_refused_by_field(override: str, field: str) -> None:
    expected = rf"^recipe smoke: {field}: expected no secret, got .* credentials by the environment \(AWS_\*"
    with pytest.raises(UsageError, match=expected) as caught:
        load_recipe("smoke", [override])
    assert SECRET not in str(caught.value)


def test_a_parents_credentials_are_refused_too(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(f"extends: smoke\nworkspace: s3://a:{SECRET}@bucket\n")
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\n")
    with pytest.raises(UsageError, match="workspace: expected no secret"):
        load_recipe(str(tmp_path / "child.yaml"))


@pytest.fixture
def sailloft(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command line in this process; gives exit code and all that it wrote."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sailloft", *arguments])
        return cli.main(), "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize("command", ["run", "plan", "doctor", "retrain", "curate", "submit", "schedule"])
def test_nothing_comes_of_such_a_recipe(
    command: str,
    sailloft: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither a file of the workspace, nor a manifest for Kubernetes, nor a working directory, nor a line."""
    monkeypatch.chdir(tmp_path)
    client = FakeClient()
    monkeypatch.setattr(JobServer, "connect", lambda address: fake_server(client))
    more = {"submit": ("--address", "http://head:8265"), "schedule": ("--kuberay", "--cron", "0 3 * * *")}
    recipe = ("smoke", f"workspace={tmp_path}/w", f"curation.root=s3://AKIA0:{SECRET}@bucket/data")
    with caplog.at_level(logging.DEBUG):
        code, said = sailloft(command, *recipe, *more.get(command, ()))
    assert code == 2
    assert "curation.root: expected no secret" in said
    assert SECRET not in said + caplog.text
    assert list(tmp_path.iterdir()) == []
    assert (client.sent, client.handed_in) == ([], [])
