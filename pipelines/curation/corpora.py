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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

from pipelines.curation.cards import CARD_NAME, card_files, write_card
from pipelines.curation.config import CurationConfig
from pipelines.curation.drafts import ImageFile
from pipelines.curation.intake import NamedFile, PartAccount, hash_files, named_files, parts_of, read_part, roots_of
from pipelines.curation.judging import Verdicts, judge, read_looks
from pipelines.curation.leakage import check_sealed, read_evaluation_ids
from pipelines.curation.records import RecordError
from pipelines.curation.settling import ShardCounts, describe_files, publish_file, settle_shard
from pipelines.curation.shards import ShardContext, ShardWork, make_shard, plan_shards
from pipelines.progress import NullProgress, Progress
from storage.errors import CorruptObject, LeakingCorpus, ManifestConflict, TooManyRejects
from storage.keys import Json, content_key
from storage.manifest import Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, RejectReason

__all__ = ["CARD_NAME", "VERSION", "Here", "Workers", "curate_local", "curate_with", "curation_key"]

VERSION = 3
"""Raised whenever the same sources and configuration would give another corpus."""

_STAGE = "curation"
_WORK = "work"
_FILES_PER_TASK = 256
_WANTED = (RejectReason.LEAKAGE, RejectReason.IMAGE_DUPLICATE, RejectReason.EXPRESSION_DUPLICATE, RejectReason.FILTERED)
"""Rejects that the recipe asks for: they don't tell of a bad source."""
_LOG = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Workers(Protocol):
    """Who does the work."""

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """Results in whatever order they come, each with the place of its item."""
        ...


class Here:
    """Workers that are this process alone."""

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """One after the other."""
        return ((place, function(item)) for place, item in enumerate(items))


@dataclass(frozen=True, slots=True)
class _Sources:
    """What the sources say, and which pictures they name."""

    config: CurationConfig
    work: Objects
    accounts: tuple[PartAccount, ...]
    named: tuple[NamedFile, ...]
    found: Mapping[ImageFile, str | RecordError]
    evaluation_ids: Mapping[str, Sequence[int]]
    list_digests: Mapping[str, str]


def curation_key(config: CurationConfig, inputs: Mapping[str, str] | None = None) -> str:
    """The content key of the corpus that a configuration gives.

    Args:
        config: what to curate.
        inputs: content keys of what the roots hold, where earlier stages wrote it (such as
            `{"scenes": key}`); None: the sources' files and pictures are read and hashed.

    Raises:
        SourceError: a source file can't be used (only where `inputs` is None).
    """
    if inputs is None:
        located = config.with_roots()
        with tempfile.TemporaryDirectory() as folder:
            inputs = _hashed_inputs(_read_sources(located, Objects.open(folder), Here(), NullProgress()))
    return content_key(
        {
            "schema_version": SCHEMA_VERSION,
            "stage": _STAGE,
            "version": VERSION,
            "config": cast(Json, config.hashed_fields()),
            "inputs": dict(inputs),
        }
    )


def curate_with(
    workers: Workers,
    config: CurationConfig,
    output: Objects,
    progress: Progress,
    inputs: Mapping[str, str] | None = None,
) -> Manifest:
    """Curates the sources into one corpus.

    A corpus that is already there is returned as it is; a run that was killed continues with what it hadn't written.
    The bytes depend neither on how many work, nor on the order in which they are done.

    Args:
        workers: who does the work; all must reach the output.
        config: what to curate.
        output: the corpus's prefix.
        progress: told of files and pictures read, then of shards made and published.
        inputs: see `curation_key`.

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
    sources = _read_sources(config, work, workers, progress)
    inputs = _hashed_inputs(sources) if inputs is None else inputs
    key = curation_key(config, inputs)
    shards = plan_shards(sources.named, sources.found, config.images_per_shard)
    files = tuple(file for account in sources.accounts for file in account.drafts)
    made = work.child(f"made-{key[:16]}")
    context = ShardContext(config, roots_of(config), work, made, files)
    for done, _ in enumerate(workers.map(partial(make_shard, context), shards), start=1):
        progress.update(done, len(shards), unit="shards")
    verdicts = _judge(sources, made, shards)
    total = _settle(workers, sources, made, output, shards, verdicts)
    manifest = _finish(sources, output, total, key, inputs)
    _clear(work)
    return manifest


def curate_local(
    config: CurationConfig, output: Objects, progress: Progress, inputs: Mapping[str, str] | None = None
) -> Manifest:
    """Curates in this process; `pipeline.curate` gives the same bytes on a cluster. See `curate_with`."""
    return curate_with(Here(), config, output, progress, inputs)


def _read_sources(config: CurationConfig, work: Objects, workers: Workers, progress: Progress) -> _Sources:
    parts = parts_of(config)
    accounts: dict[int, PartAccount] = {}
    for place, account in workers.map(partial(read_part, work), parts):
        accounts[place] = account
        progress.update(len(accounts), len(parts), unit="parts of sources read")
    ordered = tuple(accounts[place] for place in range(len(parts)))
    named = named_files(work, config, ordered)
    files = sorted({item.file for item in named})
    batches = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    found: dict[ImageFile, str | RecordError] = {}
    for place, digests in workers.map(partial(hash_files, roots_of(config), config.num_threads), batches):
        found.update(zip(batches[place], digests, strict=True))
        progress.update(len(found), len(files), unit="pictures read")
    evaluation_ids: dict[str, list[int]] = {}
    list_digests: dict[str, str] = {}
    for name in config.leakage.evaluation_ids if config.leakage.gate != "off" else ():
        sets = read_evaluation_ids(config.root_of_lists, name)
        list_digests[name] = content_key({key: sorted(ids) for key, ids in sets.items()})
        evaluation_ids |= sets
    return _Sources(config, work, ordered, named, found, evaluation_ids, list_digests)


def _judge(sources: _Sources, made: Objects, shards: Sequence[ShardWork]) -> Verdicts:
    if not shards:
        return Verdicts({}, {})
    looks = read_looks(made, [shard.name for shard in shards], sources.config)
    verdicts = judge(looks, sources.config, sources.evaluation_ids)
    if sources.config.leakage.gate == "refuse" and verdicts.leaking:
        first = min(verdicts.leaking)
        raise LeakingCorpus(
            f"{len(verdicts.leaking)} pictures are trained on and evaluated on, such as {first[:12]}: "
            f"{verdicts.leaking[first]}; take them out of the sources, or set curation.leakage.gate=remove"
        )
    return verdicts


def _settle(
    workers: Workers,
    sources: _Sources,
    made: Objects,
    output: Objects,
    shards: Sequence[ShardWork],
    verdicts: Verdicts,
) -> ShardCounts:
    total = ShardCounts()
    rejects: list[str] = []
    for number, path in enumerate(path for account in sources.accounts for path in account.rejects):
        rejects.append(f"rejects/source-{number:05d}.parquet")
        publish_file(output, sources.work, rejects[-1], path)
    total.add(describe_files(output, rejects))
    settle = partial(settle_shard, made, output, verdicts, sources.config.leakage.training_splits)
    settled = dict(workers.map(settle, [shard.name for shard in shards]))
    for place in range(len(shards)):
        total.add(settled[place])
    return total


def _finish(sources: _Sources, output: Objects, total: ShardCounts, key: str, inputs: Mapping[str, str]) -> Manifest:
    """Accounts for every record, writes the card and publishes the corpus."""
    records_in: Counter[str] = Counter()
    for account in sources.accounts:
        records_in.update(account.records_in)
    _check_account(output, records_in, total)
    _check_share(sources.config, output, records_in, total)
    gate = sources.config.leakage
    if gate.gate != "off":
        check_sealed(output, [file.path for file in total.files], gate.training_splits, sources.evaluation_ids)
    facts = _facts(sources, records_in, total)
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


def _hashed_inputs(sources: _Sources) -> dict[str, str]:
    """Content keys of all that the corpus is made of: source files, and per source the pictures it names."""
    inputs: dict[str, str] = {f"evaluation:{name}": digest for name, digest in sources.list_digests.items()}
    for part, account in zip(parts_of(sources.config), sources.accounts, strict=True):
        inputs |= {f"{part.place}:{name}": digest for name, digest in account.digests.items()}
    numbers = {url: number for number, url in enumerate(roots_of(sources.config))}
    for place, source in enumerate(sources.config.sources):
        roots = {numbers[source.root_url]: "files", numbers[source.image_root_url]: "images"}
        inputs[f"{place}:pictures"] = content_key(
            sorted(
                [roots[file.root], file.path, *file.extent, found if isinstance(found, str) else found.reason.value]
                for file, found in sources.found.items()
                if file.root in roots
            )
        )
    return inputs


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


def _facts(sources: _Sources, records_in: Counter[str], total: ShardCounts) -> dict[str, Json]:
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
            for part, account in zip(parts_of(sources.config), sources.accounts, strict=True)
            for name in account.records_in
            if part.source.relabel_splits
        },
    }
