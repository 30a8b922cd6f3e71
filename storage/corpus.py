"""The corpus: images, samples and rejects as Parquet files under one manifest.

    images/*.parquet   samples/*.parquet   rejects/*.parquet   manifest.json

Rows of a file are sorted (images by `image_id`; samples by image, family and id), and the same rows
give the same bytes. Images are read at random through a map of ids to row groups.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from storage.corpus_files import CorpusFiles
from storage.errors import CorruptObject, DataError, ObjectNotFound
from storage.image_ids import ImageIds, ids_of_column
from storage.keys import bytes_key
from storage.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest, write_once
from storage.objects import Objects
from storage.retirement import retired_error
from storage.schema import (
    IMAGE_SCHEMA,
    REJECT_SCHEMA,
    SAMPLE_SCHEMA,
    ImageRecord,
    Mask,
    PromptKind,
    Region,
    Reject,
    RejectReason,
    Sample,
    Task,
    Turn,
    VisualPrompt,
)

__all__ = [
    "Corpus",
    "image_bytes",
    "images_to_table",
    "rejects_to_table",
    "samples_to_table",
    "table_file_entry",
    "table_to_images",
    "table_to_rejects",
    "table_to_samples",
    "write_images",
    "write_rejects",
    "write_samples",
]

pc: Any = pyarrow.compute
_Row: TypeAlias = dict[str, Any]
_Group: TypeAlias = tuple[int, int]  # file and row group

_GROUP_BYTES = 2 * 2**20  # a random read of one image fetches one row group
_MAX_GROUP_ROWS = {"images": 64, "samples": 4096, "rejects": 65536}
_CACHED_BYTES = 256 * 2**20
"""Encoded images that a reader keeps: a whole small corpus, some hundred row groups of a large one."""
_NUM_FETCHED_AT_ONCE = 16
_MAX_OFFSET = 2**31 - 1  # within one array of bytes
_DICTIONARY = ["family", "task", "split", "media_type", "source_file", "reason"]


def samples_to_table(samples: Iterable[Sample]) -> pa.Table:
    """Samples as a table of `SAMPLE_SCHEMA`, in the given order; coordinates become float32."""
    return pa.Table.from_pylist([_sample_to_row(sample) for sample in samples], schema=SAMPLE_SCHEMA)


def table_to_samples(table: pa.Table) -> list[Sample]:
    """The inverse of `samples_to_table`; raises DataError on another schema."""
    return [_row_to_sample(row) for row in _rows(table, SAMPLE_SCHEMA)]


def images_to_table(images: Iterable[ImageRecord]) -> pa.Table:
    """Images as a table of `IMAGE_SCHEMA`, in the given order."""
    images = list(images)
    columns = {name: [getattr(image, name) for image in images] for name in IMAGE_SCHEMA.names if name != "data"}
    arrays = {name: pa.array(column, IMAGE_SCHEMA.field(name).type) for name, column in columns.items()}
    arrays["data"] = _files_array([image.data for image in images])
    return pa.table([arrays[name] for name in IMAGE_SCHEMA.names], IMAGE_SCHEMA)


def _files_array(files: Sequence[bytes | None]) -> pa.Array | pa.ChunkedArray:
    """Whole files as a column. Arrow's own way copies them again and again, as its buffer grows."""
    sizes = [0 if data is None else len(data) for data in files]
    if None in files or sum(sizes) > _MAX_OFFSET:
        return pa.array(files, pa.binary())
    offsets = np.cumsum([0, *sizes], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(cast("Sequence[bytes]", files)))]
    return pa.Array.from_buffers(pa.binary(), len(files), buffers)


def image_bytes(record: ImageRecord) -> bytes:
    """The file's bytes, from the record or from its URI.

    Raises:
        DataError: the bytes are gone, or are not those of the corpus any more.
        InfrastructureError: the store can't be reached.
    """
    if record.data is not None:
        return record.data
    folder, _, name = (record.uri or "").rpartition("/")
    if not folder or not name:
        raise DataError(f"image {record.image_id}: expected bytes or a URI of a file, got {record.uri!r}")
    try:
        data = Objects.open(folder).read(name)
    except ObjectNotFound as error:
        raise DataError(f"image {record.image_id}: {error}") from error
    if bytes_key(data) != record.image_id:
        raise DataError(f"image {record.image_id}: {record.uri} holds other bytes now; restore it or curate again")
    return data


def table_to_images(table: pa.Table) -> list[ImageRecord]:
    """The inverse of `images_to_table`; raises DataError on another schema."""
    return [ImageRecord(**dict(row, sources=tuple(row["sources"]))) for row in _rows(table, IMAGE_SCHEMA)]


def rejects_to_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as a table of `REJECT_SCHEMA`, in the given order."""
    return pa.Table.from_pylist(
        [{name: getattr(reject, name) for name in REJECT_SCHEMA.names} for reject in rejects], schema=REJECT_SCHEMA
    )


def table_to_rejects(table: pa.Table) -> list[Reject]:
    """The inverse of `rejects_to_table`; raises DataError on another schema."""
    return [Reject(**dict(row, reason=RejectReason(row["reason"]))) for row in _rows(table, REJECT_SCHEMA)]


def write_samples(objects: Objects, name: str, samples: Iterable[Sample]) -> FileEntry:
    """Writes `samples/<name>.parquet`, sorted by image, family and id; text-only samples come first.

    Raises:
        ManifestConflict: a file of other content stands there.
    """
    rows = sorted(samples, key=lambda sample: (sample.image_id or "", sample.family, sample.sample_id))
    return _write(objects, "samples", name, samples_to_table(rows))


def write_images(objects: Objects, name: str, images: Iterable[ImageRecord]) -> FileEntry:
    """Writes `images/<name>.parquet`, sorted by id.

    Raises:
        ManifestConflict: a file of other content stands there.
    """
    return _write(objects, "images", name, images_to_table(sorted(images, key=lambda image: image.image_id)))


def write_rejects(objects: Objects, name: str, rejects: Iterable[Reject]) -> FileEntry:
    """Writes `rejects/<name>.parquet`, sorted by family, file, locator, reason and detail.

    Raises:
        ManifestConflict: a file of other content stands there.
    """
    rows = sorted(rejects, key=lambda row: (row.family, row.source_file, row.locator, row.reason, row.detail))
    return _write(objects, "rejects", name, rejects_to_table(rows))


def table_file_entry(objects: Objects, path: str) -> FileEntry:
    """The manifest entry of a Parquet file that is already there, from its bytes.

    Raises:
        ObjectNotFound: no such file.
        CorruptObject: it is no Parquet file.
    """
    data = objects.read(path)
    try:
        num_rows = pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
    except pa.ArrowInvalid as error:
        raise CorruptObject(f"{objects.url}/{path}: no Parquet file: {error}; delete it and rerun its stage") from error
    return FileEntry.of(path, data, num_rows)


def _write(objects: Objects, folder: str, name: str, table: pa.Table) -> FileEntry:
    sink = io.BytesIO()
    # Encoded pictures don't shrink any further.
    options: dict[str, Any] = {
        "compression": {column: "NONE" if column == "data" else "ZSTD" for column in _leaves(table.schema)},
        "use_dictionary": [column for column in table.schema.names if column in _DICTIONARY],
        "write_statistics": [column for column in ("image_id", "sample_id") if column in table.schema.names],
    }
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        for start, stop in _groups(table, _MAX_GROUP_ROWS[folder]):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
    data, path = sink.getvalue(), f"{folder}/{name}.parquet"
    entry = FileEntry.of(path, data, table.num_rows)
    write_once(objects, path, data)
    return entry


def _leaves(schema: pa.Schema) -> list[str]:
    """Column paths as Parquet names them; compression is set per leaf."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(sink).schema
    return [parquet.column(index).path for index in range(len(parquet.names))]


def _groups(table: pa.Table, max_rows: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about `_GROUP_BYTES` each, at least one row."""
    if "data" not in table.schema.names:
        rows = max(1, min(max_rows, table.num_rows * _GROUP_BYTES // max(table.nbytes, 1)))
        yield from ((start, min(start + rows, table.num_rows)) for start in range(0, table.num_rows, rows))
        return
    start, size_bytes = 0, 0
    for row, length in enumerate(pc.fill_null(pc.binary_length(table["data"]), 0).to_pylist()):
        if row > start and (size_bytes + length > _GROUP_BYTES or row - start == max_rows):
            yield start, row
            start, size_bytes = row, 0
        size_bytes += length
    if start < table.num_rows:
        yield start, table.num_rows


def _rows(table: pa.Table, schema: pa.Schema) -> list[_Row]:
    if not table.schema.equals(schema, check_metadata=False):
        raise DataError(f"table: expected the columns {schema.names} of this version, got {table.schema.names}")
    return table.to_pylist()


def _mask_to_row(mask: Mask) -> _Row:
    return {"height": mask.height, "width": mask.width, "counts": mask.counts}


def _sample_to_row(sample: Sample) -> _Row:
    return {
        "sample_id": sample.sample_id,
        "image_id": sample.image_id,
        "family": sample.family,
        "task": str(sample.task),
        "split": sample.split,
        "regions": [
            {
                "mask": _mask_to_row(region.mask),
                "category": region.category,
                "source_id": region.source_id,
                "ignored": None if region.ignored is None else _mask_to_row(region.ignored),
            }
            for region in sample.regions
        ],
        "prompts": [
            {
                "kind": str(prompt.kind),
                "region": prompt.region,
                "box_xyxy_px": None if prompt.box_xyxy_px is None else list(prompt.box_xyxy_px),
                "points_xy_px": [list(point) for point in prompt.points_xy_px],
            }
            for prompt in sample.prompts
        ],
        "turns": [
            {
                "text": turn.text,
                "answer": turn.answer,
                "targets": [list(target) for target in turn.targets],
                "options": list(turn.options),
            }
            for turn in sample.turns
        ],
        "source_file": sample.source_file,
        "locator": sample.locator,
    }


def _row_to_sample(row: _Row) -> Sample:
    return Sample(
        sample_id=row["sample_id"],
        image_id=row["image_id"],
        family=row["family"],
        task=Task(row["task"]),
        split=row["split"],
        regions=tuple(
            Region(
                mask=Mask(**region["mask"]),
                category=region["category"],
                source_id=region["source_id"],
                ignored=None if region["ignored"] is None else Mask(**region["ignored"]),
            )
            for region in row["regions"]
        ),
        prompts=tuple(
            VisualPrompt(
                kind=PromptKind(prompt["kind"]),
                region=prompt["region"],
                box_xyxy_px=None if prompt["box_xyxy_px"] is None else tuple(prompt["box_xyxy_px"]),
                points_xy_px=tuple((x, y) for x, y in prompt["points_xy_px"] or ()),
            )
            for prompt in row["prompts"]
        ),
        turns=tuple(
            Turn(
                text=turn["text"],
                answer=turn["answer"],
                targets=tuple(tuple(target) for target in turn["targets"]),
                options=tuple(turn["options"]),
            )
            for turn in row["turns"]
        ),
        source_file=row["source_file"],
        locator=row["locator"],
    )


class Corpus:
    """A published corpus. Picklable and safe to use from several threads.

    Args:
        objects: the corpus's prefix.
        manifest: as published there.
    """

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self.objects = objects
        self.manifest = manifest
        self._images = CorpusFiles(objects, _under(manifest, "images/"))
        self._samples = CorpusFiles(objects, _under(manifest, "samples/"))
        self._rejects = CorpusFiles(objects, _under(manifest, "rejects/"))
        self._lock = threading.Lock()
        self._rows: ImageIds | None = None
        self._cache: OrderedDict[_Group, list[ImageRecord]] = OrderedDict()
        self._cached_bytes = 0

    @classmethod
    def open(cls, url: str | os.PathLike[str] | Objects) -> Corpus:
        """Opens a corpus.

        Raises:
            ObjectNotFound: there is no manifest, so there is no corpus.
            RetiredCorpus: there was one; the message names its successor.
        """
        objects = url if isinstance(url, Objects) else Objects.open(url)
        manifest = read_manifest(objects)
        if manifest is None:
            raise retired_error(objects) or ObjectNotFound(
                f"{objects.url}/{MANIFEST_NAME}: no such object; no corpus there, run curate first"
            )
        return cls(objects, manifest)

    def __reduce__(self) -> tuple[Callable[..., Corpus], tuple[Objects, Manifest]]:
        return Corpus, (self.objects, self.manifest)

    def samples(
        self,
        families: Collection[str] | None = None,
        splits: Collection[str] | None = None,
        tasks: Collection[Task] | None = None,
    ) -> Iterator[Sample]:
        """Samples of these families, splits and tasks (None: all), those of one image together."""
        wanted = {"family": families, "split": splits, "task": None if tasks is None else [str(task) for task in tasks]}
        for entry, group in self._samples.groups():
            table = self._samples.read_group(entry, group)
            for column, values in wanted.items():
                if values is not None:
                    table = table.filter(pc.is_in(table[column], value_set=pa.array(sorted(values), pa.string())))
            yield from table_to_samples(table)

    @property
    def num_samples(self) -> int:
        """Rows of the table of samples."""
        return self._samples.num_rows

    @property
    def num_images(self) -> int:
        """Rows of the table of images."""
        return self._images.num_rows

    def sample_table(self, columns: Sequence[str] | None = None, rows: range | None = None) -> pa.Table:
        """Some columns (None: all) of all samples, or of some consecutive rows, in the order of `samples`."""
        return self._samples.read(SAMPLE_SCHEMA, SAMPLE_SCHEMA.names if columns is None else columns, rows)

    def read_samples(self, rows: Sequence[int]) -> list[Sample]:
        """Samples by their places in the order of `samples`; only the row groups that hold them are read.

        Raises:
            IndexError: there is no such row.
        """
        places = [self._samples.place(row) for row in rows]
        groups = {
            (file, group): self._samples.read_group(self._samples.entries[file], group)
            for file, group in sorted({(file, group) for file, group, _ in places})
        }
        tables = [groups[file, group].slice(row, 1) for file, group, row in places]
        return table_to_samples(pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *tables]))

    def __contains__(self, image_id: str) -> bool:
        """Whether the corpus holds an image."""
        return bool(self._image_rows().find([image_id])[0] >= 0)

    def image(self, image_id: str) -> ImageRecord:
        """One image by its id, with its bytes.

        Raises:
            DataError: the corpus doesn't hold it.
        """
        return self.read_images([image_id])[0]

    def read_images(self, image_ids: Sequence[str]) -> list[ImageRecord]:
        """Images by their ids, with their bytes; of an object store all that is missing is fetched together.

        Raises:
            DataError: the corpus doesn't hold one.
        """
        rows = self._image_rows().find(image_ids).tolist()
        if -1 in rows:
            raise DataError(f"{self.objects.url}: image {image_ids[rows.index(-1)]} is not in this corpus")
        return self.images_at(rows)

    def images_at(self, rows: Sequence[int]) -> list[ImageRecord]:
        """Images by their places in the order of `images`, with their bytes.

        Who knows the place of an image needs no table of all of them, see `read_images`.

        Raises:
            IndexError: there is no such row.
        """
        places = [self._images.place(row) for row in rows]
        wanted = sorted({(file, group) for file, group, _ in places})
        if self.objects.local_path is None and len(wanted) > 1:
            with ThreadPoolExecutor(min(_NUM_FETCHED_AT_ONCE, len(wanted)), thread_name_prefix="images") as pool:
                groups = dict(zip(wanted, pool.map(self._image_group, wanted), strict=True))
        else:
            groups = {group: self._image_group(group) for group in wanted}
        return [groups[file, group][row] for file, group, row in places]

    def images(self) -> Iterator[ImageRecord]:
        """All images with their bytes, file by file."""
        for entry, group in self._images.groups():
            yield from table_to_images(self._images.read_group(entry, group))

    def image_table(self, columns: Sequence[str] | None = None, rows: range | None = None) -> pa.Table:
        """Some columns of all images, or of some consecutive rows, in the order of `images`.

        Args:
            columns: None: every one but the bytes.
            rows: places in the order of `images`, as `images_at` takes them; None: all.
        """
        names = [name for name in IMAGE_SCHEMA.names if name != "data"] if columns is None else columns
        return self._images.read(IMAGE_SCHEMA, names, rows)

    def rejects(self) -> Iterator[Reject]:
        """All rejects, file by file."""
        for entry, group in self._rejects.groups():
            yield from table_to_rejects(self._rejects.read_group(entry, group))

    def reject_table(self) -> pa.Table:
        """All rejects, in the order of `rejects`."""
        return self._rejects.read(REJECT_SCHEMA, REJECT_SCHEMA.names)

    def _image_rows(self) -> ImageIds:
        with self._lock:
            if self._rows is None:
                ids = ids_of_column(self._images.read(IMAGE_SCHEMA, ["image_id"])["image_id"])
                self._rows = ImageIds(ids)
            return self._rows

    def _image_group(self, group: _Group) -> list[ImageRecord]:
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
        images = table_to_images(self._images.read_group(self._images.entries[group[0]], group[1]))
        with self._lock:
            if group not in self._cache:
                self._cached_bytes += _size_bytes(images)
            self._cache[group] = images
            while self._cached_bytes > _CACHED_BYTES and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= _size_bytes(oldest)
        return images


def _size_bytes(images: Sequence[ImageRecord]) -> int:
    return sum(len(image.data or b"") for image in images)


def _under(manifest: Manifest, folder: str) -> list[FileEntry]:
    return [entry for entry in manifest.files if entry.path.startswith(folder)]
