from __future__ import annotations

import pickle
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.corpus import (
    Corpus,
    images_to_table,
    rejects_to_table,
    samples_to_table,
    table_file_entry,
    table_to_images,
    table_to_rejects,
    table_to_samples,
    write_images,
    write_rejects,
    write_samples,
)
from storage.errors import CorruptObject, DataError, ManifestConflict, ObjectNotFound
from storage.manifest import FileEntry, Manifest, publish, verify_manifest
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import (
    SAMPLE_SCHEMA,
    ImageRecord,
    PromptKind,
    Region,
    Reject,
    RejectReason,
    Sample,
    Task,
    Turn,
    VisualPrompt,
)
from storage.traffic import traffic


def _sample(number: int, image_id: str | None, **changed: object) -> Sample:
    values: dict[str, object] = {
        "sample_id": f"s{number:03d}",
        "image_id": image_id,
        "family": "refcoco" if number % 2 else "scenes",
        "task": Task.REFERRING if number % 3 else Task.DESCRIPTION,
        "split": "train" if number % 4 else "val",
        "turns": (Turn(text=f"thing {number}", targets=((0,), ())),),
        "source_file": "refs.p",
        "locator": str(number),
    }
    return Sample(**(values | changed))


def _full_sample() -> Sample:
    mask = encode_mask(np.eye(4, 5, dtype=bool))
    return _sample(
        7,
        "i1",
        regions=(
            Region(mask=mask, category="dog", source_id="3"),
            Region(mask=mask, ignored=encode_mask(np.ones((4, 5), bool))),
        ),
        prompts=(
            VisualPrompt(kind=PromptKind.MASK, region=0),
            VisualPrompt(kind=PromptKind.BOX, region=1, box_xyxy_px=(0.0, 0.5, 3.25, 4.0)),
            VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=((0.0, 1.0), (2.5, 3.5))),
        ),
        turns=(
            Turn(text="", answer="<region1> [SEG] é \U0001f6a2", targets=((0, 1),), options=("a", "b")),
            Turn(text="x"),
        ),
    )


def _image(number: int, size_bytes: int = 10, data: bool = True) -> ImageRecord:
    return ImageRecord(
        image_id=f"i{number:03d}",
        data=np.random.default_rng(number).bytes(size_bytes) if data else None,
        uri=None if data else f"s3://bucket/{number}.jpg",
        media_type="image/jpeg",
        height=48,
        width=64,
        coco_id=number if number % 2 else None,
        sources=("a.jpg", "train/a.jpg")[: number % 3],
        difference_hash=-(2**63) + number,
    )


def _publish(objects: Objects, files: Sequence[FileEntry]) -> Corpus:
    publish(objects, Manifest("corpus", "k", 1, {}, {}, tuple(files)))
    return Corpus.open(objects)


@pytest.fixture(params=["local", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "corpus" if request.param == "local" else f"memory://{uuid.uuid4().hex}/corpus")


def test_tables_round_trip() -> None:
    samples = [_full_sample(), _sample(1, None), _sample(2, "i2")]
    assert table_to_samples(samples_to_table(samples)) == samples
    images = [_image(1), _image(2, data=False)]
    assert table_to_images(images_to_table(images)) == images
    rejects = [Reject(family="f", source_file="a", locator="1", reason=RejectReason.MASK_EMPTY, detail="")]
    assert table_to_rejects(rejects_to_table(rejects)) == rejects


def test_another_schema_is_refused() -> None:
    table = samples_to_table([_full_sample()])
    with pytest.raises(DataError, match="expected the columns"):
        table_to_samples(table.drop_columns(["locator"]))
    with pytest.raises(DataError, match="expected the columns"):
        table_to_images(table)


def test_files_are_sorted_and_their_bytes_repeat(objects: Objects) -> None:
    samples = [_sample(number, f"i{number % 7}" if number % 5 else None) for number in range(60)]
    entry = write_samples(objects, "0000", samples)
    assert write_samples(objects, "0000", reversed(samples)) == entry
    assert entry.path == "samples/0000.parquet"
    assert entry.rows == 60
    assert table_file_entry(objects, entry.path) == entry
    keys = [
        (row["image_id"] or "", row["family"], row["sample_id"])
        for row in pq.read_table(pa.BufferReader(objects.read(entry.path))).to_pylist()
    ]
    assert keys == sorted(keys)
    with pytest.raises(ManifestConflict, match=r"samples/0000\.parquet: a file of other content"):
        write_samples(objects, "0000", samples[1:])


def test_reads_what_was_written(objects: Objects) -> None:
    samples = [_sample(number, f"i{number % 7:03d}" if number % 5 else None) for number in range(60)] + [_full_sample()]
    images = [_image(number) for number in range(7)]
    rejects = [
        Reject(family="f", source_file="a", locator=str(n), reason=RejectReason.IMAGE_MISSING, detail="x")
        for n in range(3)
    ]
    files = [
        write_samples(objects, "0000", samples[:30]),
        write_samples(objects, "0001", samples[30:]),
        write_images(objects, "0000", images[3:]),
        write_images(objects, "0001", images[:3]),
        write_rejects(objects, "0000", rejects),
        write_rejects(objects, "0001", []),
    ]
    corpus = _publish(objects, files)
    verify_manifest(objects)
    found = list(corpus.samples())
    assert sorted(found, key=lambda sample: sample.sample_id) == sorted(samples, key=lambda sample: sample.sample_id)
    assert [sample.sample_id for sample in found] == corpus.sample_table(["sample_id"])["sample_id"].to_pylist()
    assert [image.image_id for image in corpus.images()] == ["i003", "i004", "i005", "i006", "i000", "i001", "i002"]
    assert [corpus.image(image.image_id) for image in images] == images
    assert list(corpus.rejects()) == rejects
    table = corpus.image_table()
    assert "data" not in table.column_names
    assert table.num_rows == 7
    assert corpus.image_table(["height", "image_id"]).column_names == ["height", "image_id"]
    assert corpus.sample_table().schema.equals(SAMPLE_SCHEMA)


def test_samples_by_family_split_and_task(objects: Objects) -> None:
    samples = [_sample(number, f"i{number}") for number in range(40)]
    corpus = _publish(objects, [write_samples(objects, "0", samples)])

    def ids(**wanted: list[str]) -> set[str]:
        return {sample.sample_id for sample in corpus.samples(**wanted)}

    assert ids(families=["scenes"]) == {f"s{number:03d}" for number in range(0, 40, 2)}
    assert ids(splits=["val"]) == {f"s{number:03d}" for number in range(0, 40, 4)}
    assert ids(tasks=[Task.DESCRIPTION], splits=["val"]) == {f"s{number:03d}" for number in range(0, 40, 12)}
    assert ids(families=[]) == set()
    assert ids(families=["unheard of"]) == set()


def test_large_images_spread_over_row_groups(objects: Objects) -> None:
    images = [_image(number, 700_000) for number in range(25)]
    corpus = _publish(objects, [write_images(objects, "0", images[:13]), write_images(objects, "1", images[13:])])
    file = pq.ParquetFile(pa.BufferReader(objects.read("images/0.parquet")))
    assert file.num_row_groups == 7
    order = np.random.default_rng(0).permutation(50) % 25
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: corpus.image(images[number].image_id), order.tolist()))
    assert found == [images[number] for number in order]


def test_keeps_the_row_groups_read_last_as_far_as_their_bytes_go(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [_image(number, 1000) for number in range(4)]
    entries = [write_images(objects, str(number), [image]) for number, image in enumerate(images)]
    corpus = _publish(objects, entries)
    monkeypatch.setattr("storage.corpus._CACHED_BYTES", 3000)
    for number in (0, 1, 2, 0, 3):  # 3 needs room: 1 was used longest ago
        corpus.image(images[number].image_id)
    for entry in entries:
        objects.delete(entry.path)
    assert [corpus.image(images[number].image_id) for number in (0, 2, 3)] == [images[n] for n in (0, 2, 3)]
    with pytest.raises((CorruptObject, ObjectNotFound), match=r"images/1\.parquet"):
        corpus.image(images[1].image_id)


def test_narrow_columns_are_read_without_the_pictures_between_them(objects: Objects) -> None:
    images = [_image(number, 700_000) for number in range(25)]
    corpus = _publish(objects, [write_images(objects, "0", images[:13]), write_images(objects, "1", images[13:])])
    before = traffic()
    table = corpus.image_table(["image_id", "height"])
    asked = traffic().since(before)
    assert table["image_id"].to_pylist() == [image.image_id for image in images]
    # Of 17.5 million: two footers, thirteen row groups. Local files aren't counted.
    assert sum(asked.read_bytes.values()) < 200_000
    assert asked.requests.get(("memory", "get"), 0) < 30


@pytest.mark.parametrize("kept_bytes", [2**20, 0])
def test_images_by_their_rows(objects: Objects, monkeypatch: pytest.MonkeyPatch, kept_bytes: int) -> None:
    """In the order of `images`, over files without rows, with footers kept or not."""
    monkeypatch.setattr("storage.corpus_files._CACHED_FOOTER_BYTES", kept_bytes)
    images = [_image(number, 700_000) for number in range(9)]
    pieces = [images[:5], [], images[5:6], images[6:], []]
    corpus = _publish(objects, [write_images(objects, str(number), piece) for number, piece in enumerate(pieces)])
    monkeypatch.setattr(Corpus, "_image_rows", lambda self: pytest.fail("no table of all images is needed"))
    order = [8, 0, 4, 5, 6, 0, 3]
    assert corpus.images_at(order) == [images[row] for row in order]
    assert corpus.images_at([]) == []
    for row in (-1, 9):
        with pytest.raises(IndexError, match=f"expected a row from 0 to 8, got {row}"):
            corpus.images_at([row])


def test_some_consecutive_rows(objects: Objects) -> None:
    """Of both tables, over files and row groups, some of which are empty."""
    images = [_image(number, 700_000) for number in range(9)]
    pieces = [[], images[:5], [], images[5:6], images[6:], []]
    samples = [_sample(number, f"i{number:03}") for number in range(9)]
    files = [write_images(objects, str(number), piece) for number, piece in enumerate(pieces)]
    files += [write_samples(objects, "0", samples[:4]), write_samples(objects, "1", samples[4:])]
    corpus = _publish(objects, files)
    assert (corpus.num_images, corpus.num_samples) == (9, 9)
    tables = (corpus.image_table, ["image_id", "height"]), (corpus.sample_table, ["sample_id", "split"])
    for read, columns in tables:
        whole = read(columns)
        for start in range(10):
            for stop in range(start, 10):
                assert read(columns, range(start, stop)).equals(whole.slice(start, stop - start))


def test_of_some_rows_their_row_groups_are_read(objects: Objects) -> None:
    images = [_image(number, 700_000) for number in range(25)]
    corpus = _publish(objects, [write_images(objects, "0", images[:13]), write_images(objects, "1", images[13:])])
    before = traffic()
    corpus.image_table(["image_id", "height"], range(14, 16))
    asked = traffic().since(before)
    assert asked.requests.get(("memory", "get"), 0) <= 5  # a footer, two row groups of three pictures


def test_an_empty_corpus(objects: Objects) -> None:
    corpus = _publish(objects, [write_samples(objects, "0", []), write_images(objects, "0", [])])
    assert list(corpus.samples()) == []
    assert list(corpus.images()) == []
    assert corpus.image_table().num_rows == 0
    with pytest.raises(DataError, match="image x is not in this corpus"):
        corpus.image("x")


def test_no_files_at_all(objects: Objects) -> None:
    corpus = _publish(objects, [])
    assert corpus.sample_table(["sample_id"]).num_rows == 0
    with pytest.raises(DataError, match="not in this corpus"):
        corpus.image("x")


def test_opening_needs_a_manifest(objects: Objects) -> None:
    write_images(objects, "0", [_image(1)])
    with pytest.raises(ObjectNotFound, match="no corpus there, run curate first"):
        Corpus.open(objects)


def test_survives_pickling(objects: Objects) -> None:
    corpus = _publish(objects, [write_images(objects, "0", [_image(1)])])
    corpus.image("i001")
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.manifest == corpus.manifest
    assert copy.image("i001") == _image(1)


def test_torn_files_are_named(objects: Objects) -> None:
    entry = write_images(objects, "0", [_image(1, 5000)])
    corpus = _publish(objects, [entry])
    objects.put(entry.path, objects.read(entry.path)[:-100])
    with pytest.raises(CorruptObject, match=r"images/0\.parquet.*(expected|found)"):
        corpus.image("i001")
    objects.delete(entry.path)
    with pytest.raises((CorruptObject, ObjectNotFound), match=r"images/0\.parquet"):
        Corpus.open(objects).image("i001")
    objects.put(entry.path, b"no parquet")
    with pytest.raises(CorruptObject, match=r"images/0\.parquet: no Parquet file"):
        table_file_entry(objects, entry.path)
