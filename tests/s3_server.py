"""A real S3 server on loopback, which can be killed and started again with its data."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

__all__ = ["S3Server", "WeedServer", "free_port"]

_BUCKET = "sailloft-tests"
_START_TIMEOUT_S = 30


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


class WeedServer:
    """SeaweedFS with one bucket and one pair of credentials; every extra service is off.

    Args:
        folder: for its data, configuration and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in ("master", "volume", "filer", "s3", "admin")}
        self._remote_ports = {name: free_port() for name in self._ports}
        environment = {
            "AWS_ACCESS_KEY_ID": "test" + secrets.token_hex(8),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports['s3']}",
        }
        self.server = S3Server(environment, _BUCKET)
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        config = folder / "s3.json"
        config.write_text(json.dumps(_identities(environment)))
        config.chmod(0o600)

    @staticmethod
    def program() -> str | None:
        """Path of the server's program; None where it isn't installed."""
        return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

    def start(self) -> None:
        """Starts it, again after an end, and waits until it answers.

        Raises:
            RuntimeError: it does not come up; with the end of its log.
        """
        program = self.program()
        assert program is not None
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "mini", *self._options()], stdout=log, stderr=subprocess.STDOUT, cwd=self._folder
            )
        self._wait_until_up()

    def kill(self) -> None:
        """Ends it without a warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=15)

    def stop(self) -> None:
        """Ends it in good order."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()

    def _options(self) -> list[str]:
        return [
            f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-bucket={_BUCKET}",
            f"-s3.config={self._folder / 's3.json'}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            f"-filer.localSocket={self._folder / 'filer.sock'}",
            f"-s3.localSocket={self._folder / 's3.sock'}",
            *(f"-{name}.port={port}" for name, port in self._ports.items()),
            *(f"-{name}.port.grpc={port}" for name, port in self._remote_ports.items()),
        ]

    def _wait_until_up(self) -> None:
        environment = self.server.environment
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
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline_s:
            try:
                obstore.put(store, "up", b"")
            except (BaseError, OSError):
                time.sleep(0.1)
            else:
                return
        log = (self._folder / "weed.log").read_text()[-2000:]
        raise RuntimeError(f"the S3 server did not come up within {_START_TIMEOUT_S} s:\n{log}")


def _identities(environment: dict[str, str]) -> dict[str, object]:
    credentials = [{"accessKey": environment["AWS_ACCESS_KEY_ID"], "secretKey": environment["AWS_SECRET_ACCESS_KEY"]}]
    return {"identities": [{"name": "tests", "credentials": credentials, "actions": ["Admin"]}]}
