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
from typing import Any, TypeAlias, cast

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
    "IDENTITY_BITS",
    "DraftFile",
    "ImageFile",
    "StagedDraft",
    "draft_from_json",
    "draft_to_json",
    "identity",
    "read_drafts",
    "read_files",
    "regions_from_json",
    "regions_to_json",
    "write_drafts",
]

pc: Any = pyarrow.compute
_Json: TypeAlias = dict[str, Any]

IDENTITY_BITS = 62
"""So that the end of the last range is an int64 too."""
_GROUP_ROWS = 1024
"""Rows that are read together; a shard of 512 pictures needs one or two groups of each file."""

_SCHEMA = pa.schema(
    [
        pa.field("identity", pa.int64(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("coco_id", pa.int64()),
        pa.field("painted", pa.list_(pa.string()), nullable=False),
        pa.field("regions", pa.string(), nullable=False),
        pa.field("draft", pa.string(), nullable=False),
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
    # Sentences on one target share their regions, which are most of a draft.
    distinct = {id(staged.draft.regions): staged.draft.regions for staged in drafts}
    regions = {key: regions_to_json(own) for key, own in distinct.items()}
    rows = sorted(
        (
            {
                "identity": identity(image),
                "place": staged.place,
                "path": image.path,
                "offset": image.extent[0] if image.extent else None,
                "size": image.extent[1] if image.extent else None,
                "coco_id": image.coco_id,
                "painted": sorted({mask.path for mask in _painted(staged.draft)}),
                "regions": regions[id(staged.draft.regions)],
                "draft": draft_to_json(staged.draft),
            }
            for staged in drafts
            for image in (staged.draft.image,)
        ),
        key=lambda row: cast(int, row["identity"]),
    )
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    pq.write_table(table, sink, row_group_size=_GROUP_ROWS, compression="zstd", compression_level=1)
    objects.create(path, sink.getvalue())
    identities = [cast(int, row["identity"]) for row in rows]
    starts = range(0, len(rows), _GROUP_ROWS)
    return DraftFile(path, tuple((identities[i], identities[min(i + _GROUP_ROWS, len(rows)) - 1]) for i in starts))


def read_files(objects: Objects, file: DraftFile) -> pa.Table:
    """Which pictures a file of drafts names: its columns less the drafts themselves."""
    return read_table(objects, file.path, [name for name in _SCHEMA.names if name not in ("regions", "draft")])


def read_drafts(
    objects: Objects, files: Sequence[DraftFile], ranges: Sequence[tuple[int, int]]
) -> Iterator[tuple[StagedDraft, tuple[str, tuple[int, ...]]]]:
    """Drafts whose picture's identity lies in one of the ranges (ends excluded), with the picture's path and extent.

    Their order follows the files and their rows.
    """
    for file in files:
        groups = [
            number
            for number, (first, last) in enumerate(file.groups)
            if any(first < end and start <= last for start, end in ranges)
        ]
        if not groups:
            continue
        table = read_table(objects, file.path, ["identity", "place", "regions", "draft"], groups)
        column = table["identity"]
        wanted = pa.chunked_array([pa.array([False] * table.num_rows)])
        for start, end in ranges:
            wanted = pc.or_(wanted, pc.and_(pc.greater_equal(column, start), pc.less(column, end)))
        kept = table.filter(wanted)
        regions: dict[str, tuple[DraftRegion, ...]] = {}
        for row in kept.to_pylist():
            place, text = row["place"], row["regions"]
            if text not in regions:
                regions[text] = regions_from_json(text)
            draft = draft_from_json(row["draft"], regions[text])
            yield StagedDraft(place, draft), (draft.image.path, draft.image.extent or ())


def draft_to_json(draft: Draft) -> str:
    """A draft less its regions as JSON; nothing in it can run anything when it is read back."""
    image = draft.image
    row = {
        "family": draft.family,
        "task": draft.task.value,
        "split": draft.split,
        "image": {field: getattr(image, field) for field in ("path", "extent", "height", "width", "coco_id")},
        "prompts": [asdict(prompt) for prompt in draft.prompts],
        "turns": [[turn.text, turn.answer, turn.targets, turn.options] for turn in draft.turns],
        "source_file": draft.source_file,
        "locator": draft.locator,
    }
    return json.dumps(row, separators=(",", ":"))


def draft_from_json(text: str, regions: tuple[DraftRegion, ...]) -> Draft:
    """The inverse of `draft_to_json`."""
    row = cast(_Json, json.loads(text))
    image = cast(_Json, row["image"])
    return Draft(
        family=row["family"],
        task=Task(row["task"]),
        split=row["split"],
        image=SourceImage(
            path=image["path"],
            extent=None if image["extent"] is None else (image["extent"][0], image["extent"][1]),
            height=image["height"],
            width=image["width"],
            coco_id=image["coco_id"],
        ),
        regions=regions,
        prompts=tuple(_prompt(prompt) for prompt in row["prompts"]),
        turns=tuple(
            Turn(text=text, answer=answer, targets=tuple(map(tuple, targets)), options=tuple(options))
            for text, answer, targets, options in row["turns"]
        ),
        source_file=row["source_file"],
        locator=row["locator"],
    )


def regions_to_json(regions: Sequence[DraftRegion]) -> str:
    """Regions as JSON, with masks in the source's own encoding."""
    rows = [[_plain(region.segmentation), region.category, region.source_id] for region in regions]
    return json.dumps(rows, separators=(",", ":"))


def regions_from_json(text: str) -> tuple[DraftRegion, ...]:
    """The inverse of `regions_to_json`."""
    return tuple(_region(row) for row in json.loads(text))


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
