"""Publishes shards: what the verdicts leave of each, alone or several as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from pipelines.curation.judging import UNMASKED_TASKS, Verdicts
from pipelines.curation.looks import VERDICTS, Look, looks_file, looks_of_shard
from pipelines.curation.published import ShardCounts, describe_files, publish_file
from pipelines.curation.records import RecordError
from pipelines.curation.shard_files import shard_files, write_shard
from pipelines.curation.steps.assemble import reject_of
from storage.corpus import table_to_images, table_to_rejects, table_to_samples
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import ImageRecord, Reject, RejectReason, Sample

__all__ = ["MadeShard", "Settled", "ShardGroup", "settle"]


@dataclass(frozen=True, slots=True)
class MadeShard:
    """A shard that can be settled."""

    name: str
    objects: Objects
    """Where its files lie."""
    files: tuple[FileEntry, ...]
    """As they were written."""
    before: Objects | None
    """The parent's prefix, if it has the shard."""

    @property
    def num_pictures(self) -> int:
        """Pictures that were looked at for it."""
        return next(entry.rows or 0 for entry in self.files if entry.path == looks_file(self.name))


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """What is published as one shard."""

    name: str
    shards: tuple[MadeShard, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """What shards have, and how many of their samples their parent hadn't, and the other way round."""

    counts: ShardCounts
    added: int
    taken_out: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a shard."""

    images: list[ImageRecord]
    samples: list[Sample]
    rejects: list[Reject]
    looks: list[Look]


def settle(
    output: Objects, verdicts: Verdicts, training_splits: Collection[str], groups: Iterable[ShardGroup]
) -> Settled:
    """Writes the files of shards to where they are published, less what the verdicts take out.

    Args:
        output: the corpus's prefix.
        verdicts: on all pictures.
        training_splits: splits that the verdicts are about.
        groups: of shards.

    Returns:
        What the written files hold.

    Raises:
        ManifestConflict: a file of other content stands there.
        InfrastructureError: a store can't be reached.
    """
    total, added, taken_out = ShardCounts(), 0, 0
    for group in groups:
        alone = group.shards[0] if len(group.shards) == 1 and group.shards[0].name == group.name else None
        if alone is not None and _is_settled(alone, verdicts):
            written = alone.files
            for entry in written:
                publish_file(output, alone.objects, entry.path)
            is_parents = alone.before == alone.objects
        else:
            written = _write(output, verdicts, training_splits, group)
            is_parents = False
        total.add(describe_files(output, shard_files(group.name), {entry.path: entry for entry in written}))
        if not is_parents:
            ours = _sample_ids([(output, group.name)])
            theirs = _sample_ids((shard.before, shard.name) for shard in group.shards if shard.before is not None)
            added += (ours - theirs).total()
            taken_out += (theirs - ours).total()
    return Settled(total, added, taken_out)


def _is_settled(shard: MadeShard, verdicts: Verdicts) -> bool:
    """Whether its files say of each picture what the verdicts say."""
    columns = ["image_id", "leaking", "duplicate"]
    table = read_table(shard.objects, looks_file(shard.name), columns)
    rows = zip(*(cast("list[str]", table[name].to_pylist()) for name in columns), strict=True)
    return all((leaking, duplicate) == verdicts.of(image_id) for image_id, leaking, duplicate in rows)


def _write(
    output: Objects, verdicts: Verdicts, training_splits: Collection[str], group: ShardGroup
) -> tuple[FileEntry, ...]:
    found = [_rows_of(shard, verdicts, training_splits) for shard in group.shards]
    return write_shard(
        output,
        group.name,
        images=[image for rows in found for image in rows.images],
        samples=[sample for rows in found for sample in rows.samples],
        rejects=[reject for rows in found for reject in rows.rejects],
        looks=[look for rows in found for look in rows.looks],
    )


def _rows_of(shard: MadeShard, verdicts: Verdicts, training_splits: Collection[str]) -> _Rows:
    """What the verdicts leave of a shard."""
    images_file, samples_file, rejects_file, _ = shard_files(shard.name)
    looks = {look.image_id: look for look in looks_of_shard(shard.objects, shard.name)}
    withheld = {image_id: _judged_anew(look, verdicts) for image_id, look in looks.items()}
    rejects = _replaced(table_to_rejects(read_table(shard.objects, rejects_file)), looks.values(), withheld)
    samples: list[Sample] = []
    for sample in table_to_samples(read_table(shard.objects, samples_file)):
        verdict = _verdict(sample, verdicts) if sample.split in training_splits else None
        if verdict is None:
            samples.append(sample)
            continue
        rejects.append(reject_of(sample, verdict))
        withheld[sample.image_id or ""].append(rejects[-1])
    needed = {sample.image_id for sample in samples}
    images = table_to_images(read_table(shard.objects, images_file))
    judged: list[Look] = []
    for image_id, look in looks.items():
        leaking, duplicate = verdicts.of(image_id)
        judged.append(replace(look, withheld=tuple(withheld[image_id]), leaking=leaking, duplicate=duplicate))
    return _Rows([image for image in images if image.image_id in needed], samples, rejects, judged)


def _sample_ids(shards: Iterable[tuple[Objects, str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for objects, name in shards:
        column = read_table(objects, f"samples/{name}.parquet", ["sample_id"])["sample_id"]
        found.update(cast("list[str]", column.to_pylist()))
    return found


def _verdict(sample: Sample, verdicts: Verdicts) -> RecordError | None:
    """Why a training sample goes, if it does."""
    leaking, duplicate = verdicts.of(sample.image_id or "")
    if leaking is not None:
        return RecordError(RejectReason.LEAKAGE, leaking)
    if duplicate is not None and sample.task in UNMASKED_TASKS:
        return RecordError(RejectReason.IMAGE_DUPLICATE, duplicate)
    return None


def _judged_anew(look: Look, verdicts: Verdicts) -> list[Reject]:
    """Withheld rows of a picture, with what is said of it now where an earlier verdict took them out."""
    leaking, duplicate = verdicts.of(look.image_id)
    rows: list[Reject] = []
    for row in look.withheld:
        if row.reason in VERDICTS and leaking is not None:
            row = replace(row, reason=RejectReason.LEAKAGE, detail=leaking)
        elif row.reason in VERDICTS:
            assert duplicate is not None, "rows that come back are read again"
            row = replace(row, detail=duplicate)
        rows.append(row)
    return rows


def _replaced(
    rejects: Iterable[Reject], looks: Iterable[Look], withheld: Mapping[str, Sequence[Reject]]
) -> list[Reject]:
    """The rejects with those of each picture replaced, one for one, by others."""
    left = Counter(rejects)
    for look in looks:
        left.subtract(look.withheld)
        left.update(withheld[look.image_id])
    return list(left.elements())
