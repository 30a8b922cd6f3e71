"""Export for the library `datasets`: Parquet files below `data/`, and a README.md that tells their features.

A row is an image with all its samples of the split, so that its bytes stand there once; a sample without image is a row
of its own.
"""

# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false
# (pyarrow has no types)

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.exports.chosen import Chosen, ExportCounts, images_of
from pipelines.curation.exports.readme import export_readme
from pipelines.curation.naming import picture_name
from pipelines.progress import Progress
from storage.corpus import samples_to_table
from storage.errors import DataError
from storage.schema import SAMPLE_SCHEMA, ImageRecord, Sample

__all__ = ["export_hugging_face"]

_Row: TypeAlias = dict[str, Any]

_GROUP_BYTES = 16 * 2**20
_GROUP_ROWS = 256
_FILE_BYTES = 384 * 2**20
"""Encoded pictures of a file, about; the next row group opens another one."""

_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_SAMPLE = pa.struct([column for column in SAMPLE_SCHEMA if column.name != "image_id"])
_COLUMNS = [
    pa.field("image", _IMAGE),
    pa.field("image_id", pa.string()),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("coco_id", pa.int64()),
    pa.field("sources", pa.list_(pa.string())),
    pa.field("samples", pa.list_(_SAMPLE)),
]

_LAYOUT = """\
```python
from datasets import load_dataset

rows = load_dataset("path/of/this/folder", split="train", streaming=True)
```

A row is an image with all its samples of that split: `image` is decoded by the library, `samples` are as in the corpus.
Masks are compressed COCO RLE; `pycocotools.mask.decode({"size": [height, width], "counts": counts})` decodes them. Each
`[SEG]` of an answer stands for the next entry of `targets`, indices into `regions`; `<region1>` for the first of
`prompts`."""


def export_hugging_face(chosen: Chosen, folder: Path, progress: Progress) -> ExportCounts:
    """Writes the export into an empty folder.

    Args:
        chosen: what is exported.
        folder: that is there.
        progress: told of shards.

    Raises:
        DataError: a sample's image isn't in its shard, or two splits would share a name.
    """
    counts = ExportCounts()
    (folder / "data").mkdir()
    files: dict[str, _SplitFiles] = {}
    try:
        for _, shard, by_image in chosen.shards(progress):
            alone = by_image.pop(None, [])
            rows = chain(
                ((None, [sample]) for sample in alone),
                ((image, by_image[image.image_id]) for image in images_of(shard, by_image)),
            )
            for image, samples in rows:
                for split in dict.fromkeys(sample.split for sample in samples):
                    own = [sample for sample in samples if sample.split == split]
                    _file_of(files, folder / "data", split).add(image, own)
                    counts.images += image is not None
                    counts.samples += len(own)
        for split in files.values():
            split.finish()
    finally:
        for split in files.values():
            split.close()
    counts.splits = set(files)
    names = sorted(split.word for split in files.values())
    head = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in names],
            }
        ],
        "dataset_info": {"features": [_yaml_feature(column) for column in _COLUMNS]},
    }
    (folder / "README.md").write_text(export_readme(chosen, head, _LAYOUT), encoding="utf-8")
    return counts


class _SplitFiles:
    """The Parquet files of one split."""

    def __init__(self, folder: Path, word: str, split: str) -> None:
        self.word = word
        self.split = split
        self._folder = folder
        self._rows: list[tuple[ImageRecord | None, Sequence[Sample]]] = []
        self._group_bytes = self._file_bytes = 0
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, image: ImageRecord | None, samples: Sequence[Sample]) -> None:
        """Adds a row."""
        self._rows.append((image, samples))
        self._group_bytes += 0 if image is None else len(image.data or b"")
        if self._group_bytes >= _GROUP_BYTES or len(self._rows) == _GROUP_ROWS:
            self._write()

    def finish(self) -> None:
        """Writes what is left and gives the files their names, which say how many there are."""
        self._write()
        self.close()
        for number, path in enumerate(self._paths):
            path.rename(self._folder / f"{self.word}-{number:05d}-of-{len(self._paths):05d}.parquet")

    def close(self) -> None:
        """Closes the file that is open, if any."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._paths.append(self._folder / f".{self.word}-{len(self._paths):05d}.parquet")
            # Encoded pictures don't shrink any further.
            options: dict[str, Any] = {
                "compression": {path: "NONE" if path == "image.bytes" else "ZSTD" for path in _leaves()}
            }
            self._writer = pq.ParquetWriter(
                self._paths[-1], _schema(), use_dictionary=False, write_statistics=False, **options
            )
        table = pa.Table.from_pylist([_row(image, samples) for image, samples in self._rows], schema=_schema())
        self._writer.write_table(table, row_group_size=len(self._rows))
        self._file_bytes += self._group_bytes
        self._rows, self._group_bytes = [], 0
        if self._file_bytes >= _FILE_BYTES:
            self.close()
            self._file_bytes = 0


def _file_of(files: dict[str, _SplitFiles], folder: Path, split: str) -> _SplitFiles:
    if split not in files:
        word = re.sub(r"\W", "_", split, flags=re.ASCII)  # what `datasets` takes for a split's name
        twin = next((other.split for other in files.values() if other.word == word), None)
        if twin is not None:
            raise DataError(f"splits {twin!r} and {split!r}: both would be called {word!r}; export one at a time")
        files[split] = _SplitFiles(folder, word, split)
    return files[split]


def _row(image: ImageRecord | None, samples: Sequence[Sample]) -> _Row:
    rows: list[_Row] = samples_to_table(samples).drop_columns(["image_id"]).to_pylist()
    if image is None:
        return {"samples": rows}
    path = picture_name(image) if image.data is not None else image.uri
    return {
        "image": {"bytes": image.data, "path": path},
        "image_id": image.image_id,
        "height": image.height,
        "width": image.width,
        "coco_id": image.coco_id,
        "sources": list(image.sources),
        "samples": rows,
    }


def _schema() -> pa.Schema:
    """The columns, with the note by which `datasets` knows that `image` is a picture."""
    features = {column.name: _json_feature(column) for column in _COLUMNS}
    return pa.schema(_COLUMNS, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _leaves() -> Iterator[str]:
    """Paths of all columns as Parquet names them."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.schema(_COLUMNS).empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return (parquet.column(index).path for index in range(len(parquet.names)))


def _json_feature(column: pa.Field) -> object:
    """A feature as the note in a Parquet file has it."""
    if column.type == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(column.type):
        return {"feature": _json_feature(column.type.value_field), "_type": "List"}
    if pa.types.is_struct(column.type):
        return {part.name: _json_feature(part) for part in column.type}
    return {"dtype": _dtype(column.type), "_type": "Value"}


def _yaml_feature(column: pa.Field) -> dict[str, object]:
    """A feature as the head of a README has it."""
    return {"name": column.name, **_yaml_type(column.type)}


def _yaml_type(kind: pa.DataType) -> dict[str, object]:
    if kind == _IMAGE:
        return {"dtype": "image"}
    if pa.types.is_struct(kind):
        return {"struct": [_yaml_feature(part) for part in kind]}
    if pa.types.is_list(kind):
        ((what, inner),) = _yaml_type(kind.value_type).items()
        return {"list": {what: inner} if what == "list" else inner}
    return {"dtype": _dtype(kind)}


def _dtype(kind: pa.DataType) -> str:
    """What `datasets` calls a type; Arrow says `float` for one of 32 bits."""
    return "float32" if kind == pa.float32() else str(kind)
