"""Croissant metadata (1.1) of a corpus: its files with checksums, its tables with their fields.

See https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html.
"""

# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false
# (pyarrow has no types)

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import pyarrow as pa

from pipelines.curation.cards.statistics import STATISTICS_SCHEMA
from storage.keys import Json
from storage.manifest import FileEntry
from storage.schema import IMAGE_SCHEMA, REJECT_SCHEMA, SAMPLE_SCHEMA, SCHEMA_VERSION

__all__ = ["croissant_json"]

_Node: TypeAlias = dict[str, Json]

_PARQUET = "application/x-parquet"
_TYPES = {
    pa.string(): "sc:Text",
    pa.binary(): "sc:Text",  # counts of masks, which are ASCII; Croissant has no bytes
    pa.int32(): "cr:Int32",
    pa.int64(): "cr:Int64",
    pa.float32(): "cr:Float32",
    pa.float64(): "cr:Float64",
}
_TABLES: Mapping[str, tuple[pa.Schema, str, str | None]] = {
    "samples": (SAMPLE_SCHEMA, "The smallest units of facts about one image, and what they were made of.", "sample_id"),
    "images": (IMAGE_SCHEMA, "Images, known by the SHA-256 of their file's bytes.", "image_id"),
    "rejects": (REJECT_SCHEMA, "Records that became no sample, and why.", None),
}
_STATISTICS = "statistics.parquet"
# What the specification asks for, with a dictionary of its own for each version.
_CONTEXT: _Node = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant_json(key: str, description: str, licences: Sequence[str], files: Sequence[FileEntry]) -> bytes:
    """The metadata, as JSON-LD.

    Tables refer to file sets below the metadata's own folder; the files stand beside them with their checksums.
    `image_id` of a sample isn't declared as a reference to that of an image: readers would then join the two, and load
    every picture along with the samples.

    Args:
        key: content key of the corpus.
        description: of it, in words.
        licences: that are stated; may be none.
        files: of the corpus, `statistics.parquet` included; what isn't Parquet is left out.
    """
    tables = [name for name in _TABLES if any(entry.path.startswith(f"{name}/") for entry in files)]
    objects = [_file_object(entry) for entry in sorted(files, key=lambda entry: entry.path)]
    record_sets = [_record_set(name) for name in tables]
    if any(entry.path == _STATISTICS for entry in files):
        source: _Node = {"fileObject": {"@id": _STATISTICS}}
        about = "How often each quantity falls into each bin."
        record_sets.append(_table("statistics", STATISTICS_SCHEMA, about, None, source))
    node: _Node = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"corpus-{key[:12]}",
        "description": description,
        **({"license": list(licences)} if licences else {}),
        "version": f"{SCHEMA_VERSION}.0.0",
        "distribution": [*(_file_set(name) for name in tables), *filter(None, objects)],
        "recordSet": record_sets,
    }
    return (json.dumps(node, indent=1, ensure_ascii=False) + "\n").encode()


def _file_object(entry: FileEntry) -> _Node | None:
    if not entry.path.endswith(".parquet"):
        return None
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": entry.path,
        "contentSize": f"{entry.size_bytes} B",
        "encodingFormat": _PARQUET,
        "sha256": entry.sha256,
    }


def _file_set(name: str) -> _Node:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "encodingFormat": _PARQUET,
        "includes": f"{name}/*.parquet",
    }


def _record_set(name: str) -> _Node:
    schema, about, key = _TABLES[name]
    return _table(name, schema, about, key, {"fileSet": {"@id": f"{name}-files"}})


def _table(name: str, schema: pa.Schema, about: str, key: str | None, source: _Node) -> _Node:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": about,
        **({"key": {"@id": f"{name}/{key}"}} if key else {}),
        "field": [_field(name, column, source) for column in schema],
    }


def _field(table: str, column: pa.Field, source: _Node) -> _Node:
    """A column; a list of records is an array whose parts are sub-fields."""
    extracted = {**source, "extract": {"column": column.name}}
    head: _Node = {"@type": "cr:Field", "@id": f"{table}/{column.name}", "name": column.name}
    if pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type):
        parts = [
            {
                "@type": "cr:Field",
                "@id": f"{table}/{column.name}/{'_'.join(path)}",
                "name": "_".join(path),
                **_data_type(leaf),
                "source": {**extracted, "transform": {"jsonPath": ".".join(["$", *path])}},
            }
            for path, leaf in _leaves(column.type.value_type)
        ]
        return {**head, "isArray": True, "arrayShape": "-1", "subField": parts}
    if (table, column.name) == ("images", "data"):
        return {**head, "dataType": "sc:ImageObject", "source": extracted}
    return {**head, **_data_type(column.type), "source": extracted}


def _leaves(struct: pa.StructType) -> Iterator[tuple[tuple[str, ...], pa.DataType]]:
    """Paths and types of all that isn't a record itself; records within records are flattened."""
    for part in struct:
        if pa.types.is_struct(part.type):
            yield from (((part.name, *path), leaf) for path, leaf in _leaves(part.type))
        else:
            yield (part.name,), part.type


def _data_type(kind: pa.DataType) -> _Node:
    depth = 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    shape: _Node = {"isArray": True, "arrayShape": ",".join(["-1"] * depth)} if depth else {}
    return {"dataType": _TYPES[kind], **shape}
