"""Pictures inside archives: found by name, read by range, and damage is a reason and never a crash."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import random
import re
import struct
import tarfile
import threading
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.curation.records import RecordError
from pipelines.curation.steps import archives, members, parquet_archive
from pipelines.curation.steps.archives import KeptArchives, is_archive, iterate_members
from pipelines.curation.steps.paths import FolderFile, SourceFolder
from pipelines.curation.testing import write_parquet_pictures, write_shard, write_zip
from storage.objects import Objects
from storage.schema import RejectReason

_PICTURES = {"train2014/a.jpg": b"picture a", "train2014/sub/b.jpg": b"picture b" * 400, "notes.txt": b"words"}

_WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], None]] = {
    "zip": write_zip,
    "tar": write_shard,
    "parquet": write_parquet_pictures,
}


@pytest.fixture(params=["folder", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SourceFolder]:
    """Gives what was written below `tmp_path`, as a local folder or as an object store."""

    def opened() -> SourceFolder:
        if request.param == "folder":
            return SourceFolder(str(tmp_path))
        objects = Objects.open(f"memory://{uuid.uuid4().hex}/in")
        for path in tmp_path.rglob("*"):
            if path.is_file():
                objects.create(path.relative_to(tmp_path).as_posix(), path.read_bytes())
        return SourceFolder(objects.url)

    return opened


def _reason(folder: SourceFolder, path: str, message: str = "") -> RejectReason:
    with pytest.raises(RecordError, match=message) as caught:
        folder.read(path)
    return caught.value.reason


@pytest.mark.parametrize("suffix", sorted(_WRITERS))
def test_members_are_found_by_whole_path_or_below_the_top_folder(
    tmp_path: Path, folder: Callable[[], SourceFolder], suffix: str
) -> None:
    name = f"coco/train2014.{suffix}"
    _WRITERS[suffix](tmp_path / name, _PICTURES)
    source = folder()
    for path, content in _PICTURES.items():
        assert source.read(f"{name}/{path}") == content
    assert source.read(f"{name}/a.jpg") == b"picture a"
    assert source.read(f"{name}/sub/b.jpg") == _PICTURES["train2014/sub/b.jpg"]
    assert _reason(source, f"{name}/b.jpg", "holds no b.jpg, neither") is RejectReason.IMAGE_MISSING
    assert _reason(source, f"coco/absent.{suffix}/a.jpg", "no such file") is RejectReason.IMAGE_MISSING


@pytest.mark.parametrize("suffix", sorted(_WRITERS))
def test_a_name_that_fits_several_members_is_refused(
    tmp_path: Path, folder: Callable[[], SourceFolder], suffix: str
) -> None:
    _WRITERS[suffix](tmp_path / f"a.{suffix}", {"train/1.jpg": b"1", "val/1.jpg": b"2", "val/2.jpg": b"3"})
    source = folder()
    assert _reason(source, f"a.{suffix}/1.jpg", "holds 1.jpg below several folders") is RejectReason.FIELD_INVALID
    assert source.read(f"a.{suffix}/2.jpg") == b"3"
    assert source.read(f"a.{suffix}/val/1.jpg") == b"2"


@pytest.mark.parametrize("suffix", sorted(_WRITERS))
def test_a_folder_may_be_called_like_an_archive(
    tmp_path: Path, folder: Callable[[], SourceFolder], suffix: str
) -> None:
    (tmp_path / f"x.{suffix}").mkdir()
    (tmp_path / f"x.{suffix}/a.jpg").write_bytes(b"plain")
    _WRITERS[suffix](tmp_path / f"x.{suffix}/inner.{suffix}", {"a.jpg": b"inside"})
    source = folder()
    assert source.read(f"x.{suffix}/a.jpg") == b"plain"
    assert source.read(f"x.{suffix}/a.jpg", (1, 2)) == b"la"
    assert source.read(f"x.{suffix}/inner.{suffix}/a.jpg") == b"inside"


def test_names_as_programs_write_them(tmp_path: Path, folder: Callable[[], SourceFolder]) -> None:
    write_shard(tmp_path / "a.tar", {"./train/a.jpg": b"1", "./b.jpg": b"2"})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("train")
        archive.writestr("ü/a.jpg", b"3")
    data = (tmp_path / "a.zip").read_bytes()
    # The same name in UTF-8, without the flag that says so.
    (tmp_path / "b.zip").write_bytes(re.sub(rb"(PK\x01\x02.{4})\x00\x08", lambda m: m[1] + b"\0\0", data, flags=re.S))
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert archive.namelist()[-1] != "ü/a.jpg"
    source = folder()
    assert source.read("a.tar/train/a.jpg") == source.read("a.tar/a.jpg") == b"1"
    assert source.read("a.tar/b.jpg") == b"2"
    assert source.read("a.zip/ü/a.jpg") == source.read("b.zip/a.jpg") == b"3"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_long_headers_before_a_member(tmp_path: Path, folder: Callable[[], SourceFolder], method: int) -> None:
    name = "x" * 200 + ".jpg"
    info = zipfile.ZipInfo(f"{'y' * 200}/{name}")
    info.compress_type, info.extra = method, struct.pack("<HH", 0xCAFE, 2000) + bytes(2000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"picture" * 99)
        archive.writestr("last.jpg", b"")
    source = folder()
    assert source.read(f"a.zip/{name}") == b"picture" * 99
    assert source.read("a.zip/last.jpg") == b""


def test_members_that_are_refused(tmp_path: Path, folder: Callable[[], SourceFolder]) -> None:
    write_shard(tmp_path / "a.tar", {"link.jpg": Path("b.jpg"), "twice.jpg": b"1", "./twice.jpg": b"2"})
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("locked.jpg", b"secret")
        archive.writestr("packed.jpg", b"1" * 50, zipfile.ZIP_BZIP2)
        archive.writestr("../up.jpg", b"1")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    (tmp_path / "gz.tar").write_bytes((tmp_path / "a.tar.gz").read_bytes())
    source = folder()
    for path, (reason, message) in {
        "a.tar/link.jpg": (RejectReason.PATH_UNSAFE, "expected a plain file in the archive, got a link"),
        "a.zip/link.jpg": (RejectReason.PATH_UNSAFE, "expected a plain file in the archive, got a link"),
        "a.tar/twice.jpg": (RejectReason.FIELD_INVALID, "a.tar: holds twice.jpg more than once"),
        "a.zip/locked.jpg": (RejectReason.IMAGE_UNREADABLE, "is encrypted; unpack the archive with its password"),
        "a.zip/packed.jpg": (RejectReason.IMAGE_UNREADABLE, "expected it stored or deflated, got compression 12"),
        "a.tar.gz/link.jpg": (RejectReason.IMAGE_UNREADABLE, "unpack its compression, so that it is a plain .tar"),
        "gz.tar/link.jpg": (RejectReason.IMAGE_UNREADABLE, "expected an uncompressed tar archive"),
    }.items():
        assert _reason(source, path, re.escape(message)) is reason, path


def test_a_link_to_an_archive_elsewhere_is_not_followed(tmp_path: Path) -> None:
    write_zip(tmp_path / "out.zip", {"a.jpg": b"1"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.zip").symlink_to(tmp_path / "out.zip")
    assert _reason(SourceFolder(str(tmp_path / "in")), "a.zip/a.jpg", "leads out") is RejectReason.PATH_UNSAFE


def test_a_member_beyond_reason_is_refused_before_it_is_read(
    tmp_path: Path, folder: Callable[[], SourceFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_MEMBER_BYTES", 1000)
    for suffix, write in _WRITERS.items():
        write(tmp_path / f"a.{suffix}", {"bomb.jpg": bytes(1001), "most.jpg": bytes(1000)})
    source = folder()
    for suffix in _WRITERS:
        assert _reason(source, f"a.{suffix}/bomb.jpg", "expected at most 1000 bytes") is RejectReason.IMAGE_TOO_LARGE
        assert source.read(f"a.{suffix}/most.jpg") == bytes(1000)
    with pytest.raises(RecordError, match=r"image_too_large: a\.tar: expected at most 1000 bytes, got 1001"):
        source.read("a.tar", (0, 1001))


def test_a_zip_bomb_that_lies_about_its_size(tmp_path: Path, folder: Callable[[], SourceFolder]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(2**22))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 100)
    (tmp_path / "a.zip").write_bytes(data)
    message = "expected 100 bytes, as the directory says, got fewer or more"
    assert _reason(folder(), "a.zip/bomb.jpg", message) is RejectReason.IMAGE_UNREADABLE


@pytest.mark.parametrize("suffix", sorted(_WRITERS))
def test_an_archive_that_is_cut_off(tmp_path: Path, folder: Callable[[], SourceFolder], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    _WRITERS[suffix](path, {"a.jpg": random.Random(0).randbytes(2000), "b.jpg": random.Random(1).randbytes(5000)})
    path.write_bytes(path.read_bytes()[:4500])
    source = folder()
    assert _reason(source, f"a.{suffix}/b.jpg", f"a.{suffix}: expected") is RejectReason.IMAGE_UNREADABLE
    if suffix == "tar":  # what stands before the cut is whole
        assert source.read("a.tar/a.jpg") == random.Random(0).randbytes(2000)
    with pytest.raises(RecordError, match=f"image_unreadable: a.{suffix}: expected .* can't be read as one"):
        list(iterate_members(FolderFile(source, f"a.{suffix}")))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_of_a_zip_is_seen(tmp_path: Path, folder: Callable[[], SourceFolder], method: int) -> None:
    content = b"a picture " * 50 + random.Random(0).randbytes(2000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.jpg", content)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[1500] ^= 4
    (tmp_path / "a.zip").write_bytes(data)
    assert _reason(folder(), "a.zip/a.jpg", r"CRC doesn't match|can't be decompressed|fewer or more") is (
        RejectReason.IMAGE_UNREADABLE
    )


def test_a_damaged_header_does_not_end_a_tar_silently(tmp_path: Path, folder: Callable[[], SourceFolder]) -> None:
    write_shard(tmp_path / "a.tar", {f"{n}.jpg": b"%d" % n for n in range(5)})
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[2 * 1024 + 10] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    source = folder()
    assert source.read("a.tar/1.jpg") == b"1"
    assert _reason(source, "a.tar/4.jpg", "a damaged header at byte 2048") is RejectReason.IMAGE_UNREADABLE
    with pytest.raises(RecordError, match="a damaged header at byte 2048"):
        list(iterate_members(FolderFile(source, "a.tar")))


@pytest.mark.parametrize(
    "header",
    [
        {"type": b"L", "size": 2**33 - 1},
        {"type": tarfile.XHDTYPE, "size": 2**33 - 1},
        {"size": -512},
        {"size": -(2**40)},
        {"type": b"L", "size": -512},
    ],
)
def test_headers_that_claim_too_much_or_less_than_nothing(tmp_path: Path, header: dict[str, object]) -> None:
    first = tarfile.TarInfo("a.jpg")
    bad = tarfile.TarInfo("b.jpg")
    for field, value in header.items():
        setattr(bad, field, value)
    data = first.tobuf(tarfile.GNU_FORMAT) + bad.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(data)
    assert _reason(SourceFolder(str(tmp_path)), "a.tar/b.jpg", "expected an uncomp") is RejectReason.IMAGE_UNREADABLE


def test_long_names_and_sparse_files_of_a_tar(tmp_path: Path) -> None:
    long = "/".join(["x" * 90] * 3) + ".jpg"
    for number, style in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=style) as archive:
            member = tarfile.TarInfo(long)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        assert SourceFolder(str(tmp_path)).read(f"{number}.tar/{long}") == b"abc"
    sparse = tarfile.TarInfo("sparse.jpg")
    sparse.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 2**30
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    (tmp_path / "s.tar").write_bytes(bytes(header) + bytes(1024))
    source = SourceFolder(str(tmp_path))
    assert _reason(source, "s.tar/sparse.jpg", "expected a plain file in the ar") is RejectReason.IMAGE_UNREADABLE


def test_flipped_bytes_give_a_picture_or_a_reason(tmp_path: Path) -> None:
    """Whatever is flipped, a member is what it was, or has a reason; only a tar has no sums to see it by."""
    draw = random.Random(0)
    contents = {f"d/{n}.jpg": draw.randbytes(60) for n in range(4)}
    outcomes: Counter[str] = Counter()
    for suffix, write in _WRITERS.items():
        write(tmp_path / f"whole.{suffix}", contents)
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for number in range(100):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            if draw.random() < 0.2:
                del data[draw.randrange(len(data)) :]
            (tmp_path / f"{number}.{suffix}").write_bytes(data)
            source = SourceFolder(str(tmp_path))
            for name, content in contents.items():
                try:
                    same = source.read(f"{number}.{suffix}/{name}") == content
                except RecordError as error:
                    outcomes[f"{suffix} {error.reason}"] += 1
                else:
                    outcomes[f"{suffix} {same}"] += 1
            try:
                outcomes[f"{suffix} listed"] += len(list(iterate_members(FolderFile(source, f"{number}.{suffix}"))))
            except RecordError as error:
                outcomes[f"{suffix} {error.reason}"] += 1
    assert outcomes["zip False"] == 0
    for suffix in _WRITERS:
        assert outcomes[f"{suffix} image_unreadable"] > 40
        assert outcomes[f"{suffix} True"] > 20


def test_rows_of_parquet_by_name_and_by_number(tmp_path: Path, folder: Callable[[], SourceFolder]) -> None:
    names = ["a.jpg", "same.jpg", "same.jpg", "/home/someone/b.jpg", None]
    rows = [{"bytes": b"%d" % n, "path": name} for n, name in enumerate(names)]
    table = pa.table({"image": [*rows, {"bytes": None, "path": "none.jpg"}, None], "label": list(range(7))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    source = folder()
    found = list(iterate_members(FolderFile(source, "a.parquet")))
    assert [member.name for member in found] == ["a.jpg", "row=1", "row=2", "row=3", "row=4", "none.jpg", "row=6"]
    assert [member.locator for member in found] == [f"row={n}" for n in range(7)]
    assert [source.read(f"a.parquet/{member.name}") for member in found[:5]] == [b"%d" % n for n in range(5)]
    assert source.read("a.parquet/row=0") == b"0"
    assert _reason(source, "a.parquet/same.jpg", "more than once") is RejectReason.FIELD_INVALID
    for name in ("none.jpg", "row=6"):
        assert _reason(source, f"a.parquet/{name}", "the row holds no bytes in image.bytes") is (
            RejectReason.IMAGE_MISSING
        )
    assert _reason(source, "a.parquet/row=7", "holds no row=7") is RejectReason.IMAGE_MISSING


@pytest.mark.parametrize(
    ("data", "name"),
    [("image_bytes", "image_id"), ("bytes", "file_name"), ("jpg", "key"), ("webp", "key"), ("image", "path")],
)
def test_columns_of_parquet(tmp_path: Path, data: str, name: str) -> None:
    values: list[object] = [7, 8] if name == "image_id" else ["7", "8"]
    kind = pa.large_binary() if data == "jpg" else pa.binary()
    pq.write_table(pa.table({data: pa.array([b"1", b"2"], kind), name: values}), tmp_path / "a.parquet")
    assert SourceFolder(str(tmp_path)).read("a.parquet/8") == b"2"


def test_parquet_without_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["a"], "image": ["b"]}), tmp_path / "a.parquet")
    message = r"a.parquet: expected a column image of bytes and path, or one of image_bytes, .*, got url, image"
    assert _reason(SourceFolder(str(tmp_path)), "a.parquet/row=0", message) is RejectReason.IMAGE_UNREADABLE


def test_a_row_group_is_read_once_for_its_neighbours_and_a_large_one_up_to_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {f"{n:03d}.jpg": b"%d" % n for n in range(40)}
    write_parquet_pictures(tmp_path / "a.parquet", names, row_group_size=20)
    opened: list[str] = []
    real = SourceFolder.open
    monkeypatch.setattr(SourceFolder, "open", lambda self, path: opened.append(path) or real(self, path))
    source = SourceFolder(str(tmp_path))
    assert all(source.read(f"a.parquet/{name}") == content for name, content in names.items())
    assert len(opened) == 3
    monkeypatch.setattr(parquet_archive, "_MAX_GROUP_BYTES", 10)
    write_parquet_pictures(tmp_path / "b.parquet", names, row_group_size=20)
    assert all(source.read(f"b.parquet/{name}") == content for name, content in names.items())
    assert len(opened) == 3 + 1 + 40


@pytest.mark.parametrize("suffix", sorted(_WRITERS))
def test_many_threads_read_one_archive_and_its_index_once(
    tmp_path: Path, folder: Callable[[], SourceFolder], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"d/{n:04d}.jpg": random.Random(n).randbytes(200 + n) for n in range(300)}
    _WRITERS[suffix](tmp_path / f"a.{suffix}", contents)
    source = folder()
    num_indexes = Counter[str]()
    lock = threading.Lock()
    real = archives._OPENERS[suffix]

    def counting(file: members.ArchiveFile) -> members.Archive:
        with lock:
            num_indexes[suffix] += 1
        return real(file)

    monkeypatch.setitem(archives._OPENERS, suffix, counting)
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda name: source.read(f"a.{suffix}/{name}"), list(contents) * 3)
        assert list(found) == list(contents.values()) * 3
    assert num_indexes[suffix] == 1


def test_what_is_known_of_archives_is_bounded_and_follows_the_files(tmp_path: Path) -> None:
    kept = KeptArchives(max_archives=3, max_members=10)
    source = SourceFolder(str(tmp_path))
    for number in range(5):
        write_zip(tmp_path / f"{number}.zip", {"a.jpg": b"%d" % number})
        assert kept.read(FolderFile(source, f"{number}.zip"), "a.jpg") == b"%d" % number
    assert len(kept) == 3
    write_zip(tmp_path / "many.zip", {f"{n}.jpg": b"" for n in range(11)})
    assert kept.read(FolderFile(source, "many.zip"), "10.jpg") == b""
    assert len(kept) == 1
    assert kept.read(FolderFile(source, "absent.zip"), "a.jpg") is None
    (tmp_path / "4.zip").unlink()
    write_zip(tmp_path / "4.zip", {"b.jpg": b"another"})
    assert kept.read(FolderFile(source, "4.zip"), "b.jpg") == b"another"


def test_a_remote_archive_that_is_replaced_is_seen_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.BytesIO()
    objects = Objects.open(f"memory://{uuid.uuid4().hex}")
    for content in (b"first", b"the second"):
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            archive.writestr("a.jpg", content)
        objects.put("a.zip", sink.getvalue())
        assert SourceFolder(objects.url).read("a.zip/a.jpg") == content
        monkeypatch.setattr(archives, "_FRESH_S", 0.0)


def test_no_index_travels_in_a_pickle(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {f"{n}.jpg": b"" for n in range(1000)})
    source = SourceFolder(str(tmp_path))
    source.read("a.zip/1.jpg")
    assert len(pickle.dumps(source)) < 500
    assert pickle.loads(pickle.dumps(source)).read("a.zip/1.jpg") == b""


def test_what_is_an_archive() -> None:
    assert [name for name in ("a.zip", "b/A.TAR", "a.tar.gz", "a.tgz", "a.parquet") if not is_archive(name)] == []
    assert [name for name in ("zip", "a.zip/b", "a.jpg", "a.zipped", "", ".tar.bz2") if is_archive(name)] == []


def test_a_member_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind an index, a picture of a remote archive costs one range."""
    objects = Objects.open(f"memory://{uuid.uuid4().hex}")
    for suffix in ("zip", "tar"):
        _WRITERS[suffix](tmp_path / f"a.{suffix}", {f"{n}.jpg": os.urandom(3000) for n in range(50)})
        objects.create(f"a.{suffix}", (tmp_path / f"a.{suffix}").read_bytes())
    source = SourceFolder(objects.url)
    requests: list[object] = []
    for suffix in ("zip", "tar"):
        source.read(f"a.{suffix}/0.jpg")
        for method in ("read", "read_buffers", "size"):
            real = getattr(Objects, method)
            monkeypatch.setattr(
                Objects, method, lambda *given, real=real, **named: requests.append(given[1:]) or real(*given, **named)
            )
        source.read(f"a.{suffix}/7.jpg")
        assert len(requests) == 1, requests
        monkeypatch.undo()
        requests.clear()


def test_deflated_data_that_ends_early(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(500)
    packer = zlib.compressobj(wbits=-15)
    whole = packer.compress(content) + packer.flush()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", whole[:-20])
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, entry + 10, zipfile.ZIP_DEFLATED)
    struct.pack_into("<I", data, entry + 24, len(content))
    (tmp_path / "a.zip").write_bytes(data)
    assert _reason(SourceFolder(str(tmp_path)), "a.zip/a.jpg", "fewer or more") is RejectReason.IMAGE_UNREADABLE
