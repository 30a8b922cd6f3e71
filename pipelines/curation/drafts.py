"""Drafts on their way from reading to shards: files of many rows, sorted so that a shard finds its own.

A row leads with the identity of its picture: the COCO id where there is one, so that the 2014 and the 2017 name of a
picture lie side by side, or else its path.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from pipelines.curation.records import (
    CocoSegmentation,
    Draft,
    DraftRegion,
    MaskFile,
    PaintedShapes,
    PanopticSegment,
    SourceImage,
)
from pipelines.curation.steps.archives import archive_paths
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import PromptKind, Task, Turn, VisualPrompt

__all__ = [
    "DRAFT_LAYOUT",
    "IDENTITY_BITS",
    "DraftFile",
    "ImageFile",
    "StagedDraft",
    "identity",
    "read_drafts",
    "read_files",
    "write_drafts",
]

pc: Any = pyarrow.compute
_Json: TypeAlias = dict[str, Any]

IDENTITY_BITS = 62
"""So that the end of the last range is an int64 too."""
DRAFT_LAYOUT = 2
"""Raised when files of drafts change: those of an interrupted run of another version aren't gone on with."""
_GROUP_ROWS = 1024
"""Rows that are read together; a shard of 512 pictures needs one or two groups of each file."""

_ENCODE = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

_FILE_FIELDS = [
    pa.field("identity", pa.int64(), nullable=False),
    pa.field("place", pa.int32(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("offset", pa.int64()),
    pa.field("size", pa.int64()),
    pa.field("coco_id", pa.int64()),
    pa.field("painted", pa.list_(pa.string()), nullable=False),
]
"""What tells of files of pixels."""
_FACTS = ("family", "task", "split", "source_file", "locator")
_SCHEMA = pa.schema(
    [
        *_FILE_FIELDS,
        pa.field("height", pa.int64()),
        pa.field("width", pa.int64()),
        *(pa.field(name, pa.string(), nullable=False) for name in _FACTS),
        # As JSON; nothing in it can run anything when it is read back.
        *(pa.field(name, pa.string(), nullable=False) for name in ("regions", "prompts", "turns")),
    ]
)


@dataclass(frozen=True, slots=True, order=True)
class ImageFile:
    """A file of pixels: its root by number, its path there, and which part of the file it is."""

    root: int
    path: str
    extent: tuple[int, ...] = ()
    """Offset and size in bytes; empty: the whole file."""


@dataclass(frozen=True, slots=True)
class StagedDraft:
    """A draft with the place of its source in the recipe."""

    place: int
    draft: Draft


@dataclass(frozen=True, slots=True)
class DraftFile:
    """A written file of drafts: its key, and the first and last identity of each of its row groups."""

    path: str
    groups: tuple[tuple[int, int], ...]


def identity(image: SourceImage) -> int:
    """A number of `IDENTITY_BITS` by which drafts of one picture come together, of whatever release its name is.

    Pictures of one archive lie side by side, in the archive's order where their places in it are known: whoever reads
    them goes through few archives, and once.
    """
    if image.coco_id is not None:
        return _hash(f"coco:{image.coco_id}", IDENTITY_BITS)
    archive = image.path if image.extent else next((name for name, _ in archive_paths(image.path)), None)
    if archive is None:
        return _hash(image.path, IDENTITY_BITS)
    half = IDENTITY_BITS // 2
    within = image.extent[0] % 2**half if image.extent else _hash(image.path, half)
    return (_hash(archive, half) << half) | within


def _hash(text: str, num_bits: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> (64 - num_bits)


def write_drafts(objects: Objects, path: str, drafts: Iterable[StagedDraft]) -> DraftFile:
    """Writes a file of drafts, sorted by the identity of their pictures."""
    drafts = list(drafts)
    identities = [identity(staged.draft.image) for staged in drafts]
    order = sorted(range(len(drafts)), key=identities.__getitem__)
    identities = [identities[place] for place in order]
    rows = [drafts[place].draft for place in order]
    # Sentences on one target share their regions, which are most of a draft.
    distinct = {id(draft.regions): draft.regions for draft in rows}
    regions = {key: _ENCODE([_region_row(region) for region in own]) for key, own in distinct.items()}
    columns: dict[str, list[Any]] = {
        "identity": identities,
        "place": [drafts[place].place for place in order],
        "path": [draft.image.path for draft in rows],
        "offset": [draft.image.extent[0] if draft.image.extent else None for draft in rows],
        "size": [draft.image.extent[1] if draft.image.extent else None for draft in rows],
        "coco_id": [draft.image.coco_id for draft in rows],
        "painted": [sorted({mask.path for mask in _painted(draft)}) for draft in rows],
        "height": [draft.image.height for draft in rows],
        "width": [draft.image.width for draft in rows],
        "family": [draft.family for draft in rows],
        "task": [draft.task.value for draft in rows],
        "split": [draft.split for draft in rows],
        "source_file": [draft.source_file for draft in rows],
        "locator": [draft.locator for draft in rows],
        "regions": [regions[id(draft.regions)] for draft in rows],
        "prompts": [_ENCODE([asdict(prompt) for prompt in draft.prompts]) if draft.prompts else "" for draft in rows],
        "turns": [_ENCODE([(t.text, t.answer, t.targets, t.options) for t in draft.turns]) for draft in rows],
    }
    sink = io.BytesIO()
    table = pa.table([pa.array(columns[field.name], field.type) for field in _SCHEMA], _SCHEMA)
    pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="zstd", compression_level=1)
    objects.create(path, sink.getvalue())
    starts = range(0, len(rows), _GROUP_ROWS)
    return DraftFile(path, tuple((identities[i], identities[min(i + _GROUP_ROWS, len(rows)) - 1]) for i in starts))


def read_files(objects: Objects, file: DraftFile) -> pa.Table:
    """Which pictures a file of drafts names: its columns less the drafts themselves."""
    return read_table(objects, file.path, [field.name for field in _FILE_FIELDS])


def read_drafts(
    objects: Objects, files: Sequence[DraftFile], ranges: Sequence[tuple[int, int]]
) -> Iterator[StagedDraft]:
    """Drafts whose picture's identity lies in one of the ranges (ends excluded).

    Their order follows the files and their rows.
    """
    wanted_columns = [name for name in _SCHEMA.names if name != "painted"]
    for file in files:
        groups = [
            number
            for number, (first, last) in enumerate(file.groups)
            if any(first < end and start <= last for start, end in ranges)
        ]
        if not groups:
            continue
        table = read_table(objects, file.path, wanted_columns, groups)
        column = table["identity"]
        wanted = pa.chunked_array([pa.array([False] * table.num_rows)])
        for start, end in ranges:
            wanted = pc.or_(wanted, pc.and_(pc.greater_equal(column, start), pc.less(column, end)))
        yield from _drafts(table.filter(wanted).combine_chunks())


def _drafts(table: pa.Table) -> Iterator[StagedDraft]:
    encoded = table["regions"].combine_chunks().dictionary_encode()
    regions = [tuple(_region(row) for row in json.loads(text)) for text in encoded.dictionary.to_pylist()]
    names = ("path", "offset", "size", "height", "width", "coco_id")
    images: dict[tuple[Any, ...], SourceImage] = {}
    places, *facts = (table[name].to_pylist() for name in ("place", *_FACTS))
    texts = (table[name].to_pylist() for name in ("prompts", "turns"))
    pictures = zip(*(table[name].to_pylist() for name in names), strict=True)
    for place, number, picture, family, task, split, source_file, locator, prompts, turns in zip(
        places, encoded.indices.to_pylist(), pictures, *facts, *texts, strict=True
    ):
        image = images.get(picture)
        if image is None:
            path, offset, size, height, width, coco_id = picture
            extent = None if offset is None else (offset, size)
            image = SourceImage(path=path, extent=extent, height=height, width=width, coco_id=coco_id)
            images[picture] = image
        draft = Draft(
            family=family,
            task=Task(task),
            split=split,
            image=image,
            regions=regions[number],
            prompts=tuple(_prompt(prompt) for prompt in json.loads(prompts)) if prompts else (),
            turns=tuple(
                Turn(text=text, answer=answer, targets=tuple(map(tuple, targets)), options=tuple(options))
                for text, answer, targets, options in json.loads(turns)
            ),
            source_file=source_file,
            locator=locator,
        )
        yield StagedDraft(place, draft)


def _region_row(region: DraftRegion) -> list[object]:
    """With its mask in the source's own encoding."""
    return [_plain(region.segmentation), region.category, region.source_id]


def _plain(segmentation: CocoSegmentation | MaskFile | PaintedShapes | PanopticSegment) -> object:
    if isinstance(segmentation, MaskFile | PaintedShapes | PanopticSegment):
        return asdict(segmentation)
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        return {"size": segmentation["size"], "bytes": segmentation["counts"].decode("latin-1")}
    return segmentation


def _region(row: Sequence[Any]) -> DraftRegion:
    segmentation, category, source_id = row
    if isinstance(segmentation, dict):
        if "segment_id" in segmentation:
            segmentation = PanopticSegment(**segmentation)
        elif "path" in segmentation:
            segmentation = MaskFile(**segmentation)
        elif "targets" in segmentation:
            segmentation = PaintedShapes(
                targets=tuple(map(tuple, segmentation["targets"])), ignored=tuple(map(tuple, segmentation["ignored"]))
            )
        elif "bytes" in segmentation:
            segmentation = {"size": segmentation["size"], "counts": segmentation["bytes"].encode("latin-1")}
    return DraftRegion(segmentation=segmentation, category=category, source_id=source_id)


def _prompt(row: _Json) -> VisualPrompt:
    box = row["box_xyxy_px"]
    return VisualPrompt(
        kind=PromptKind(row["kind"]),
        region=row["region"],
        box_xyxy_px=None if box is None else (box[0], box[1], box[2], box[3]),
        points_xy_px=tuple((x, y) for x, y in row["points_xy_px"]),
    )


def _painted(draft: Draft) -> Iterator[MaskFile | PanopticSegment]:
    """The masks of a draft that are painted in files of their own."""
    for region in draft.regions:
        if isinstance(region.segmentation, MaskFile | PanopticSegment):
            yield region.segmentation
