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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from pipelines.curation.accounts import check_account, counted_facts
from pipelines.curation.cards import CARD_NAME, card_files, write_card
from pipelines.curation.compaction import grouped_shards, publish_rejects
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
)
from pipelines.curation.leakage import check_sealed
from pipelines.curation.parents import VERSION, Parent
from pipelines.curation.published import ShardCounts, describe_files, publish_file
from pipelines.curation.settling import MadeShard, settle
from pipelines.curation.shard_files import shard_files
from pipelines.curation.shards import ShardContext, make_shard, plan_shards
from pipelines.curation.workers import Here, Workers
from pipelines.progress import NullProgress, Progress
from storage.errors import LeakingCorpus, ManifestConflict, TooManyRejects
from storage.keys import Json, content_key
from storage.manifest import Manifest, publish, read_manifest
from storage.objects import Objects
from storage.retirement import retired_error
from storage.schema import SCHEMA_VERSION, RejectReason

__all__ = ["CARD_NAME", "VERSION", "CorpusTarget", "Here", "Workers", "curate_local", "curate_with", "curation_key",
           "find_target"]  # fmt: skip

_STAGE = "curation"
_WORK = "work"
_AGAIN = "again"
_SHARDS_PER_TASK = 8
"""Of those that are settled, most of which takes no longer than a task costs Ray."""
_WANTED = (RejectReason.LEAKAGE, RejectReason.IMAGE_DUPLICATE, RejectReason.EXPRESSION_DUPLICATE, RejectReason.FILTERED,
           RejectReason.FORGOTTEN)  # fmt: skip
"""Rejects that the recipe asks for: they don't tell of a bad source."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CorpusTarget:
    """The corpus that a configuration gives."""

    key: str
    """Its content key."""
    present: Objects | None
    """Where it is, if nothing is new: it is the parent."""
    forgotten: frozenset[str] = frozenset()
    """SHA-256 of pictures of its sources that somebody has asked to remove, so that it is made without them."""
    before: str | None = None
    """Key of the corpus that it would be with them."""
    parent: str | None = None
    """URL of the corpus that it goes on from."""


def find_target(
    config: CurationConfig,
    inputs: Mapping[str, str] | None = None,
    forgotten: Collection[str] = (),
    corpora: Objects | None = None,
) -> CorpusTarget:
    """The content key of the corpus that a configuration gives, and whether its parent is that corpus.

    Args:
        config: what to curate.
        inputs: content keys of what the roots hold, where earlier stages wrote it (such as
            `{"scenes": key}`); None, or with a parent, or with forgotten pictures: the sources' files and pictures are
            read and hashed, of which a parent saves most.
        forgotten: SHA-256 of pictures that somebody has asked to remove. They count if the sources have them.
        corpora: where corpora lie, for `parent: latest`. Whoever then makes the corpus names the parent that was found.

    Raises:
        SourceError: a source file can't be used (only where they are read).
        ObjectNotFound: there is no parent where one is named.
        UsageError: `parent: latest`, and nobody says where corpora lie.
    """
    located = config.with_roots()
    if inputs is not None and located.parent is None and not forgotten:
        return CorpusTarget(_key(located, inputs), None)
    with tempfile.TemporaryDirectory() as folder:
        sources = gather(located, Objects.open(folder), Here(), NullProgress(), forgotten, corpora)
    parent = None if sources.parent is None else sources.parent.objects.url
    if sources.parent is not None and sources.is_parent:
        return CorpusTarget(sources.parent.manifest.key, sources.parent.objects, parent=parent)
    key = _key(located, _inputs_of(sources, inputs))
    if not sources.forgotten:
        return CorpusTarget(key, None, parent=parent)
    before = _key(located, _inputs_of(sources, inputs, with_forgotten=True))
    return CorpusTarget(key, None, frozenset(sources.forgotten.values()), before, parent)


def curation_key(
    config: CurationConfig, inputs: Mapping[str, str] | None = None, forgotten: Collection[str] = ()
) -> str:
    """The content key of the corpus that a configuration gives; see `find_target`."""
    return find_target(config, inputs, forgotten).key


def _inputs_of(sources: Sources, inputs: Mapping[str, str] | None, with_forgotten: bool = False) -> Mapping[str, str]:
    """What a corpus is made of: what earlier stages say, as far as that tells it, or what was read."""
    if inputs is None or sources.config.parent is not None:
        return sources.hashed_inputs(with_forgotten)
    if not sources.forgotten or with_forgotten:
        return inputs
    return {**inputs, "forgotten": content_key(sorted(sources.forgotten.values()))}


def curate_with(
    workers: Workers,
    config: CurationConfig,
    output: Objects,
    progress: Progress,
    inputs: Mapping[str, str] | None = None,
    forgotten: Collection[str] = (),
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
        forgotten: see `find_target`; records on these pictures become rejects.

    Raises:
        DataError: a source that can't be used, too many rejects, or a corpus that leaks.
        ManifestConflict: another corpus stands at `output`.
        RetiredCorpus: one stood there that was retired; it doesn't come back.
        InfrastructureError: a store can't be reached.
    """
    config = config.with_roots()
    present = read_manifest(output)
    if present is not None:
        return _same(present, curation_key(config, inputs, forgotten), output)
    retired = retired_error(output)
    if retired is not None:
        raise retired
    work = output.child(_WORK)
    sources = gather(config, work, workers, progress, forgotten)
    if sources.parent is not None and sources.is_parent:
        _clear(work)
        progress.update(len(sources.parts), len(sources.parts), unit="parts of sources, nothing new")
        return sources.parent.manifest
    inputs = _inputs_of(sources, inputs)
    key = _key(config, inputs)
    made = work.child(f"made-{key[:16]}")
    shards, verdicts = _make(workers, sources, made, progress)
    total, changes = _settle(workers, sources, output, shards, verdicts)
    manifest = _finish(sources, output, total, changes, key, inputs)
    _clear(work)
    return manifest


def curate_local(
    config: CurationConfig,
    output: Objects,
    progress: Progress,
    inputs: Mapping[str, str] | None = None,
    forgotten: Collection[str] = (),
) -> Manifest:
    """Curates in this process; `pipeline.curate` gives the same bytes on a cluster. See `curate_with`."""
    return curate_with(Here(), config, output, progress, inputs, forgotten)


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


def _make(
    workers: Workers, sources: Sources, made: Objects, progress: Progress
) -> tuple[tuple[MadeShard, ...], Verdicts]:
    """Makes what the parent hasn't; returns all shards of the corpus, and what is said of their pictures."""
    parent, config = sources.parent, sources.config
    old = OldShards((), {}, {}) if parent is None else find_old_shards(sources, parent)
    new = [item for item in sources.named if sources.found[item.file] not in old.homes]
    layer = plan_shards(new, sources.found, config.images_per_shard, layer_prefix(layer_of(parent)))
    files = tuple(file for account in sources.accounts.values() for file in account.drafts)
    context = ShardContext(config, roots_of(config), sources.work, made, files)
    shards: dict[str, MadeShard] = {}
    for place, files_of_shard in workers.map(partial(make_shard, context), layer):
        shards[layer[place].name] = MadeShard(layer[place].name, made, files_of_shard, None)
        progress.update(len(shards), len(layer), unit="shards")
    if parent is None:
        return _sorted(shards), _judge(sources, _sorted(shards))
    for name in old.names:
        published = tuple(parent.files[path] for path in shard_files(name))
        shards[name] = MadeShard(name, parent.objects, published, parent.objects)

    def remake(touched: Mapping[str, frozenset[str]], made: Objects) -> None:
        drafts, named, found = read_withheld(workers, sources, parent, touched, progress)
        again = replace(context, made=made, drafts=(*files, *drafts))
        remakes = remakes_of(old, touched, (*sources.named, *named), {**sources.found, **found})
        make = partial(remake_shard, again, parent.objects, sources.gone)
        for done, (place, remade) in enumerate(workers.map(make, remakes), start=1):
            name = remakes[place].work.name
            shards[name] = MadeShard(name, made, remade, parent.objects)
            progress.update(done, len(remakes), unit="shards of the parent made anew")

    remake(old.touched, made)
    verdicts = _judge(sources, _sorted(shards))
    # Withheld rows that come back don't change what is said of their pictures, so that this is done once.
    back = revived(old, [(shards[name].objects, name) for name in old.names], verdicts)
    remake({name: ids | old.touched.get(name, frozenset()) for name, ids in back.items()}, made.child(_AGAIN))
    return _sorted(shards), verdicts


def _sorted(shards: Mapping[str, MadeShard]) -> tuple[MadeShard, ...]:
    return tuple(shards[name] for name in sorted(shards))


def _judge(sources: Sources, shards: Sequence[MadeShard]) -> Verdicts:
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
    workers: Workers, sources: Sources, output: Objects, shards: Sequence[MadeShard], verdicts: Verdicts
) -> tuple[ShardCounts, Mapping[str, int]]:
    total = ShardCounts()
    prefix = layer_prefix(layer_of(sources.parent))
    rejects: list[str] = []
    for number, path in enumerate(path for account in sources.accounts.values() for path in account.rejects):
        rejects.append(f"rejects/{prefix}source-{number:05d}.parquet")
        publish_file(output, sources.work, rejects[-1], path)
    if sources.parent is not None:
        of_shards = {f"rejects/{shard.name}.parquet" for shard in shards}
        of_readers = [path for path in sources.parent.keys_below("rejects") if path not in of_shards]
        rejects += publish_rejects(sources.parent, output, sources.gone, of_readers, prefix)
    total.add(describe_files(output, rejects))
    groups = grouped_shards(shards, sources.config.images_per_shard, prefix)
    tasks = [groups[start : start + _SHARDS_PER_TASK] for start in range(0, len(groups), _SHARDS_PER_TASK)]
    settled = dict(workers.map(partial(settle, output, verdicts, sources.config.leakage.training_splits), tasks))
    for place in range(len(tasks)):
        total.add(settled[place].counts)
    return total, {
        "samples_added": sum(item.added for item in settled.values()),
        "samples_taken_out": sum(item.taken_out for item in settled.values()),
    }


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
    check_account(output, records_in, total)
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
    work.delete_many([info.key for info in work.list()])


def _same(present: Manifest, key: str, output: Objects) -> Manifest:
    if present.key != key:
        raise ManifestConflict(
            f"{output.url}: expected the corpus with key {key}, found {present.kind} with key {present.key}; "
            "write to another folder, or delete this one"
        )
    return present


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
    return {
        **counted_facts(total),
        "records_in": dict(records_in),
        "leakage_gate": sources.config.leakage.gate,
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
