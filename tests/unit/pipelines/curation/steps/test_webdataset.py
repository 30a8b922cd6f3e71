from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import cast

import pytest

from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.webdataset import expand_shards, iterate_shard
from pipelines.curation.testing import write_shard
from storage.errors import SourceError, UsageError
from storage.objects import Objects


def _read(path: Path) -> list[dict[str, object]]:
    with path.open("rb") as file:
        return cast("list[dict[str, object]]", list(iterate_shard(file, path.name)))


def test_members_of_a_key_come_together_and_pictures_stay_where_they_are(tmp_path: Path) -> None:
    members = {"a.txt": b"one", "b.jpg": b"picture b", "a.jpg": b"picture a", "dir/c.tar.gz": b"?"}
    write_shard(tmp_path / "0.tar", members)
    records = _read(tmp_path / "0.tar")
    assert [record["key"] for record in records] == ["a", "b", "dir/c"]
    text, picture = cast("list[dict[str, object]]", records[0]["members"])
    assert text == {"suffix": "txt", "data": b"one"}
    extent = cast("tuple[int, int]", picture["extent"])
    for url in (str(tmp_path), f"file://{tmp_path}"):
        assert SourceFolder(url).read("0.tar", extent) == b"picture a"
    memory = Objects.open("memory://shards-test")
    memory.put("0.tar", (tmp_path / "0.tar").read_bytes())
    assert SourceFolder("memory://shards-test").read("0.tar", extent) == b"picture a"


def test_names_that_are_not_unicode_can_be_reported(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {"\udcff.txt": b"one"})
    (record,) = _read(tmp_path / "0.tar")
    assert record["key"] == "\\udcff"


@pytest.mark.parametrize("damage", ["cut", "zip", "text"])
def test_what_is_no_whole_shard_is_named(tmp_path: Path, damage: str) -> None:
    write_shard(tmp_path / "0.tar", {"a.jpg": bytes(5000), "a.txt": b"one"})
    data = (tmp_path / "0.tar").read_bytes()
    damaged = {"cut": data[:3000], "zip": gzip.compress(data), "text": b"not a shard"}[damage]
    with pytest.raises(SourceError, match=r"shards/0\.tar: expected an uncompressed WebDataset shard"):
        list(iterate_shard(io.BytesIO(damaged), "shards/0.tar"))


def test_ranges_are_checked() -> None:
    assert expand_shards("{0..1}/{08..10}.tar")[:4] == ("0/08.tar", "0/09.tar", "0/10.tar", "1/08.tar")
    with pytest.raises(UsageError, match="ends before it begins"):
        expand_shards("{3..1}.tar")


def test_a_damaged_header_between_records_is_named_and_loses_none(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {"a.txt": b"one", "b.txt": b"two", "c.txt": b"three"})
    data = bytearray((tmp_path / "0.tar").read_bytes())
    data[1024] ^= 1
    with pytest.raises(SourceError, match=r"0\.tar: expected .* \(a damaged header at byte 1024; it has 10240 bytes\)"):
        list(iterate_shard(io.BytesIO(data), "0.tar"))
