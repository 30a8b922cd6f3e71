"""What a corpus knows of every picture that was opened for it, whether or not a sample stayed on it.

`looks/<n>.parquet` belongs to the shard of that name. It tells what pictures look like and what samples do with them,
by which `judging` says whether they may be trained on; and which names and rejects are theirs, so that a later corpus
can go on from this one without opening them again (see `layers`). Readers of a corpus need none of it.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.steps.images import ProbedImage
from storage.manifest import FileEntry, write_once
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import REJECT_SCHEMA, Reject, RejectReason

__all__ = ["LOOKS_SCHEMA", "VERDICTS", "Look", "Name", "Use", "looks_file", "looks_of_shard", "write_looks"]

VERDICTS = (RejectReason.LEAKAGE, RejectReason.IMAGE_DUPLICATE)
"""Why rows are taken out once all pictures are known."""

_NAME = pa.struct(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("coco_id", pa.int64()),
    ]
)
_USE = pa.struct([pa.field(name, pa.string(), nullable=False) for name in ("source_file", "family", "task", "split")])

LOOKS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("media_type", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("difference_hash", pa.int64(), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),
        pa.field("names", pa.list_(_NAME), nullable=False),
        pa.field("uses", pa.list_(_USE), nullable=False),
        pa.field("withheld", pa.list_(pa.struct(list(REJECT_SCHEMA))), nullable=False),
        pa.field("leaking", pa.string()),
        pa.field("duplicate", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Name:
    """A name by which records of a source file know a picture."""

    source_file: str
    path: str
    coco_id: int | None


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """What samples of a source file do with a picture."""

    source_file: str
    family: str
    task: str
    split: str


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of one picture."""

    probed: ProbedImage
    names: tuple[Name, ...]
    """Of all records about it, those among them that gave no sample."""
    uses: tuple[Use, ...]
    """Of samples before they are judged."""
    withheld: tuple[Reject, ...]
    """Rejects that other rows brought about: they say the same as another, or `VERDICTS` took them out."""
    leaking: str | None = None
    """That its training samples were taken out, in words."""
    duplicate: str | None = None
    """That its training samples without masks were taken out, in words."""

    @property
    def image_id(self) -> str:
        """SHA-256 of the picture's bytes."""
        return self.probed.image_id

    @property
    def coco_id(self) -> int | None:
        """COCO id, if one of the names has it."""
        return min((name.coco_id for name in self.names if name.coco_id is not None), default=None)

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths under which it is known."""
        return tuple(sorted({name.path for name in self.names}))


def looks_file(name: str) -> str:
    """Key of the looks of a shard.

    >>> looks_file("00012")
    'looks/00012.parquet'
    """
    return f"looks/{name}.parquet"


def write_looks(objects: Objects, name: str, looks: Iterable[Look]) -> FileEntry:
    """Writes `looks/<name>.parquet`, sorted by image.

    Raises:
        ManifestConflict: a file of other content stands there.
    """
    rows = [_to_row(look) for look in sorted(looks, key=lambda look: look.image_id)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=LOOKS_SCHEMA), sink, compression="zstd")
    entry = FileEntry.of(looks_file(name), sink.getvalue(), len(rows))
    write_once(objects, entry.path, sink.getvalue())
    return entry


def looks_of_shard(objects: Objects, name: str) -> list[Look]:
    """The looks of a shard; raises what `read_table` raises."""
    return [
        Look(
            probed=ProbedImage(
                image_id=row["image_id"],
                media_type=row["media_type"],
                height=row["height"],
                width=row["width"],
                difference_hash=row["difference_hash"],
                thumbnail=row["thumbnail"],
            ),
            names=tuple(Name(**name) for name in row["names"]),
            uses=tuple(Use(**use) for use in row["uses"]),
            withheld=tuple(Reject(**dict(item, reason=RejectReason(item["reason"]))) for item in row["withheld"]),
            leaking=row["leaking"],
            duplicate=row["duplicate"],
        )
        for row in read_table(objects, looks_file(name)).to_pylist()
    ]


def _to_row(look: Look) -> dict[str, object]:
    probed = look.probed
    names = sorted({(name.source_file, name.path, -1 if name.coco_id is None else name.coco_id) for name in look.names})
    withheld = sorted(tuple(str(getattr(item, field)) for field in REJECT_SCHEMA.names) for item in look.withheld)
    return {
        "image_id": probed.image_id,
        "media_type": probed.media_type,
        "height": probed.height,
        "width": probed.width,
        "difference_hash": probed.difference_hash,
        "thumbnail": probed.thumbnail,
        "names": [
            {"source_file": file, "path": path, "coco_id": None if coco_id < 0 else coco_id}
            for file, path, coco_id in names
        ],
        "uses": [
            {"source_file": use.source_file, "family": use.family, "task": use.task, "split": use.split}
            for use in sorted(set(look.uses))
        ],
        "withheld": [dict(zip(REJECT_SCHEMA.names, item, strict=True)) for item in withheld],
        "leaking": look.leaking,
        "duplicate": look.duplicate,
    }
