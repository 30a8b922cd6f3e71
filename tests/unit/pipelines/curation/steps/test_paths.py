"""File names stay below their source's folder, and links that lead out of it aren't followed."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import pytest

from pipelines.curation.records import RecordError
from pipelines.curation.steps.paths import SourceFolder, safe_join
from storage.objects import Objects
from storage.schema import RejectReason


def test_plain_names() -> None:
    assert safe_join("images", "train2014/a b(c)+ü.jpg") == "images/train2014/a b(c)+ü.jpg"
    assert safe_join("", "a.jpg") == "a.jpg"
    assert safe_join("/images/", "..a..jpg") == "images/..a..jpg"


@pytest.mark.parametrize(
    "name", ["", "/a", "a/..", "..", "./a", "a//b", "a/", "a\\b", "s3://b/a", "~a", "a\nb", "ä" * 128, "\udcff"]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(RecordError, match="path_unsafe: file name: expected a plain path below the source's folder"):
        safe_join("images", name)


def test_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/refs(unc).p").write_bytes(b"1")
    (tmp_path / "in/link").symlink_to("a")
    (tmp_path / "secret").write_bytes(b"2")
    (tmp_path / "in/out").symlink_to(tmp_path / "secret")
    (tmp_path / "in/loop").symlink_to("loop")
    folder = SourceFolder(str(tmp_path / "in"))
    assert folder.exists()
    assert folder.read("a/refs(unc).p") == folder.read("link/refs(unc).p") == b"1"
    for path, reason in {
        "out": RejectReason.PATH_UNSAFE,
        "link/../../secret": RejectReason.PATH_UNSAFE,
        "a/../../secret": RejectReason.PATH_UNSAFE,
        "absent": RejectReason.IMAGE_MISSING,
        "a/refs(unc).p/b": RejectReason.IMAGE_MISSING,
        "a": RejectReason.IMAGE_UNREADABLE,
        "loop": RejectReason.IMAGE_UNREADABLE,
    }.items():
        with pytest.raises(RecordError, match=re.escape(f"{reason}: {path}: ")) as caught:
            folder.read(path)
        assert caught.value.reason is reason


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"1")
    os.symlink(tmp_path / "real", tmp_path / "in")
    assert SourceFolder(str(tmp_path / "in")).read("a") == b"1"


def test_an_object_store() -> None:
    objects = Objects.open(f"memory://{uuid.uuid4().hex}/in")
    objects.create("a/refs(unc).p", b"1")
    folder = SourceFolder(objects.url)
    assert folder.exists()
    assert folder.read("a/refs(unc).p") == b"1"
    with pytest.raises(RecordError, match="image_missing: b: no such file in the source"):
        folder.read("b")


def test_names_of_a_folder_come_sorted_and_while_they_are_read(tmp_path: Path) -> None:
    names = ["a.jpg", "a/1.jpg", "a/b/2.jpg", "a-b.jpg", "b/3.txt", "c.jpg"]
    for name in [*names, ".hidden/4.jpg", "a/.5.jpg"]:
        (tmp_path / "in/pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/pictures" / name).write_bytes(b"1")
    (tmp_path / "secret").write_bytes(b"2")
    (tmp_path / "in/pictures/out.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "in/pictures/link.jpg").symlink_to("a.jpg")
    (tmp_path / "in/pictures/loop").symlink_to("..")
    folder = SourceFolder(str(tmp_path / "in"))
    expected = sorted(f"pictures/{name}" for name in [*names, "link.jpg", "out.jpg"])
    assert list(folder.names("pictures")) == list(folder.names("/pictures/")) == expected
    assert list(folder.names("")) == expected
    with pytest.raises(RecordError, match=r"path_unsafe: pictures/out\.jpg: a link leads out of the source's folder"):
        folder.read("pictures/out.jpg")
    some = folder.names("pictures")
    assert next(some) == "pictures/a-b.jpg"
    (tmp_path / "in/pictures/a/1.jpg").unlink()  # its folder wasn't come to
    assert "pictures/a/1.jpg" not in list(some)
    (tmp_path / "in/elsewhere").symlink_to(tmp_path)
    for name, reason in {"absent": RejectReason.IMAGE_MISSING, "elsewhere": RejectReason.PATH_UNSAFE}.items():
        with pytest.raises(RecordError, match=f"{reason}: {name}: "):
            list(folder.names(name))


def test_names_of_an_object_store() -> None:
    objects = Objects.open(f"memory://{uuid.uuid4().hex}/in")
    for name in ("b/2.jpg", "b/1.jpg", "bc/3.jpg", "a.jpg"):
        objects.create(name, b"1")
    folder = SourceFolder(objects.url)
    assert list(folder.names("")) == ["a.jpg", "b/1.jpg", "b/2.jpg", "bc/3.jpg"]
    assert list(folder.names("b")) == ["b/1.jpg", "b/2.jpg"]
    assert list(folder.names("absent")) == []
