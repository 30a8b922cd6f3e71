"""Training on Ray Train: workers, their process group, resuming, and the checkpoint at the end."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
import torch
from torch import distributed

from model.checkpoint import checkpoint_files, load_checkpoint, load_config, load_tokenizer
from model.config import StudentConfig
from model.lora import add_lora, merge_lora
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from model.wordings import answer_of, example_texts, question_of
from pipelines.progress import Progress
from pipelines.training import run_state
from pipelines.training.config import LoaderConfig, TrainingConfig, training_key
from pipelines.training.loader import FailedStep, FeedSpec, StepWorker, iterate
from pipelines.training.loop import Trainer, cpu_copy, make_optimizers, parameter_count
from pipelines.training.meter import Meter
from pipelines.training.packed_step import PackedStep
from storage.corpus import Corpus
from storage.errors import InfrastructureError, SailloftError, UsageError
from storage.features import FeatureStore
from storage.keys import Json
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Sample

__all__ = ["train"]

logger = logging.getLogger(__name__)

_METRICS = "metrics.jsonl"
_POLL_S = 0.5
_MAX_WORKER_FAILURES = 2


@dataclass(frozen=True)
class _Job:
    """All that a worker needs, by value or by URL."""

    corpus: str
    features: Mapping[str, str]
    student: StudentConfig
    training: TrainingConfig
    output: str
    inputs: Mapping[str, str]
    meter: Any


def train(
    corpus: Corpus,
    features: Mapping[str, str],
    student: StudentConfig,
    config: TrainingConfig,
    output: Objects,
    progress: Progress,
    inputs: Mapping[str, str],
) -> Manifest:
    """Trains a student, or finds it present.

    An interrupted run goes on from its newest state under `<output>/state/`.

    Args:
        corpus: samples and images.
        features: URL of the feature store of each teacher, by its kind.
        student: architecture.
        config: the run.
        output: folder of the checkpoint.
        progress: is told about steps and losses.
        inputs: content keys of the corpus and of the feature stores, by name.

    Returns:
        The manifest of the checkpoint: `config.json`, `model.safetensors`, `tokenizer.json`, `metrics.jsonl`.

    Raises:
        InfrastructureError: workers failed more often than is tolerated.
    """
    present = read_manifest(output)
    if present is not None:
        run_state.clear(output.child("state"))  # left where a run was killed right behind its checkpoint
        return present
    meter = ray.remote(num_cpus=0)(Meter).remote()
    job = _Job(corpus.objects.url, dict(features), student, config, output.url, dict(inputs), meter)
    _fit(job, progress)
    run_state.clear(output.child("state"))
    manifest = read_manifest(output)
    if manifest is None:
        raise InfrastructureError(
            f"{output.url}: expected a checkpoint behind the training run, found none; see the workers' log"
        )
    return manifest


def _fit(job: _Job, progress: Progress) -> None:
    """Runs the trainer in a thread, so that this one can show how far it is."""
    config = job.training
    with tempfile.TemporaryDirectory(prefix="sailloft-train-") as folder:
        trainer = ray.train.torch.TorchTrainer(
            _train_worker,
            train_loop_config={"job": job},
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.num_workers,
                use_gpu=config.use_gpu,
                resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                storage_path=folder, failure_config=ray.train.FailureConfig(max_failures=_MAX_WORKER_FAILURES)
            ),
        )
        errors: list[BaseException] = []

        def fit() -> None:
            try:
                trainer.fit()
            except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
                errors.append(error)

        thread = threading.Thread(target=fit, name="trainer", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            newest = cast("dict[str, float]", ray.get(job.meter.get.remote()))
            if newest:
                facts = {name: newest[name] for name in ("loss", "mask_dice", "text") if name in newest}
                progress.update(int(newest["step"]), config.num_steps, unit="steps", **facts)
        if errors:
            raise _as_sailloft_error(errors[0], job) from errors[0]


def _as_sailloft_error(error: BaseException, job: _Job) -> SailloftError:
    """The worker's own error if it is one of ours, else a failure of the infrastructure."""
    chain: list[BaseException] = [error]
    seen: set[int] = set()
    while chain:
        item = chain.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, SailloftError):
            return item
        chain += [e for e in (item.__cause__, getattr(item, "cause", None)) if isinstance(e, BaseException)]
        failures = getattr(item, "worker_failures", None)
        chain += [e for e in dict(failures or {}).values() if isinstance(e, BaseException)]
    return InfrastructureError(
        f"training into {job.output} failed: {error}; the newest state is kept, run the same command again to go on"
    )


def _train_worker(loop_config: Mapping[str, _Job]) -> None:
    job = loop_config["job"]
    config = job.training
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if not config.use_gpu:
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    device = ray.train.torch.get_device()
    corpus = Corpus.open(job.corpus)
    tokenizer = _tokenizer(job.student, config, corpus.samples(splits=config.splits))
    student = job.student.model_copy(update={"vocab_size": _num_embeddings(config, tokenizer)})
    model = _initial_model(student, config)
    if config.lora is not None:
        add_lora(model, config.lora, config.seed)
    state_folder = Objects.open(job.output).child("state")
    state = run_state.load_newest(state_folder)
    if state is not None:
        logger.info("training goes on from step %d of %d", state.step, config.num_steps)
        model.load_state_dict(dict(state.model))
    model.to(device)
    model.gradient_checkpointing = config.gradient_checkpointing
    if config.compile_layers:
        for layer in model.layers:
            layer.compile(dynamic=True)
    optimizers = make_optimizers(model, config)
    if state is not None:
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(dict(state.optimizers[name]))
    stores = {teacher: FeatureStore.open(url) for teacher, url in job.features.items()}
    feed = FeedSpec(corpus, stores, student, tokenizer.to_json(), config, rank, world_size)
    trainer = Trainer(model, optimizers, config, device, rank, world_size)
    first_step = 0 if state is None else state.step
    keeper = _Keeper(job, trainer, state_folder, list(state.metrics) if state else [])
    batches = iterate(
        feed, config.loader, first_step, config.num_steps, device, lambda: _FeedActors(feed, config.loader)
    )
    try:
        trainer.run(batches, first_step, keeper.after_step)
    finally:
        batches.close()
    if rank == 0:
        _publish(job, trainer, tokenizer, keeper.rows)
    if world_size > 1:
        distributed.barrier()


class _FeedActors:
    """Actors that make batches on whatever nodes have a CPU left; one that dies begins its steps again elsewhere."""

    def __init__(self, feed: FeedSpec, config: LoaderConfig) -> None:
        actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(
            StepWorker
        )
        self._actors: list[Any] = [actor.remote(feed) for _ in range(config.num_workers)]

    def submit(self, step: int) -> Any:
        return self._actors[step % len(self._actors)].make.remote(step)

    def result(self, ticket: Any) -> PackedStep | FailedStep:
        return cast("PackedStep | FailedStep", ray.get(ticket))

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


def _tokenizer(student: StudentConfig, config: TrainingConfig, samples: Iterable[Sample]) -> StudentTokenizer:
    if config.init is not None:
        checkpoint = Objects.open(config.init)
        return load_tokenizer(checkpoint, load_config(checkpoint))
    texts = list(example_texts(student.wordings))
    for sample in samples:
        for index in range(len(sample.turns)):
            texts += [question_of(sample, index, None, "short"), answer_of(sample, index, None, "short")]
    return StudentTokenizer.train(texts, student.vocab_size, student.num_visual_prompts)


def _num_embeddings(config: TrainingConfig, tokenizer: StudentTokenizer) -> int:
    """Rows of the token embedding; a language model's can have more than its tokenizer needs."""
    return tokenizer.vocab_size if config.init is None else load_config(Objects.open(config.init)).vocab_size


def _initial_model(student: StudentConfig, config: TrainingConfig) -> PixelSail:
    """Fresh weights by the seed, or those of a checkpoint; its distillation heads are always fresh."""
    model = PixelSail(student).init_weights(torch.Generator().manual_seed(config.seed))
    if config.init is not None:
        weights = _trunk(load_checkpoint(Objects.open(config.init))[0].state_dict())
        expected = _trunk(model.state_dict())
        wrong = sorted(
            name
            for name in expected.keys() | weights.keys()
            if name not in expected or name not in weights or expected[name].shape != weights[name].shape
        )
        if wrong:
            raise UsageError(
                f"training.init {config.init}: expected the weights of student {student.model_dump()}, "
                f"these differ: {', '.join(wrong)}"
            )
        model.load_state_dict(weights, strict=False)
    return model


def _trunk(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps: all but the distillation heads."""
    return {name: weight for name, weight in weights.items() if not name.startswith("distillation_heads.")}


class _Keeper:
    """Records metrics and saves states; only rank 0 writes."""

    def __init__(self, job: _Job, trainer: Trainer, folder: Objects, rows: list[Mapping[str, float]]) -> None:
        self.rows = rows
        self._job, self._trainer, self._folder = job, trainer, folder
        self._window: list[Mapping[str, float]] = []
        self._seconds: list[Mapping[str, float]] = []

    def after_step(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        config = self._job.training
        if self._trainer.rank:
            return
        self._window.append(metrics)
        self._seconds.append(seconds)
        last = step == config.num_steps
        if step % config.log_every == 0 or last:
            self.rows.append({"step": step, **_means(self._window)})
            self._window.clear()
            newest = {**self.rows[-1], **_means(self._seconds)}
            self._seconds.clear()
            self._job.meter.put.remote(newest)
        if step % config.checkpoint_every == 0 and not last:
            run_state.save(
                self._folder,
                run_state.RunState(
                    step,
                    cpu_copy(self._trainer.model.state_dict()),
                    {name: optimizer.state_dict() for name, optimizer in self._trainer.optimizers.items()},
                    self.rows,
                ),
            )


def _means(rows: list[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for row in rows for name in row})
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}


def _publish(job: _Job, trainer: Trainer, tokenizer: StudentTokenizer, rows: list[Mapping[str, float]]) -> None:
    """Writes the checkpoint without the distillation heads; its manifest last."""
    if job.training.lora is not None:
        merge_lora(trainer.model)
    model = PixelSail(trainer.model.config.model_copy(update={"distillation": ()}))
    weights = cpu_copy(trainer.model.state_dict())
    model.load_state_dict(_trunk(weights))
    files = checkpoint_files(model, tokenizer)
    files[_METRICS] = "".join(json.dumps(dict(row)) + "\n" for row in rows).encode()
    output = Objects.open(job.output)
    entries: list[FileEntry] = []
    for name, data in files.items():
        if not output.create(name, data):
            output.put(name, data)
        entries.append(FileEntry.of(name, data))
    publish(
        output,
        Manifest(
            kind="checkpoint",
            key=training_key(job.student, job.training, job.inputs),
            schema_version=SCHEMA_VERSION,
            recipe=cast(
                "dict[str, Json]",
                {"student": job.student.hashed_fields(), "training": job.training.hashed_fields()},
            ),
            inputs=dict(job.inputs),
            files=tuple(entries),
            facts={
                "num_steps": job.training.num_steps,
                "num_parameters": parameter_count(model),
                "vocab_size": tokenizer.vocab_size,
            },
        ),
    )
