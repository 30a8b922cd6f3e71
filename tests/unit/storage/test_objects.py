"""URLs, local disks and errors; what all stores share is in tests/contract/test_object_stores.py."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

import obstore
import pytest
from obstore import exceptions

from storage.errors import InfrastructureError, ObjectNotFound, UsageError
from storage.objects import ObjectInfo, Objects


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    objects = Objects.open(tmp_path / "absent" / "deeper")
    assert list(objects.list()) == []
    with pytest.raises(ObjectNotFound, match="deeper/a: no such object"):
        objects.read("a")
    assert not (tmp_path / "absent").exists()
    objects.create("a", b"1")
    assert (tmp_path / "absent" / "deeper" / "a").read_bytes() == b"1"


def test_local_create_leaves_no_other_file(tmp_path: Path) -> None:
    objects = Objects.open(tmp_path)
    for _ in range(3):
        objects.create("x/a", b"1")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "a"]


def test_half_written_files_are_not_listed(tmp_path: Path) -> None:
    """While one thread writes a large object, another sees all of it or nothing."""
    objects, seen = Objects.open(tmp_path), set[ObjectInfo]()
    writer = threading.Thread(target=objects.create, args=("large", bytes(32 * 2**20)))
    writer.start()
    while writer.is_alive():
        seen.update(objects.list())
    writer.join()
    assert seen | set(objects.list()) == {ObjectInfo("large", 32 * 2**20)}


def test_relative_paths_and_home_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Objects.open("run/a").url == str(tmp_path / "run/a")
    assert Objects.open("~/a").url == str(tmp_path / "home/a")
    assert Objects.open("run/a").local_path == tmp_path / "run/a"
    assert Objects.open(f"file://{tmp_path}/run/a") == Objects.open("run/a")
    assert Objects.open("memory://x/y").local_path is None


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("ftp://host/x", "expected a local path, file://"),
        ("s3:///x", "expected a bucket after s3://"),
        ("https:///x", "expected a host after https://"),
        ("az://account", "az://account/container"),
        ("file://host/x", "expected a local path or file:///folder"),
        ("", "expected a local path"),
        ("s3://key:secret@bucket/x", "no user, password"),
        ("s3://bucket/x?versionId=1", "no user, password, query"),
    ],
)
def test_other_urls_are_refused(url: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        Objects.open(url)
    assert "secret" not in str(caught.value)


def test_memory_stores_live_per_name() -> None:
    Objects.open("memory://per-name/x").create("a", b"1")
    assert Objects.open("memory://per-name").read("x/a") == b"1"
    assert not Objects.open("memory://another-name").exists("x/a")


def test_child_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert Objects.open("s3://bucket/a/").child("b/c/").url == "s3://bucket/a/b/c"
    assert Objects.open("s3://bucket").child("b").url == "s3://bucket/b"
    with pytest.raises(UsageError, match="object key"):
        Objects.open("s3://bucket").child("../other")


def test_local_trouble_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InfrastructureError, match=r"create .*file/a: .*check permissions and free space"):
        Objects.open(tmp_path).create("file/a", b"1")
    with pytest.raises(InfrastructureError, match=r"create .*file/below/a: .*check permissions and free space"):
        Objects.open(tmp_path / "file" / "below").create("a", b"1")


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (exceptions.PermissionDeniedError("denied for AKIDVALUE"), "access refused; check AWS_ACCESS_KEY_ID"),
        (exceptions.UnauthenticatedError("who? AKIDVALUE"), "access refused; check AWS_ACCESS_KEY_ID"),
        (exceptions.GenericError("PUT http://169.254.169.254/latest AKIDVALUE"), "no credentials found, .*set AWS_"),
        (exceptions.GenericError("error sending request AKIDVALUE\nkind: Connect"), "endpoint unreachable"),
        (exceptions.GenericError("status 500 AKIDVALUE"), "if it persists check AWS_ACCESS_KEY_ID"),
        (FileNotFoundError("<Code>NoSuchBucket</Code> AKIDVALUE"), "the bucket doesn't exist"),
    ],
)
def test_errors_of_s3_name_variables_never_values(
    error: Exception, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDVALUE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(obstore, "put", fail)
    with pytest.raises(InfrastructureError, match=match) as caught:
        Objects.open("s3://bucket/x").create("a", b"1")
    assert "AKIDVALUE" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "s3://bucket/x/a" in str(caught.value)


def test_ranges_that_lie_apart_are_fetched_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    objects, asked = Objects.open(f"memory://{uuid.uuid4().hex}"), list[int]()
    data = os.urandom(3 * 2**20)
    objects.create("a", data)
    get_ranges = obstore.get_ranges

    def counting(*args: object, **options: object) -> object:
        asked.extend(options["lengths"])
        return get_ranges(*args, **options)

    monkeypatch.setattr(obstore, "get_ranges", counting)
    spans = [(2 * 2**20, 100), (50, 10), (0, 20), (55, 30), (10, 5)]
    assert objects.read_ranges("a", spans) == [data[start : start + length] for start, length in spans]
    assert asked == [85, 100]
