"""One rank of a training run from its beginning to the checkpoint, free of Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import distributed

from model.config import StudentConfig
from model.tokenizer import StudentTokenizer
from pipelines.observer import NULL_OBSERVER, Metrics
from pipelines.training.beginning import first_model, first_tokenizer, resolved_student
from pipelines.training.config import TrainingConfig, training_key
from pipelines.training.ema import MovingAverage
from pipelines.training.keeper import Keeper, publish_checkpoint
from pipelines.training.loader import FeedSpec, StepPool, iterate
from pipelines.training.logbook import Logbook
from pipelines.training.loop import Trainer, Wanted, make_optimizers
from pipelines.training.parallel import arrange
from pipelines.training.run_state import States
from pipelines.training.teacher_modes import TeacherBeside, TeachersBeside
from pipelines.training.throughput import Throughput
from pipelines.training.trackers import TrackedRun
from pipelines.training.validation import Validator
from pipelines.training.watch import Watch
from storage.corpus import Corpus
from storage.features import FeatureStore
from storage.keys import Json
from storage.objects import Objects

__all__ = ["Job", "Seat", "run_worker"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """All that a worker needs, by value or by URL."""

    corpus: str
    features: Mapping[str, str]
    """URL of the feature store of each teacher, by its kind; a store that training fills may not exist yet."""
    student: StudentConfig
    training: TrainingConfig
    output: str
    inputs: Mapping[str, str]
    """Content keys of the corpus and of the feature stores or teachers, by name."""
    teachers: tuple[TeacherBeside, ...] = ()
    """Those that run beside the student."""
    logs: str | None = None
    """URL for what is noted beside the output; None: no notes, no trackers."""


@dataclass(frozen=True)
class Seat:
    """A worker's place among the others; where there are several, their process group exists."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def run_worker(
    job: Job,
    seat: Seat,
    report: Callable[[Mapping[str, float]], None],
    wanted: Callable[[], Wanted] = lambda: Wanted.NOTHING,
    feed_pool: Callable[[FeedSpec], StepPool[Any]] | None = None,
    metrics: Metrics = NULL_OBSERVER,
) -> bool:
    """Trains from the newest state to the checkpoint.

    Args:
        job: the run.
        seat: of this worker.
        report: is told each row of metrics with the speed, and each validation's scores, in the first rank.
        wanted: asked in each step what should happen behind it; all workers do the most that any of them wants.
        feed_pool: makes the pool of a loader of the kind `ray`.
        metrics: told of each step, in the first rank.

    Returns:
        Whether the checkpoint is written; otherwise the same run goes on from its state.

    Raises:
        SailloftError: bad data, storage trouble, or more skipped steps than the recipe allows.
    """
    config = job.training
    if seat.device.type == "cuda":
        torch.cuda.set_device(seat.device)
    corpus = Corpus.open(job.corpus)
    tokenizer = first_tokenizer(job.student, config, corpus.samples(splits=config.splits))
    student = resolved_student(job.student, config, tokenizer)
    output = Objects.open(job.output)
    trainer = _trainer(student, config, seat, output.child("inspect"), wanted)
    states = States(output.child("state"), config.survival.kept, seat.rank, seat.world_size)
    keeper = Keeper(trainer, states)
    first_step = keeper.resume()
    if first_step:
        logger.info("training goes on from step %d of %d", first_step, config.num_steps)
    fills = config.teacher_mode == "hybrid"
    stores = {teacher: FeatureStore.open(url, absent_ok=fills) for teacher, url in job.features.items()}
    feed = FeedSpec(corpus, stores, student, tokenizer.to_json(), config, seat.rank, seat.world_size)
    pool = None if feed_pool is None else partial(feed_pool, feed)
    weights = config.losses.distillation
    with (
        TeachersBeside(job.teachers, weights, seat.device, config.hybrid_part_images) as teachers,
        _watch(job, seat, trainer, corpus, tokenizer, report, first_step, metrics) as watch,
        closing(iterate(feed, config.loader, first_step, config.num_steps, seat.device, pool)) as batches,
    ):
        trainer.complete, trainer.throughput, keeper.watch = teachers.complete, watch.throughput, watch

        def after_step(step: int, row: Mapping[str, float], seconds: Mapping[str, float]) -> None:
            if seat.rank == 0:
                metrics.count("sailloft_steps_total", outcome="skipped" if row["skipped"] else "done")
            if step % config.checkpoint_every == 0:
                teachers.write()  # a run that goes on from there finds what was computed before
            keeper.after_step(step, row, seconds)

        finished = watch.finished = trainer.run(batches, first_step, after_step)
    if finished:
        publish_checkpoint(trainer, job.student, tokenizer, keeper.rows, output, job.inputs)
        if seat.world_size > 1:
            distributed.barrier()
    return finished


def _watch(
    job: Job,
    seat: Seat,
    trainer: Trainer,
    corpus: Corpus,
    tokenizer: StudentTokenizer,
    report: Callable[[Mapping[str, float]], None],
    first_step: int,
    metrics: Metrics,
) -> Watch:
    config, student = job.training, trainer.model.config
    if seat.rank:
        return Watch(config, report)
    throughput = Throughput(student, config, seat.device, seat.world_size, config.tracking.peak_flops, metrics)
    validator = logbook = None
    if config.validation is not None:
        validator = Validator(corpus, config.validation, student.wordings, tokenizer, seat.device)
    if job.logs is not None:
        logs, key = Objects.open(job.logs), training_key(job.student, config, job.inputs)
        recipe = {"student": job.student.hashed_fields(), "training": config.hashed_fields()}
        run = TrackedRun(key, logs, first_step, cast("dict[str, Json]", recipe))
        logbook = Logbook(logs, config.tracking.build(run), first_step)
    return Watch(config, report, throughput, validator, logbook)


def _trainer(
    student: StudentConfig, config: TrainingConfig, seat: Seat, inspection: Objects, wanted: Callable[[], Wanted]
) -> Trainer:
    model = first_model(student, config).to(seat.device)
    model.gradient_checkpointing = config.gradient_checkpointing
    if config.compile_layers:
        for layer in model.layers:
            layer.compile(dynamic=True)
    parallel = arrange(model, config, seat.device, seat.rank, seat.world_size)
    return Trainer(
        model,
        make_optimizers(model, config),
        config,
        seat.device,
        seat.rank,
        seat.world_size,
        parallel,
        None if config.ema_decay is None else MovingAverage(model, config.ema_decay),
        inspection,
        wanted,
    )
