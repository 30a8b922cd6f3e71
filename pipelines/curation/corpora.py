"""From sources to a published corpus, less the question who does the work.

    read     each part of a source: drafts and rejects, sorted by picture
    hash     the pictures that drafts name
    make     shards: pictures decoded, masks made, samples assembled and filtered
    judge    all pictures: which of them leak, which are there twice
    settle   shards, less what the verdicts take out; then the manifest

What the first three write lies below `work/` until the corpus is published; an interrupted run goes on from there.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from pipelines.curation.cards import CARD_NAME, card_files, write_card
from pipelines.curation.config import CurationConfig
from pipelines.curation.gathering import Sources, gather
from pipelines.curation.intake import roots_of
from pipelines.curation.judging import Verdicts, judge, read_looks
from pipelines.curation.layers import (
    OldShards,
    find_old_shards,
    layer_of,
    layer_prefix,
    read_withheld,
    remake_shard,
    remakes_of,
    revived,
    without_gone,
)
from pipelines.curation.leakage import check_sealed
from pipelines.curation.parents import VERSION, Parent
from pipelines.curation.settling import ShardCounts, describe_files, publish_file, settle_shard
from pipelines.curation.shards import ShardContext, make_shard, plan_shards, shard_files
from pipelines.curation.workers import Here, Workers
from pipelines.progress import NullProgress, Progress
from storage.errors import CorruptObject, LeakingCorpus, ManifestConflict, TooManyRejects
from storage.keys import Json, content_key
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import SCHEMA_VERSION, RejectReason

__all__ = ["CARD_NAME", "VERSION", "CorpusTarget", "Here", "Workers", "curate_local", "curate_with", "curation_key",
           "find_target"]  # fmt: skip

_STAGE = "curation"
_WORK = "work"
_AGAIN = "again"
_WANTED = (RejectReason.LEAKAGE, RejectReason.IMAGE_DUPLICATE, RejectReason.EXPRESSION_DUPLICATE, RejectReason.FILTERED)
"""Rejects that the recipe asks for: they don't tell of a bad source."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CorpusTarget:
    """The corpus that a configuration gives."""

    key: str
    """Its content key."""
    present: Objects | None
    """Where it is, if nothing is new: it is the parent."""


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that can be settled."""

    name: str
    objects: Objects
    """Where its files lie."""
    known: Mapping[str, FileEntry]
    """Manifest entries of these, if they are the parent's."""
    before: Objects | None
    """The parent's prefix, if it has the shard."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """What a shard has, and how many of its samples its parent hadn't, and the other way round."""

    counts: ShardCounts
    added: int
    taken_out: int


def find_target(config: CurationConfig, inputs: Mapping[str, str] | None = None) -> CorpusTarget:
    """The content key of the corpus that a configuration gives, and whether its parent is that corpus.

    Args:
        config: what to curate.
        inputs: content keys of what the roots hold, where earlier stages wrote it (such as
            `{"scenes": key}`); None, or with a parent: the sources' files and pictures are read and hashed, of which
            a parent saves most.

    Raises:
        SourceError: a source file can't be used (only where they are read).
        ObjectNotFound: there is no parent where one is named.
    """
    located = config.with_roots()
    if inputs is not None and located.parent is None:
        return CorpusTarget(_key(located, inputs), None)
    with tempfile.TemporaryDirectory() as folder:
        sources = gather(located, Objects.open(folder), Here(), NullProgress())
    if sources.parent is not None and sources.is_parent:
        return CorpusTarget(sources.parent.manifest.key, sources.parent.objects)
    return CorpusTarget(_key(located, sources.hashed_inputs()), None)


def curation_key(config: CurationConfig, inputs: Mapping[str, str] | None = None) -> str:
    """The content key of the corpus that a configuration gives; see `find_target`."""
    return find_target(config, inputs).key


def curate_with(
    workers: Workers,
    config: CurationConfig,
    output: Objects,
    progress: Progress,
    inputs: Mapping[str, str] | None = None,
) -> Manifest:
    """Curates the sources into one corpus.

    A corpus that is already there is returned as it is; a run that was killed continues with what it hadn't written.
    With a parent, work is done for what is new alone, and if nothing is, the parent is returned and nothing written.
    The bytes depend neither on how many work, nor on the order in which they are done.

    Args:
        workers: who does the work; all must reach the output.
        config: what to curate.
        output: the corpus's prefix.
        progress: told of files and pictures read, then of shards made and published.
        inputs: see `find_target`.

    Raises:
        DataError: a source that can't be used, too many rejects, or a corpus that leaks.
        ManifestConflict: another corpus stands at `output`.
        InfrastructureError: a store can't be reached.
    """
    config = config.with_roots()
    present = read_manifest(output)
    if present is not None:
        return _same(present, curation_key(config, inputs), output)
    work = output.child(_WORK)
    sources = gather(config, work, workers, progress)
    if sources.parent is not None and sources.is_parent:
        _clear(work)
        progress.update(len(sources.parts), len(sources.parts), unit="parts of sources, nothing new")
        return sources.parent.manifest
    if inputs is None or config.parent is not None:
        inputs = sources.hashed_inputs()
    key = _key(config, inputs)
    made = work.child(f"made-{key[:16]}")
    shards, verdicts = _make(workers, sources, made, progress)
    total, changes = _settle(workers, sources, output, shards, verdicts)
    manifest = _finish(sources, output, total, changes, key, inputs)
    _clear(work)
    return manifest


def curate_local(
    config: CurationConfig, output: Objects, progress: Progress, inputs: Mapping[str, str] | None = None
) -> Manifest:
    """Curates in this process; `pipeline.curate` gives the same bytes on a cluster. See `curate_with`."""
    return curate_with(Here(), config, output, progress, inputs)


def _key(config: CurationConfig, inputs: Mapping[str, str]) -> str:
    return content_key(
        {
            "schema_version": SCHEMA_VERSION,
            "stage": _STAGE,
            "version": VERSION,
            "config": cast(Json, config.hashed_fields()),
            "inputs": dict(inputs),
        }
    )


def _make(workers: Workers, sources: Sources, made: Objects, progress: Progress) -> tuple[tuple[_Shard, ...], Verdicts]:
    """Makes what the parent hasn't; returns all shards of the corpus, and what is said of their pictures."""
    parent, config = sources.parent, sources.config
    old = OldShards((), {}, {}) if parent is None else find_old_shards(sources, parent)
    new = [item for item in sources.named if sources.found[item.file] not in old.homes]
    layer = plan_shards(new, sources.found, config.images_per_shard, layer_prefix(layer_of(parent)))
    files = tuple(file for account in sources.accounts.values() for file in account.drafts)
    context = ShardContext(config, roots_of(config), sources.work, made, files)
    for done, _ in enumerate(workers.map(partial(make_shard, context), layer), start=1):
        progress.update(done, len(layer), unit="shards")
    shards = {shard.name: _Shard(shard.name, made, {}, None) for shard in layer}
    if parent is None:
        return tuple(shards.values()), _judge(sources, tuple(shards.values()))
    for name in old.names:
        known = {path: parent.files[path] for path in shard_files(name)}
        shards[name] = _Shard(name, parent.objects, known, parent.objects)

    def remake(touched: Mapping[str, frozenset[str]], made: Objects) -> None:
        drafts, named, found = read_withheld(workers, sources, parent, touched, progress)
        again = replace(context, made=made, drafts=(*files, *drafts))
        remakes = remakes_of(old, touched, (*sources.named, *named), {**sources.found, **found})
        make = partial(remake_shard, again, parent.objects, sources.gone)
        for done, (place, _) in enumerate(workers.map(make, remakes), start=1):
            name = remakes[place].work.name
            shards[name] = _Shard(name, made, {}, parent.objects)
            progress.update(done, len(remakes), unit="shards of the parent made anew")

    remake(old.touched, made)
    verdicts = _judge(sources, tuple(shards.values()))
    # Withheld rows that come back don't change what is said of their pictures, so that this is done once.
    back = revived(old, [(shards[name].objects, name) for name in old.names], verdicts)
    remake({name: ids | old.touched.get(name, frozenset()) for name, ids in back.items()}, made.child(_AGAIN))
    return tuple(shards[name] for name in sorted(shards)), verdicts


def _judge(sources: Sources, shards: Sequence[_Shard]) -> Verdicts:
    if not shards:
        return Verdicts({}, {})
    looks = read_looks([(shard.objects, shard.name) for shard in shards], sources.config)
    verdicts = judge(looks, sources.config, sources.evaluation_ids)
    if sources.config.leakage.gate == "refuse" and verdicts.leaking:
        first = min(verdicts.leaking)
        raise LeakingCorpus(
            f"{len(verdicts.leaking)} pictures are trained on and evaluated on, such as {first[:12]}: "
            f"{verdicts.leaking[first]}; take them out of the sources, or set curation.leakage.gate=remove"
        )
    return verdicts


def _settle(
    workers: Workers, sources: Sources, output: Objects, shards: Sequence[_Shard], verdicts: Verdicts
) -> tuple[ShardCounts, Mapping[str, int]]:
    total = ShardCounts()
    prefix = layer_prefix(layer_of(sources.parent))
    rejects: list[str] = []
    for number, path in enumerate(path for account in sources.accounts.values() for path in account.rejects):
        rejects.append(f"rejects/{prefix}source-{number:05d}.parquet")
        publish_file(output, sources.work, rejects[-1], path)
    if sources.parent is not None:
        rejects += _rejects_of_readers(sources.parent, output, sources.gone, shards)
    total.add(describe_files(output, rejects))
    settle = partial(_settle_shard, output, verdicts, sources.config.leakage.training_splits)
    settled = dict(workers.map(settle, shards))
    for place in range(len(shards)):
        total.add(settled[place].counts)
    return total, {
        "samples_added": sum(item.added for item in settled.values()),
        "samples_taken_out": sum(item.taken_out for item in settled.values()),
    }


def _rejects_of_readers(parent: Parent, output: Objects, gone: frozenset[str], shards: Sequence[_Shard]) -> list[str]:
    """Publishes the parent's rejects that belong to no shard."""
    of_shards = {f"rejects/{shard.name}.parquet" for shard in shards}
    paths = [path for path in parent.keys_below("rejects") if path not in of_shards]
    left = (without_gone(parent.objects, output, gone, path) for path in paths)
    return [path for path in left if path is not None]


def _settle_shard(output: Objects, verdicts: Verdicts, training_splits: Sequence[str], shard: _Shard) -> _Settled:
    counts = settle_shard(shard.objects, output, verdicts, training_splits, shard.name, shard.known)
    samples = f"samples/{shard.name}.parquet"
    after = next(entry for entry in counts.files if entry.path == samples)
    if shard.before is None:
        return _Settled(counts, after.rows or 0, 0)
    if shard.known.get(samples) == after:
        return _Settled(counts, 0, 0)
    ours, theirs = (
        Counter(cast("list[str]", read_table(objects, samples, ["sample_id"])["sample_id"].to_pylist()))
        for objects in (output, shard.before)
    )
    return _Settled(counts, (ours - theirs).total(), (theirs - ours).total())


def _finish(
    sources: Sources,
    output: Objects,
    total: ShardCounts,
    changes: Mapping[str, int],
    key: str,
    inputs: Mapping[str, str],
) -> Manifest:
    """Accounts for every record, writes the card and publishes the corpus."""
    records_in: Counter[str] = Counter()
    for fact in sources.facts_of_parts():
        records_in.update(fact.records_in)
    _check_account(output, records_in, total)
    _check_share(sources.config, output, records_in, total)
    gate = sources.config.leakage
    if gate.gate != "off":
        check_sealed(output, [file.path for file in total.files], gate.training_splits, sources.evaluation_ids)
    facts = _facts(sources, records_in, total, changes)
    card = write_card(output, card_files(output, total.files, key, facts, sources.config.sources, inputs))
    manifest = Manifest(
        kind="corpus",
        key=key,
        schema_version=SCHEMA_VERSION,
        recipe=cast("dict[str, Json]", sources.config.hashed_fields()),
        inputs=dict(inputs),
        files=(*total.files, *card),
        facts=facts,
    )
    _LOG.info("corpus %s: %d samples, %d rejects", output.url, total.samples.total(), total.rejects.total())
    return publish(output, manifest)


def _clear(work: Objects) -> None:
    if work.local_path is not None:
        shutil.rmtree(work.local_path, ignore_errors=True)
        return
    for info in list(work.list()):
        work.delete(info.key)


def _same(present: Manifest, key: str, output: Objects) -> Manifest:
    if present.key != key:
        raise ManifestConflict(
            f"{output.url}: expected the corpus with key {key}, found {present.kind} with key {present.key}; "
            "write to another folder, or delete this one"
        )
    return present


def _check_account(output: Objects, records_in: Counter[str], total: ShardCounts) -> None:
    """Records in = samples + rejects, for each source file: what was read against what stands in the files."""
    out = Counter(total.samples_of)
    for (source_file, _), number in total.rejects.items():
        out[source_file] += number
    if out != records_in:
        wrong = min(name for name in out | records_in if out[name] != records_in[name])
        raise CorruptObject(
            f"{output.url}: {wrong}: expected {records_in[wrong]} records as samples and rejects, "
            f"found {out[wrong]}; delete the unfinished corpus and run curate again"
        )


def _check_share(config: CurationConfig, output: Objects, records_in: Counter[str], total: ShardCounts) -> None:
    for name, records in sorted(records_in.items()):
        reasons = Counter({reason: number for (file, reason), number in total.rejects.items() if file == name})
        bad = reasons.total() - sum(reasons[reason] for reason in _WANTED)
        if bad > config.max_reject_share * records:
            listed = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(5))
            raise TooManyRejects(
                f"{name}: expected at most {config.max_reject_share:.0%} rejects, got {bad} of "
                f"{records} records ({listed}); see {output.url}/rejects, mend the source or raise max_reject_share"
            )


def _facts(
    sources: Sources, records_in: Counter[str], total: ShardCounts, changes: Mapping[str, int]
) -> dict[str, Json]:
    parts = sources.facts_of_parts()
    by_reason: Counter[str] = Counter()
    by_file: dict[str, dict[str, int]] = {}
    for (source_file, reason), number in sorted(total.rejects.items()):
        by_reason[reason] += number
        by_file.setdefault(source_file, {})[reason] = number
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (family, task, split), number in sorted(total.samples.items()):
        counts.setdefault(family, {}).setdefault(task, {})[split] = number
    return {
        "num_images": total.images,
        "num_samples": total.samples.total(),
        "num_rejects": by_reason.total(),
        "samples": counts,
        "rejects_by_reason": dict(by_reason),
        "rejects_by_source": by_file,
        "records_in": dict(records_in),
        "samples_by_source": dict(total.samples_of),
        "leakage_gate": sources.config.leakage.gate,
        "leakage": {
            family: {"samples_removed": number, "images": total.leaking_images[family]}
            for family, number in sorted(total.leaks.items())
        },
        "relabelled_splits": {
            name: dict(part.source.relabel_splits)
            for part, fact in zip(sources.parts, parts, strict=True)
            for name in fact.records_in
            if part.source.relabel_splits
        },
        "curation_version": VERSION,
        "layer": layer_of(sources.parent),
        "parents": [] if sources.parent is None else list(sources.parent.chain),
        "parts": [fact.to_json() for fact in parts],
        **({} if sources.parent is None else {"since_parent": _since(sources, sources.parent, changes)}),
    }


def _since(sources: Sources, parent: Parent, changes: Mapping[str, int]) -> dict[str, Json]:
    """How a corpus differs from its parent."""
    num_gone = len(parent.parts) - len(sources.kept)
    return {
        "parts_kept": len(sources.kept),
        "parts_read": len(sources.accounts),
        "parts_gone_or_replaced": num_gone,
        **changes,
    }
