"""Requests and bytes are counted by the process that makes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import CorruptObject, ObjectNotFound
from storage.objects import Objects
from storage.traffic import Traffic, note_traffic, traffic
from tests.faulty_proxy import FaultyProxy


@pytest.fixture
def before() -> Traffic:
    return traffic()


@pytest.fixture
def proxied(
    s3_server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[Objects, FaultyProxy]]:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with FaultyProxy(s3_server.environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield Objects.open(f"s3://{s3_server.bucket}/{request.node.name}"), proxy


def use(objects: Objects) -> None:
    """Each kind of request at least once."""
    objects.create("a", b"x" * 10)
    objects.create("a", b"other bytes")
    objects.put("b", b"y" * 5)
    assert objects.read("a") == b"x" * 10
    assert bytes(objects.read_buffer("b")) == b"y" * 5
    assert objects.read_ranges("a", [(0, 2), (4, 3)]) == [b"xx", b"xxx"]
    assert objects.read_tail("a", 4) == b"xxxx"
    assert objects.size("a") == 10
    assert not objects.exists("c")
    with pytest.raises(ObjectNotFound, match="no such object"):
        objects.read("c")
    assert len(list(objects.list())) == 2
    objects.copy("d", objects, "b")
    objects.delete("d")


def test_requests_are_those_that_a_server_sees(proxied: tuple[Objects, FaultyProxy], before: Traffic) -> None:
    objects, proxy = proxied
    use(objects)
    found = traffic().since(before)
    seen = proxy.counts()
    kinds = {kind: number for (scheme, kind), number in found.requests.items() if scheme == "s3"}
    # The server's GETs are reads and listings; a copy is a PUT of no bytes. The two ranges lie close: one request.
    assert kinds == {"get": 5, "head": 3, "put": 3, "list": 1, "copy": 1, "delete": 1}
    assert seen["GET"] == kinds["get"] + kinds["list"]
    assert seen["HEAD"] == kinds["head"]
    assert seen["PUT"] == kinds["put"] + kinds["copy"]
    assert seen["DELETE"] + seen["POST"] == kinds["delete"]
    assert found.read_bytes["s3"] == 10 + 5 + 7 + 4
    assert found.written_bytes["s3"] == 10 + 11 + 5


def test_many_deletions_are_few_requests(proxied: tuple[Objects, FaultyProxy], before: Traffic) -> None:
    objects, proxy = proxied
    keys = [f"folder/{number} & <{number}>" for number in range(12)]
    for key in keys:
        objects.create(key, b"")
    objects.delete_many([*keys[:10], "absent"])
    assert [info.key for info in objects.list()] == sorted(keys[10:])
    assert traffic().since(before).requests["s3", "delete"] == 1
    assert proxy.counts()["POST"] == 1
    objects.delete_many([])
    assert proxy.counts()["POST"] == 1


def test_a_file_needs_no_look_before(proxied: tuple[Objects, FaultyProxy], before: Traffic) -> None:
    objects, proxy = proxied
    small, large = b"0123456789", bytes(range(256)) * 8192
    objects.create("small", small)
    objects.create("large", large)
    proxy.clear()
    with objects.open_file("small", len(small)) as file:
        assert file.seek(3) == 3
        assert file.read(4) == b"3456"
        assert file.read() == b"789"
    assert proxy.counts() == {"GET": 1}
    with objects.open_file("large", len(large)) as file:
        file.seek(-3, io.SEEK_END)
        assert file.read() == large[-3:]
    assert proxy.counts() == {"GET": 2}
    proxy.clear()
    with objects.open_file("large") as file:
        assert file.seek(5) == 5
        assert file.read(1000) == large[5:1005]
        assert proxy.counts() == {"GET": 1}
        file.seek(-3, io.SEEK_END)
        assert file.read() == large[-3:]
        assert proxy.counts() == {"GET": 2}
        file.seek(2**20 - 4)
        assert file.read(10) == large[2**20 - 4 : 2**20 + 6]
    proxy.clear()
    objects.create("empty", b"")
    with objects.open_file("small") as file, objects.open_file("empty") as empty:
        assert file.read() == small
        assert empty.read() == b""
    assert proxy.counts()["GET"] == 2
    with pytest.raises(ObjectNotFound, match="absent: no such object"):
        objects.open_file("absent")
    with pytest.raises(CorruptObject, match="small: expected 11 bytes, found 10; rewrite it"):
        objects.open_file("small", 11)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_other_stores_count_too(tmp_path: Path, scheme: str, before: Traffic) -> None:
    use(Objects.open(str(tmp_path / "x") if scheme == "file" else "memory://traffic"))
    found = traffic().since(before)
    kinds = {kind: number for (of, kind), number in found.requests.items() if of == scheme}
    assert kinds.keys() == {"get", "head", "put", "list", "copy", "delete"}
    assert kinds["put"] == 3
    assert found.written_bytes[scheme] == 26


def test_an_object_that_is_given_piecewise_counts_once(tmp_path: Path, before: Traffic) -> None:
    new = Objects.open(tmp_path / "x").new("a")
    new.write(b"123")
    new.write(b"45")
    assert new.finish()
    found = traffic().since(before)
    assert (found.requests["file", "put"], found.written_bytes["file"]) == (1, 5)


def test_a_listing_is_a_request_per_thousand(before: Traffic) -> None:
    objects = Objects.open("memory://many")
    for number in range(1001):
        objects.create(f"{number}", b"")
    assert len(list(objects.list())) == 1001
    assert traffic().since(before).requests["memory", "list"] == 2


def test_what_came_since() -> None:
    first = Traffic({("s3", "get"): 2, ("s3", "put"): 1}, {"s3": 5}, {})
    second = Traffic({("s3", "get"): 5, ("s3", "put"): 1}, {"s3": 5}, {"s3": 7})
    assert second.since(first) == Traffic({("s3", "get"): 3}, {}, {"s3": 7})
    before = traffic()
    note_traffic("s3", "get", 2, read_bytes=3)
    assert traffic().since(before) == Traffic({("s3", "get"): 2}, {"s3": 3}, {})
