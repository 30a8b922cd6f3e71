"""The proxy that the fault suite and the benchmarks put before a real S3 server does what it says, and nothing else."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from storage.errors import ObjectNotFound
from storage.objects import Objects
from tests.faulty_proxy import Faults, FaultyProxy
from tests.s3_server import S3Server


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with FaultyProxy(s3_server.environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def objects(proxy: FaultyProxy, s3_server: S3Server) -> Objects:
    return Objects.open(f"s3://{s3_server.bucket}/proxy/{time.monotonic_ns()}")


def _unretried(proxy: FaultyProxy, server: S3Server) -> S3Store:
    environment = server.environment
    return S3Store(
        server.bucket,
        endpoint=proxy.url,
        region=environment["AWS_REGION"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )


def test_without_faults_it_is_not_noticed_but_counts(objects: Objects, proxy: FaultyProxy) -> None:
    body = bytes(range(256)) * 20_000
    assert objects.create("a/b", body)
    assert not objects.create("a/b", b"")
    assert objects.read("a/b") == body
    assert objects.read_ranges("a/b", [(0, 3), (4_000_000, 5)]) == [body[:3], body[4_000_000:4_000_005]]
    assert [info.size_bytes for info in objects.list()] == [len(body)]
    with pytest.raises(ObjectNotFound, match="no such object"):
        objects.read("c")
    assert proxy.counts() == {"PUT": 2, "GET": 5}
    assert not proxy.fault_counts()
    assert [request.status for request in proxy.requests] == [200, 412, 200, 206, 206, 200, 404]
    assert sum(request.sent_bytes for request in proxy.requests) == len(body)
    proxy.clear()
    assert not proxy.counts()


def test_requests_wait_side_by_side(objects: Objects, proxy: FaultyProxy) -> None:
    objects.create("a", b"0")
    proxy.faults = Faults(latency_s=0.1)
    start_s = time.perf_counter()
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: objects.read("a"), range(20))) == {b"0"}
    assert 0.1 <= time.perf_counter() - start_s < 1.0


def test_a_narrow_line(objects: Objects, proxy: FaultyProxy) -> None:
    objects.create("a", bytes(2_000_000))
    proxy.faults = Faults(bytes_per_s=10_000_000)
    start_s = time.perf_counter()
    objects.read("a")
    assert 0.2 <= time.perf_counter() - start_s < 2.0


@pytest.mark.parametrize("fault", ["slow_down", "reset", "timeout"])
def test_a_refused_request_does_nothing(objects: Objects, proxy: FaultyProxy, s3_server: S3Server, fault: str) -> None:
    proxy.faults = Faults(**{f"{fault}_share": 1.0}, timeout_s=0.2)
    path = objects.url.partition(f"{s3_server.bucket}/")[2]
    with pytest.raises(BaseError):
        obstore.put(_unretried(proxy, s3_server), f"{path}/a", b"0" * 1000)
    assert proxy.fault_counts() == {fault: 1}
    proxy.faults = Faults()
    assert list(objects.list()) == []


def test_a_torn_upload_leaves_nothing(objects: Objects, proxy: FaultyProxy, s3_server: S3Server) -> None:
    proxy.faults = Faults(torn_upload_share=1.0)
    path = objects.url.partition(f"{s3_server.bucket}/")[2]
    with pytest.raises(BaseError):
        obstore.put(_unretried(proxy, s3_server), f"{path}/a", bytes(3_000_000))
    assert proxy.fault_counts() == {"torn_upload": 1}
    proxy.faults = Faults()
    assert list(objects.list()) == []


def test_a_lost_answer_was_done_all_the_same(objects: Objects, proxy: FaultyProxy, s3_server: S3Server) -> None:
    proxy.faults = Faults(lost_answer_share=1.0)
    path = objects.url.partition(f"{s3_server.bucket}/")[2]
    with pytest.raises(BaseError):
        obstore.put(_unretried(proxy, s3_server), f"{path}/a", b"0123")
    proxy.faults = Faults()
    assert objects.read("a") == b"0123"


def test_faults_come_at_their_share_and_are_survived(objects: Objects, proxy: FaultyProxy) -> None:
    objects.create("a", b"0")
    proxy.clear()
    proxy.faults = Faults(slow_down_share=0.05, reset_share=0.05)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: objects.read("a"), range(200))) == {b"0"}
    counts = proxy.fault_counts()
    assert counts["slow_down"] > 0
    assert counts["reset"] > 0
    assert sum(counts.values()) < 60


def test_a_server_that_is_away_looks_like_one(closed_port: int) -> None:
    with FaultyProxy(f"http://127.0.0.1:{closed_port}") as proxy:
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=5)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            _get(connection)
        connection.close()
        assert proxy.fault_counts() == {"server": 1}


def _get(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/")
    connection.getresponse()


def test_it_serves_loopback_alone() -> None:
    with pytest.raises(ValueError, match="expected http:// on loopback"):
        FaultyProxy("http://example.org:80")
