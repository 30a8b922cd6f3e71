"""Bad input ends as a reject with file, record and reason, or as an error that names the file and the remedy."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import Here, curate_local, curate_with
from pipelines.curation.records import RecordError
from pipelines.curation.shards import ShardWork
from pipelines.curation.steps.images import probe
from pipelines.curation.steps.source_files import iterate_rows, iterate_tables
from pipelines.curation.testing import Killed, KilledAfter, polygon_of, write_coco, write_picture
from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig
from pipelines.scenes.config import SplitSizes
from pipelines.scenes.generate import generate
from storage.corpus import Corpus, table_to_rejects
from storage.errors import ManifestConflict, SourceError, TooManyRejects, UnsafePickle, UsageError
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.schema import Reject, RejectReason
from tests.mutations import mutated

_REFS = "refcoco/refs(unc).p"


class _Runs:
    """Pickles as a call of anything."""

    def __init__(self, call: object, *arguments: object) -> None:
        self._call, self._arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._call, self._arguments


def _write_source(root: Path, num_images: int = 4, refs: list[object] | None = None) -> CurationConfig:
    """A RefCOCO source of good records, one picture and one expression each."""
    for number in range(1, num_images + 1):
        write_picture(root / f"images/train2014/{number}.png", seed=number)
    write_coco(
        root / "refcoco/instances.json",
        [{"id": n, "file_name": f"{n}.png", "height": 24, "width": 32} for n in range(1, num_images + 1)],
        [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": polygon_of((1, 1, 9, 9))}
            for n in range(1, num_images + 1)
        ],
    )
    good: list[object] = [
        {
            "ref_id": n,
            "image_id": n,
            "ann_id": n,
            "split": "train",
            "sentences": [{"sent_id": n, "raw": f"cup number {n}", "sent": f"cup number {n}"}],
        }
        for n in range(1, num_images + 1)
    ]
    (root / _REFS).write_bytes(pickle.dumps(good if refs is None else refs, protocol=2))
    return CurationConfig.model_validate({"root": str(root), "sources": [{"kind": "refcoco"}], "images_per_shard": 1})


def _curate(config: CurationConfig, folder: Path) -> Corpus:
    output = Objects.open(folder)
    curate_local(config, output, NullProgress())
    return Corpus.open(output)


def _only_reject(config: CurationConfig, folder: Path) -> Reject:
    (reject,) = _curate(config, folder).rejects()
    assert reject.source_file == _REFS
    return reject


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (eval, "builtin.*eval"),
        (bytearray, "builtin.*bytearray"),
        (getattr, "builtin.*getattr"),
        (Counter, "collections.Counter"),
    ],
)
def test_a_pickle_that_asks_for_a_global_is_refused_by_name(
    tmp_path: Path, protocol: int, call: object, name: str
) -> None:
    config = _write_source(tmp_path / "in")
    marker = tmp_path / "ran"
    argument: object = f"touch {marker}" if call is os.system else "1"
    data = pickle.dumps([_Runs(call, argument)], protocol=protocol)
    (tmp_path / "in" / _REFS).write_bytes(data)
    with pytest.raises(UnsafePickle, match=rf"refs\(unc\)\.p: expected .* asks for the global .*{name}; .*publisher"):
        _curate(config, tmp_path / "out")
    assert not marker.exists()
    assert read_manifest(Objects.open(tmp_path / "out")) is None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x80\x02Pan object\n.", "asks for a persistent object"),
        (b"\x80\x02\x82\x01.", "asks for a registered extension"),
    ],
)
def test_other_doors_out_of_a_pickle_are_shut(data: bytes, found: str) -> None:
    with pytest.raises(UnsafePickle, match=rf"^refs\.p: .*{found}"):
        list(iterate_rows(io.BytesIO(data), "refs.p"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle at all",
        b"\x80\x02]",
        pickle.dumps([{"ref_id": 1}] * 20, protocol=2)[:-30],
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo index that would make the interpreter allocate 32 GiB
        b"]p99999999999\n.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # a bytearray of a tebibyte
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8b\xff\xff\xff\xff.",
        b"\x80\x0299999.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"\x80\x02}]]s.",
        b"\x80\x02" + b"0" * 50 + b".",
    ],
)
def test_a_damaged_pickle_is_named_with_the_remedy(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"^refs\.p: expected a whole pickle, got \d+ bytes .*fetch the file again"):
        list(iterate_rows(io.BytesIO(data), "refs.p"))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "expected JSON, got text that can't be decoded at character 0"),
        (b'{"images": [{"id": 1}', "expected JSON"),
        (b'{"images": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "RecursionError"),
        (b'{"images": [\xff\xfe]}', "expected JSON"),
    ],
)
def test_damaged_json_is_named_with_the_remedy(data: bytes, found: str) -> None:
    with pytest.raises(SourceError, match=rf"^instances\.json: .*{found}.*fetch the file again"):
        list(iterate_tables(io.BytesIO(data), "instances.json", ["images"], ["images"]))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        (_REFS, pickle.dumps({"refs": []}), r"refs\(unc\)\.p: expected a list of records, got dict of 1"),
        ("refcoco/instances.json", b"[]", r"instances\.json: expected a COCO mapping, got a list"),
        ("refcoco/instances.json", b'{"images": []}', r"instances\.json: expected a list under 'categories', got none"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    config = _write_source(tmp_path / "in")
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(SourceError, match=found):
        _curate(config, tmp_path / "out")


def test_an_absent_file_is_named_with_the_expected_layout(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    (tmp_path / "in/refcoco/instances.json").unlink()
    with pytest.raises(SourceError, match=r"^refcoco/instances.json: absent; expected refcoco/refs\(unc\)\.p, refcoco"):
        _curate(config, tmp_path / "out")
    nowhere = config.model_copy(update={"root": str(tmp_path / "nowhere")})
    with pytest.raises(SourceError, match=r"the root .*nowhere is absent; expected refcoco"):
        _curate(nowhere, tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UsageError, match=r"RefCocoSource has no root; set curation\.root"):
        _curate(config.model_copy(update={"root": None}), tmp_path / "out")


def test_a_source_file_that_links_out_of_the_root_is_refused(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    (tmp_path / "in" / _REFS).rename(tmp_path / "refs.p")
    (tmp_path / "in" / _REFS).symlink_to(tmp_path / "refs.p")
    with pytest.raises(SourceError, match=r"refs\(unc\)\.p: leads out of the source's folder"):
        _curate(config, tmp_path / "out")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_bomb(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * (3 * side + 1))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (None, RejectReason.IMAGE_MISSING, "images/train2014/2.png: no such file"),
        (b"", RejectReason.IMAGE_UNREADABLE, "0 bytes"),
        (b"GIF89a", RejectReason.IMAGE_UNREADABLE, "2.png"),
        (b"<html>404</html>", RejectReason.IMAGE_UNREADABLE, "16 bytes that are none of JPEG"),
        (_png_bomb(60_000), RejectReason.IMAGE_TOO_LARGE, "2.png: more than"),
        (_png_bomb(8_000), RejectReason.IMAGE_TOO_LARGE, "expected at most 50000000 px, got 8000 x 8000"),
        (_png_bomb(24)[:45] + b"????" + _png_bomb(24)[49:], RejectReason.IMAGE_UNREADABLE, "can't be decoded whole"),
    ],
    ids=["absent", "empty", "header only", "a web page", "huge", "too large", "damaged"],
)
def test_a_bad_image_rejects_its_records(
    tmp_path: Path, content: bytes | None, reason: RejectReason, detail: str
) -> None:
    config = _write_source(tmp_path / "in")
    picture = tmp_path / "in/images/train2014/2.png"
    picture.unlink()
    if content is not None:
        picture.write_bytes(content)
    reject = _only_reject(config, tmp_path / "out")
    assert (reject.locator, reject.reason) == ("ref_id=2/sent_id=2", reason)
    assert detail in reject.detail


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp"])
def test_a_truncated_image_rejects_its_records(tmp_path: Path, suffix: str) -> None:
    config = _write_source(tmp_path / "in")
    picture = tmp_path / "in/images/train2014/2.png"  # content decides, not the suffix
    write_picture(tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    picture.write_bytes(whole[: len(whole) * 2 // 3])
    reject = _only_reject(config, tmp_path / "out")
    assert reject.reason is RejectReason.IMAGE_UNREADABLE
    assert "2.png" in reject.detail


def test_an_image_that_links_out_of_the_root_is_rejected(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    picture = tmp_path / "in/images/train2014/2.png"
    picture.rename(tmp_path / "secret.png")
    picture.symlink_to(tmp_path / "secret.png")
    reject = _only_reject(config, tmp_path / "out")
    assert reject.reason is RejectReason.PATH_UNSAFE
    assert "name its folder as image_root" in reject.detail


def test_a_picture_of_a_folder_that_links_out_of_the_root_or_nowhere_is_rejected(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/photos/a.png")
    write_picture(tmp_path / "secret.png", seed=1)
    (tmp_path / "in/photos/out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in/photos/gone.png").symlink_to("b.png")
    source = {"kind": "images", "pictures": ["photos"]}
    config = CurationConfig.model_validate({"root": str(tmp_path / "in"), "sources": [source], "max_reject_share": 1})
    corpus = _curate(config, tmp_path / "out")
    assert {reject.locator: reject.reason for reject in corpus.rejects()} == {
        "gone.png": RejectReason.IMAGE_MISSING,
        "out.png": RejectReason.PATH_UNSAFE,
    }
    assert [sample.locator for sample in corpus.samples()] == ["a.png"]


def test_a_folder_in_the_place_of_an_image_is_rejected(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    picture = tmp_path / "in/images/train2014/2.png"
    picture.unlink()
    picture.mkdir()
    assert _only_reject(config, tmp_path / "out").reason is RejectReason.IMAGE_UNREADABLE


def _put_socket(place: Path) -> None:
    with contextlib.chdir(place.parent), socket.socket(socket.AF_UNIX) as server:  # names of sockets are short
        server.bind(place.name)


@pytest.mark.parametrize(("put", "found"), [(os.mkfifo, "a FIFO"), (_put_socket, "a socket")], ids=["FIFO", "socket"])
def test_nobody_waits_for_what_is_no_file(tmp_path: Path, put: Callable[[Path], None], found: str) -> None:
    """Reading a FIFO would wait until somebody writes into it."""
    config = _write_source(tmp_path / "in")
    picture = tmp_path / "in/images/train2014/2.png"
    picture.unlink()
    put(picture)
    reject = _only_reject(config, tmp_path / "out")
    assert reject.reason is RejectReason.IMAGE_UNREADABLE
    assert reject.detail == f"images/train2014/2.png: expected a file, found {found}"
    rows = [{"kind": "images", "pictures": ["images"]}, {"kind": "generic", "rows": ["rows.jsonl"]}]
    (tmp_path / "in/rows.jsonl").write_text(json.dumps({"image": "packed.zip/a.png", "caption": "a cup"}))
    put(tmp_path / "in/packed.zip")
    folders = CurationConfig.model_validate({"root": str(tmp_path / "in"), "sources": rows, "max_reject_share": 1})
    rejects = {reject.locator: reject.detail for reject in _curate(folders, tmp_path / "folders").rejects()}
    assert rejects == {
        "train2014/2.png": f"images/train2014/2.png: expected a file, found {found}",
        "row=0": "packed.zip/a.png: no such file in the source's folder",
    }
    (tmp_path / "in" / _REFS).unlink()
    put(tmp_path / "in" / _REFS)
    with pytest.raises(SourceError, match=rf"refs\(unc\)\.p: expected a file, found {found}; expected refcoco/refs"):
        _curate(config, tmp_path / "refs")


@pytest.mark.parametrize(
    "name",
    ["../2.png", "/etc/passwd", "a/../../2.png", "a\\2.png", "C:/2.png", "2\x00.png", "a//2.png", "", "x" * 300, "~/2"],
)
def test_a_name_that_leads_out_of_the_root_is_rejected(tmp_path: Path, name: str) -> None:
    config = _write_source(tmp_path / "in")
    path = tmp_path / "in/refcoco/instances.json"
    coco = json.loads(path.read_text())
    coco["images"][1]["file_name"] = name
    path.write_text(json.dumps(coco))
    reject = _only_reject(config, tmp_path / "out")
    assert (reject.locator, reject.reason) == ("ref_id=2/sent_id=2", RejectReason.PATH_UNSAFE)


def test_too_many_rejects_publish_nothing_but_can_be_looked_at(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    for number in (1, 2, 3):
        (tmp_path / f"in/images/train2014/{number}.png").unlink()
    output = Objects.open(tmp_path / "out")
    with pytest.raises(TooManyRejects, match=r"refs\(unc\)\.p: expected at most 50% rejects, got 3 of 4 .*3 image_mis"):
        curate_local(config, output, NullProgress())
    assert read_manifest(output) is None
    import pyarrow.parquet as pq

    rejects = table_to_rejects(pq.read_table(tmp_path / "out/rejects", partitioning=None))
    assert [reject.reason for reject in rejects] == [RejectReason.IMAGE_MISSING] * 3
    allowed = config.model_copy(update={"max_reject_share": 0.75})
    assert len(list(_curate(allowed, tmp_path / "out").rejects())) == 3


def test_a_record_that_stands_twice_is_kept_once(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    twice = config.model_copy(update={"sources": (*config.sources, *config.sources)})
    corpus = _curate(twice, tmp_path / "out")
    assert len(list(corpus.samples())) == 4
    assert {reject.reason for reject in corpus.rejects()} == {RejectReason.DUPLICATE}


def test_a_killed_run_continues_and_gives_the_same_bytes(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    whole = _curate(config, tmp_path / "whole").objects
    workers = KilledAfter(1_000)
    curate_with(workers, config, Objects.open(tmp_path / "counted"), NullProgress())
    num_items = 1_000 - workers.left
    assert num_items > 6  # one part, one batch of pictures, and shards, made and settled
    for survived in range(num_items):
        output = Objects.open(tmp_path / f"killed{survived}")
        with pytest.raises(Killed):
            curate_with(KilledAfter(survived), config, output, NullProgress())
        assert read_manifest(output) is None
        # And one shard of which only the first file was written.
        for looks in sorted((tmp_path / f"killed{survived}/work").glob("made-*/looks/*"))[-1:]:
            looks.unlink()
            (looks.parent.parent / "rejects" / looks.name).unlink()
        curate_local(config, output, NullProgress())
        assert {i.key: output.read(i.key) for i in output.list()} == {i.key: whole.read(i.key) for i in whole.list()}


def test_a_finished_corpus_is_left_alone_and_another_one_is_not_mixed_in(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")
    output = _curate(config, tmp_path / "out").objects
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert curate_local(config, output, NullProgress()) == read_manifest(output)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    write_picture(tmp_path / "in/images/train2014/1.png", seed=77)
    with pytest.raises(ManifestConflict, match="expected the corpus with key"):
        curate_local(config, output, NullProgress())


def test_an_image_that_changes_under_the_run_is_noticed(tmp_path: Path) -> None:
    config = _write_source(tmp_path / "in")

    class Slow(Here):
        def map(self, function: Any, items: Any) -> Any:
            if items and isinstance(items[0], ShardWork):
                write_picture(tmp_path / "in/images/train2014/1.png", seed=77)
            return super().map(function, items)

    with pytest.raises(SourceError, match="the file changed while it was being curated; run curate again"):
        curate_with(Slow(), config, Objects.open(tmp_path / "out"), NullProgress())


@pytest.fixture(scope="module")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    generate(ScenesConfig(size_px=64, splits=SplitSizes(train=6, val=0)), Objects.open(root), NullProgress())
    return root


_SOURCES: dict[str, dict[str, object]] = {
    "refcoco": {"kind": "refcoco"},
    "grefcoco": {"kind": "grefcoco"},
    "osprey": {"kind": "osprey"},
    "coco_panoptic": {
        "kind": "coco_panoptic",
        "annotations": "panoptic/annotations/panoptic_train.json",
        "segments": "panoptic/panoptic_train",
        "images": "images/train2014",
    },
    "perbench": {
        "kind": "perbench",
        "detailed_caption": "perbench/train/detailed_caption.json",
        "mcq": "perbench/train/mcq.json",
        "visual_text_res": "perbench/train/visual_text_res.json",
    },
}


@pytest.mark.parametrize("family", sorted(_SOURCES))
@pytest.mark.parametrize("seed", range(3))
def test_mutated_records_neither_crash_nor_vanish(tmp_path: Path, scenes_root: Path, family: str, seed: int) -> None:
    draw = random.Random(seed)
    (tmp_path / "images").symlink_to(scenes_root / "images")
    source = _SOURCES[family] | {"image_root": str(scenes_root)}
    config = CurationConfig.model_validate({"root": str(tmp_path), "sources": [source], "max_reject_share": 1})
    if family == "coco_panoptic":
        (tmp_path / "panoptic/panoptic_train").mkdir(parents=True)
        for png in (scenes_root / "panoptic/panoptic_train").iterdir():
            (tmp_path / "panoptic/panoptic_train" / png.name).write_bytes(png.read_bytes())
    for name in config.sources[0].source_files():
        content = _decoded(scenes_root / name)
        lists = content if isinstance(content, dict) else {"records": content}
        for key in ("records", "images", "annotations", "categories"):
            rows = lists.get(key, [])
            for place in range(len(rows)):
                if place == 0 or draw.random() < 0.6:
                    rows[place] = mutated(rows[place], draw)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data = pickle.dumps(content, protocol=3) if name.endswith(".p") else _json(content)
        (tmp_path / name).write_bytes(data)
    corpus = _curate(config, tmp_path / "out")  # which checks itself that samples and rejects add up to records
    num_out = len(list(corpus.samples())) + len(list(corpus.rejects()))
    assert num_out >= len(lists.get("annotations", lists.get("records", [])))


def _decoded(path: Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.suffix == ".p" else json.loads(path.read_bytes())


def _json(content: object) -> bytes:
    return json.dumps(content, default=lambda value: value.decode()).encode()


def test_flipped_bytes_of_a_pickle_give_a_value_or_an_error() -> None:
    draw = random.Random(0)
    whole = pickle.dumps([{"ref_id": 1, "raw": "a cup", "ids": [1, 2.5, None, True, "a cup"]}] * 3, protocol=2)
    outcomes: Counter[str] = Counter()
    for _ in range(5_000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            list(iterate_rows(io.BytesIO(data), "refs.p"))
        except SourceError as error:
            outcomes[str(error).partition(":")[0]] += 1
        else:
            outcomes["value"] += 1
    assert set(outcomes) == {"refs.p", "value"}
    assert outcomes["refs.p"] > 1_000
    assert outcomes["value"] > 100


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tif"])
def test_flipped_bytes_of_an_image_give_an_image_or_a_reason(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(suffix)
    write_picture(tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    reasons: set[RejectReason] = set()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(min(len(data), 400))] = draw.randrange(256)
        try:
            found = probe(bytes(data), 10_000, "flipped")
        except RecordError as error:
            reasons.add(error.reason)
        else:
            assert 0 < found.height * found.width <= 10_000
    assert reasons - {RejectReason.IMAGE_TOO_LARGE} == {RejectReason.IMAGE_UNREADABLE}
