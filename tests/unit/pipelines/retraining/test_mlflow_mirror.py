"""MLflow says what the registry says, whenever it was told last."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.retraining import mlflow_mirror
from pipelines.retraining.config import MlflowRegistryConfig
from pipelines.retraining.mlflow_mirror import mirror_registry
from storage.errors import InfrastructureError, UsageError
from storage.objects import Objects
from storage.registry import Registry
from tests.registries import comparison_with, student_facts


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A champion, and a challenger that was refused."""
    registry = Registry(Objects.open(tmp_path / "workspace/registry/demo"))
    registry.decide(registry.register(student_facts("a")), True, ["the first version"], None)
    second = registry.register(student_facts("b", parent=1))
    registry.decide(second, False, ["worse", "x" * 1000], comparison_with(1))
    return registry


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlflow").as_uri()


def _aliases(uri: str, model: str = "demo") -> dict[str, str]:
    """The registry's own number of the version of each alias."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    return {
        alias: client.get_model_version(model, str(name)).tags["sailloft.version"]
        for alias, name in client.get_registered_model(model).aliases.items()
    }


def test_versions_aliases_and_reasons_are_mirrored(registry: Registry, uri: str) -> None:
    assert mirror_registry(registry, uri, "demo") == 2
    assert _aliases(uri) == {"champion": "1", "challenger": "2"}
    client = mlflow.MlflowClient(tracking_uri=uri)
    second = client.get_model_version_by_alias("demo", "challenger")
    assert second.source == "memory://students/train/b"
    assert second.description == "Version 2 of a Sailloft registry, trained from version 1."
    assert second.tags["sailloft.outcome"].startswith("refused: worse; xxx")
    assert len(second.tags["sailloft.outcome"]) == 500
    assert {name: second.tags[f"sailloft.{name}"] for name in ("checkpoint", "corpus", "parent")} == {
        **{"checkpoint": "b", "corpus": "corpus"},
        "parent": "1",
    }
    first = client.get_model_version_by_alias("demo", "champion")
    assert "sailloft.parent" not in first.tags
    assert first.tags["sailloft.outcome"] == "promoted: the first version"


def test_what_changed_since_is_told_and_nothing_twice(
    registry: Registry, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_mirror, "_PAGE_SIZE", 1)
    mirror_registry(registry, uri, "demo")
    registry.promote(2, ["seen"])
    registry.register(student_facts("c"))
    registry.promote(3, ["by hand"])
    assert mirror_registry(registry, uri, "demo") == 1
    assert _aliases(uri) == {"champion": "3"}
    registry.roll_back(["wrong on night scenes"])
    assert mirror_registry(registry, uri, "demo") == 0
    assert _aliases(uri) == {"champion": "2"}
    client = mlflow.MlflowClient(tracking_uri=uri)
    assert sorted(found.tags["sailloft.version"] for found in client.search_model_versions("name='demo'")) == [*"123"]
    champion = client.get_model_version_by_alias("demo", "champion")
    assert champion.tags["sailloft.outcome"] == "rolled_back: wrong on night scenes"


def test_a_mirror_that_was_interrupted_goes_on(registry: Registry, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = mlflow.MlflowClient.create_model_version

    def fails_later(client: mlflow.MlflowClient, *args: object, **options: object) -> object:
        made = create(client, *args, **options)
        raise mlflow.MlflowException(f"gone after {made.version}")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_model_version", fails_later)
        with pytest.raises(
            InfrastructureError, match=rf"registered model demo of MLflow at {uri}: gone after 1; .*is whole"
        ):
            mirror_registry(registry, uri, "demo")
    assert mirror_registry(registry, uri, "demo") == 1
    assert _aliases(uri) == {"champion": "1", "challenger": "2"}


def test_a_server_that_cannot_be_reached_is_told(
    registry: Registry, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InfrastructureError, match=rf"MLflow at http://127.0.0.1:{closed_port}: .*check the URI"):
        mirror_registry(registry, f"http://127.0.0.1:{closed_port}", "demo")


def test_where_mlflow_is(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected a server or store, found none; set MLFLOW_TRACKING_URI"):
        MlflowRegistryConfig().uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert MlflowRegistryConfig().uri() == "http://elsewhere"
    assert MlflowRegistryConfig(tracking_uri=uri).uri() == uri
    monkeypatch.setattr("pipelines.retraining.config.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"isn't installed; pip install 'sailloft\[mlflow\]'"):
        MlflowRegistryConfig(tracking_uri=uri).uri()


def test_the_command(registry: Registry, uri: str) -> None:
    told = CliRunner().invoke(app, ["registry", "mirror", registry.url, "--to", uri, "--model", "ours"])
    assert (told.exit_code, told.stdout) == (0, f"registered model ours of MLflow at {uri}: 2 versions added\n")
    assert _aliases(uri, "ours") == {"champion": "1", "challenger": "2"}
