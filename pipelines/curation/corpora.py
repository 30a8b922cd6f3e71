"""From sources to a published corpus, less the question who runs the shards."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

from pipelines.curation.card import render_card
from pipelines.curation.config import CurationConfig
from pipelines.curation.intake import Intake, read_sources
from pipelines.curation.shards import ShardCounts, ShardWork, describe_files, plan_shards, run_shard, shard_files
from pipelines.progress import NullProgress, Progress
from storage.corpus import write_rejects
from storage.errors import CorruptObject, ManifestConflict, TooManyRejects
from storage.keys import Json, content_key
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["CARD_NAME", "VERSION", "Run", "curate_local", "curation_key", "finish", "open_run"]

VERSION = 1
"""Raised whenever the same sources and configuration would give another corpus."""

CARD_NAME = "README.md"
"""Key of the card below the corpus's prefix."""

_STAGE = "curation"
_UNPLACED = "sources"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was planned: what is there already, and what is left to do."""

    config: CurationConfig
    """With a root in every source."""
    intake: Intake
    inputs: Mapping[str, str]
    key: str
    output: Objects
    """The corpus's prefix."""
    finished: tuple[ShardWork, ...]
    """Shards whose files an earlier run wrote."""
    waiting: tuple[ShardWork, ...]
    """Shards to be made."""

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return len(self.finished) + len(self.waiting)


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
        inputs = _hashed_inputs(located, read_sources(located, NullProgress().update))
    return content_key(
        {
            "schema_version": SCHEMA_VERSION,
            "stage": _STAGE,
            "version": VERSION,
            "config": cast(Json, config.hashed_fields()),
            "inputs": inputs,
        }
    )


def open_run(
    config: CurationConfig, output: Objects, progress: Progress, inputs: Mapping[str, str] | None = None
) -> Run | Manifest:
    """Reads the sources and lists what an earlier run left; the manifest, if nothing is left to do.

    Args:
        config: what to curate.
        output: the corpus's prefix.
        progress: told of pictures read.
        inputs: see `curation_key`.

    Raises:
        SourceError: a source file can't be used; UnsafePickle among them.
        ManifestConflict: another corpus stands at `output`.
        InfrastructureError: a store can't be reached.
    """
    config = config.with_roots()
    present = read_manifest(output)
    if present is not None and inputs is not None:
        return _same(present, curation_key(config, inputs), output)
    intake = read_sources(config, partial(progress.update, unit="pictures read"))
    inputs = _hashed_inputs(config, intake) if inputs is None else inputs
    key = curation_key(config, inputs)
    if present is not None:
        return _same(present, key, output)
    plan = plan_shards(config, intake)
    # Records without a readable picture stand in a file of their own.
    write_rejects(output, _UNPLACED, [*intake.rejects, *plan.rejects])
    written = {info.key for info in output.list()}
    finished = tuple(work for work in plan.shards if written.issuperset(shard_files(work.name)))
    names = {work.name for work in finished}
    waiting = tuple(work for work in plan.shards if work.name not in names)
    return Run(config, intake, inputs, key, output, finished, waiting)


def finish(run: Run, counts: Iterable[ShardCounts]) -> Manifest:
    """Accounts for every record, writes the card and publishes the corpus.

    Args:
        run: as planned.
        counts: of every shard of the run, finished ones included.

    Raises:
        TooManyRejects: a source file has a larger share of rejects than allowed.
        CorruptObject: samples and rejects don't add up to the records that were read.
        ManifestConflict: another corpus stands at this prefix.
    """
    total = describe_files(run.output, [f"rejects/{_UNPLACED}.parquet"])
    for shard in counts:
        total.add(shard)
    _check_account(run, total)
    _check_share(run, total)
    facts = _facts(run, total)
    card = render_card(run.key, facts).encode()
    run.output.create(CARD_NAME, card)
    manifest = Manifest(
        kind="corpus",
        key=run.key,
        schema_version=SCHEMA_VERSION,
        recipe=cast("dict[str, Json]", run.config.hashed_fields()),
        inputs=run.inputs,
        files=(*total.files, FileEntry.of(CARD_NAME, card)),
        facts=facts,
    )
    _LOG.info("corpus %s: %d samples, %d rejects", run.output.url, total.samples.total(), total.rejects.total())
    return publish(run.output, manifest)


def curate_local(
    config: CurationConfig, output: Objects, progress: Progress, inputs: Mapping[str, str] | None = None
) -> Manifest:
    """Curates in this process, shard after shard; `pipeline.curate` gives the same bytes on a cluster.

    Args:
        config: what to curate.
        output: the corpus's prefix.
        progress: told of pictures read, then of shards done.
        inputs: see `curation_key`.

    Raises:
        DataError: a source that can't be used, or too many rejects.
        ManifestConflict: another corpus stands at `output`.
        InfrastructureError: a store can't be reached.
    """
    run = open_run(config, output, progress, inputs)
    if isinstance(run, Manifest):
        return run
    counts = [describe_files(run.output, shard_files(work.name)) for work in run.finished]
    for work in run.waiting:
        progress.update(len(counts), run.num_shards, unit="shards")
        counts.append(run_shard(work, run.config, run.output))
    progress.update(len(counts), run.num_shards, unit="shards")
    return finish(run, counts)


def _same(present: Manifest, key: str, output: Objects) -> Manifest:
    if present.key != key:
        raise ManifestConflict(
            f"{output.url}: expected the corpus with key {key}, found {present.kind} with key {present.key}; "
            "write to another folder, or delete this one"
        )
    return present


def _hashed_inputs(config: CurationConfig, intake: Intake) -> dict[str, str]:
    """Content keys of all that the corpus is made of: source files, and per source the pictures it names."""
    inputs = dict(intake.digests)
    for place, source in enumerate(config.sources):
        roots = {source.root_url: "files", source.image_root_url: "images"}
        inputs[f"{place}:pictures"] = content_key(
            sorted(
                [roots[file.root], file.path, found if isinstance(found, str) else found.reason.value]
                for file, found in intake.files.items()
                if file.root in roots
            )
        )
    return inputs


def _check_account(run: Run, total: ShardCounts) -> None:
    """Records in = samples + rejects, for each source file: what was read against what stands in the files."""
    out = Counter(total.samples_of)
    for (source_file, _), number in total.rejects.items():
        out[source_file] += number
    if out != run.intake.records_in:
        wrong = min(name for name in out | run.intake.records_in if out[name] != run.intake.records_in[name])
        raise CorruptObject(
            f"{run.output.url}: {wrong}: expected {run.intake.records_in[wrong]} records as samples and rejects, "
            f"found {out[wrong]}; delete the unfinished corpus and run curate again"
        )


def _check_share(run: Run, total: ShardCounts) -> None:
    for name, records in sorted(run.intake.records_in.items()):
        reasons = Counter({reason: number for (file, reason), number in total.rejects.items() if file == name})
        if reasons.total() > run.config.max_reject_share * records:
            listed = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(5))
            raise TooManyRejects(
                f"{name}: expected at most {run.config.max_reject_share:.0%} rejects, got {reasons.total()} of "
                f"{records} records ({listed}); see {run.output.url}/rejects, mend the source or raise max_reject_share"
            )


def _facts(run: Run, total: ShardCounts) -> dict[str, Json]:
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
        "records_in": dict(run.intake.records_in),
        "samples_by_source": dict(total.samples_of),
        "relabelled_splits": {
            name: dict(source.relabel_splits)
            for source in run.config.sources
            for name in source.source_files()
            if source.relabel_splits and name in run.intake.records_in
        },
    }
