"""Computes shards in this very process: what a run without Ray, faults or neighbours gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipelines.distillation.plan import Batch, ShardTask
from pipelines.distillation.steps import prepare_batch
from pipelines.distillation.teaching import Job
from pipelines.distillation.worker import Inputs, ShardResult, ShardWorker
from storage.corpus import Corpus

__all__ = ["run_shards_here"]


def run_shards_here(tasks: Sequence[ShardTask], job: Job) -> Iterator[ShardResult]:
    """One shard after another; see `pipelines.distillation.teaching.RunShards`."""
    corpus = Corpus.open(job.corpus_url)

    def start(task: ShardTask, batch: Batch) -> Callable[[], Inputs]:
        records = [corpus.image(task.shard.rows[position].image_id) for position in batch.positions]
        return lambda: prepare_batch(job.teacher, records, batch.input_size)

    antialias = job.features.grid_stride_px is not None
    worker = ShardWorker(job.teacher.build, job.part, job.codec, start, 1, antialias=antialias)
    for task in tasks:
        yield worker.run(task)
