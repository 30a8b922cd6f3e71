"""Curation on Ray Data: shards are planned here, made in tasks, and published when all are there.

Only plans and counts travel through Ray. A task reads its pictures itself and writes its three
files itself; the configuration is put once.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import pyarrow as pa
import ray
from ray.data import DataContext

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import Run, curate_local, finish, open_run
from pipelines.curation.shards import ShardCounts, ShardWork, describe_files, run_shard, shard_files
from pipelines.progress import Progress
from storage.manifest import Manifest
from storage.objects import Objects

__all__ = ["curate"]


def curate(
    config: CurationConfig, output: Objects, progress: Progress, inputs: Mapping[str, str] | None = None
) -> Manifest:
    """Curates the sources into one corpus.

    A corpus that is already there is returned as it is; a run that was killed continues with the
    shards that it hadn't written. The bytes don't depend on how many tasks run, nor in which order.
    A `memory://` store belongs to one process, so that such a run stays in this one.

    Args:
        config: what to curate.
        output: the corpus's prefix; every worker must reach it.
        progress: told of pictures read, then of shards done.
        inputs: see `curation_key`.

    Returns:
        The manifest of the corpus.

    Raises:
        SourceError: a source file can't be used; UnsafePickle among them.
        TooManyRejects: a source file has a larger share of rejects than allowed.
        ManifestConflict: another corpus stands at `output`.
        InfrastructureError: a store can't be reached.
    """
    roots = [url for source in config.with_roots().sources for url in (source.root_url, source.image_root_url)]
    if any(url.startswith("memory:") for url in (output.url, *roots)):
        return curate_local(config, output, progress, inputs)
    run = open_run(config, output, progress, inputs)
    if isinstance(run, Manifest):
        return run
    counts: list[ShardCounts] = []
    for shard in _run_shards(run):
        counts.append(shard)
        progress.update(len(counts), run.num_shards, unit="shards")
    return finish(run, counts)


def _run_shards(run: Run) -> Iterator[ShardCounts]:
    """Counts of every shard, in whatever order they are done."""
    shards = [(work, True) for work in run.finished] + [(work, False) for work in run.waiting]
    if not shards:
        return
    shared = ray.put((run.config, run.output))

    def make(row: dict[str, bytes]) -> dict[str, bytes]:
        config, output = ray.get(shared)
        return {"counts": _make(row["work"], config, output)}

    # One block per shard: a task is a shard, and a lost task repeats one shard.
    blocks = [pa.table({"work": pa.array([pickle.dumps(item)], pa.large_binary())}) for item in shards]
    with _quiet_progress():
        made = ray.data.from_arrow(blocks).map(make, num_cpus=1)
        for row in made.iter_rows():
            yield cast(ShardCounts, pickle.loads(row["counts"]))


def _make(item: bytes, config: CurationConfig, output: Objects) -> bytes:
    work, finished = cast("tuple[ShardWork, bool]", pickle.loads(item))
    counts = describe_files(output, shard_files(work.name)) if finished else run_shard(work, config, output)
    return pickle.dumps(counts)


@contextmanager
def _quiet_progress() -> Generator[None]:
    """Ray Data's own bars stay off: the caller shows progress."""
    with warnings.catch_warnings():
        # Ray 2.60 fills this object with fields that it has itself deprecated, and warns of each.
        warnings.filterwarnings("ignore", module=r"ray\.data\.context")
        context = DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = before
