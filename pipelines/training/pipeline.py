"""Training on Ray Train: workers, their process group, restarts after losses, and what the driver shows of it."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from model.config import StudentConfig
from pipelines.observer import NULL_OBSERVER, Metrics, Observer, current_observer
from pipelines.progress import Progress
from pipelines.training import run_state
from pipelines.training.config import TrainingConfig
from pipelines.training.feed import corpus_mixture
from pipelines.training.loader import FailedStep, FeedSpec, StepWorker
from pipelines.training.loop import Wanted
from pipelines.training.meter import Meter, progress_facts
from pipelines.training.packed_step import PackedStep
from pipelines.training.teacher_modes import TeacherBeside
from pipelines.training.worker import Job, Seat, run_worker
from storage.corpus import Corpus
from storage.errors import DataError, InfrastructureError, SailloftError, UsageError
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects

__all__ = ["train"]

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_LOOK_AROUND_S = 2.0
"""Between two questions of a worker whether it should stop or its node is to go; nodes give 30 s or more."""
_STOP_GRACE_S = 20.0
"""How long the driver waits for a state when it is told to end; Kubernetes kills after 30 s."""


def train(
    corpus: Corpus,
    features: Mapping[str, str],
    student: StudentConfig,
    config: TrainingConfig,
    output: Objects,
    progress: Progress,
    inputs: Mapping[str, str],
    teachers: Sequence[TeacherBeside] = (),
    logs: Objects | None = None,
) -> Manifest:
    """Trains a student, or finds it present.

    An interrupted run goes on from its newest state under `<output>/state/`.

    Args:
        corpus: samples and images.
        features: URL of the feature store of each teacher, by its kind; in `hybrid` it may not exist yet.
        student: architecture.
        config: the run.
        output: folder of the checkpoint.
        progress: is told about steps and losses.
        inputs: content keys of the corpus and of the feature stores or teachers, by name.
        teachers: those that run beside the student; none if the mode is `cached`.
        logs: prefix for notes and trackers, which aren't part of the output; None: none are kept.

    Returns:
        The manifest of the checkpoint: `config.json`, `model.safetensors`, `tokenizer.json`, `metrics.jsonl`.

    Raises:
        InfrastructureError: workers failed more often than is tolerated.
        UsageError: a tracker whose package isn't installed.
    """
    present = read_manifest(output)
    if present is not None:
        run_state.clear(output.child("state"))  # left where a run was killed right behind its checkpoint
        return present
    config.tracking.check()
    if config.num_epochs is not None:
        config = config.with_steps(corpus_mixture(corpus, config)[0].rows_per_epoch)
    notes = None if logs is None else logs.url
    job = Job(corpus.objects.url, dict(features), student, config, output.url, dict(inputs), tuple(teachers), notes)
    _fit(job, _meter(), progress)
    run_state.clear(output.child("state"))
    manifest = read_manifest(output)
    if manifest is None:
        raise InfrastructureError(
            f"{output.url}: expected a checkpoint behind the training run, found none; see the workers' log"
        )
    return manifest


def _meter() -> Any:
    """Where the driver is: Ray puts what needs no CPU anywhere, and the run must outlive the loss of any other node."""
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Meter).remote()


def _fit(job: Job, meter: Any, progress: Progress) -> None:
    """Runs the trainer in a thread, so that this one can show how far it is."""
    with tempfile.TemporaryDirectory(prefix="sailloft-train-") as folder:
        trainer = ray.train.torch.TorchTrainer(
            _train_worker,
            train_loop_config={"job": job, "meter": meter, "observer": current_observer()},
            scaling_config=_scaling(job.training),
            run_config=ray.train.RunConfig(
                storage_path=folder,
                failure_config=ray.train.FailureConfig(max_failures=job.training.survival.max_failures),
            ),
        )
        errors: list[BaseException] = []
        # Not the thread's own `join`: interrupted by a signal, it takes the thread for ended.
        ended = threading.Event()

        def fit() -> None:
            try:
                trainer.fit()
            except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
                errors.append(error)
            finally:
                ended.set()

        threading.Thread(target=fit, name="trainer", daemon=True).start()
        try:
            _show(ended, meter, job.training.num_steps, progress)
        except (SystemExit, KeyboardInterrupt):
            meter.stop.remote()
            ended.wait(_STOP_GRACE_S)
            raise
        told = cast("FailedStep | None", ray.get(meter.error.remote()))
        if told is not None:
            raise told.error()
        if errors:
            raise _as_sailloft_error(errors[0], job) from errors[0]


def _scaling(config: TrainingConfig) -> ray.train.ScalingConfig:
    fewest = config.survival.min_workers or config.num_workers
    return ray.train.ScalingConfig(
        num_workers=config.num_workers if fewest == config.num_workers else (fewest, config.num_workers),
        elastic_resize_monitor_interval_s=config.survival.resize_interval_s,
        use_gpu=config.use_gpu,
        resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
    )


def _show(ended: threading.Event, meter: Any, num_steps: int, progress: Progress) -> None:
    while not ended.wait(_POLL_S):
        # A signal that meets Ray's own waiting comes out as another exception: this waits in Python.
        newest = cast("dict[str, float]", meter.get.remote().future().result())
        if newest:
            progress.update(int(newest["step"]), num_steps, unit="steps", **progress_facts(newest))


def _as_sailloft_error(error: BaseException, job: Job) -> SailloftError:
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


def _train_worker(loop_config: Mapping[str, Any]) -> None:
    """One worker; an error that would come again is told to the driver, and nobody tries again."""
    job, meter = cast("Job", loop_config["job"]), loop_config["meter"]
    if cast("object", ray.get(meter.error.remote())) is not None:
        return
    config = job.training
    context = ray.train.get_context()
    if not config.use_gpu:
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    seat = Seat(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    observer = cast("Observer", loop_config["observer"])
    try:
        with observer.here(f"trainer {seat.rank}"), _wishes(meter) as wishes:
            feeders = partial(_FeedActors, observer=observer)
            run_worker(job, seat, _reporting(meter, observer), wishes.wanted, feeders, observer)
    except (DataError, UsageError) as error:
        ray.get(meter.fail.remote(FailedStep(type(error), str(error))))
        raise


_GAUGES = {
    "loss": "sailloft_loss",
    "stall_share": "sailloft_stall_share",
    "tokens_per_s": "sailloft_tokens_per_second",
    "mfu": "sailloft_mfu",
}


def _reporting(meter: Any, metrics: Metrics) -> Callable[[Mapping[str, float]], None]:
    """Tells the driver of a row, and the figures what they know of it."""

    def report(row: Mapping[str, float]) -> None:
        meter.put.remote(dict(row))
        for name, figure in _GAUGES.items():
            if name in row:
                metrics.set(figure, row[name])

    return report


class _ObservedStepWorker(StepWorker):
    """Makes batches in a process of its own, until that ends."""

    def __init__(self, observer: Observer, feed: FeedSpec) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(observer.here("loader"))
        super().__init__(feed)


class _FeedActors:
    """Actors that make batches on whatever nodes have a CPU left; one that dies begins its steps again elsewhere."""

    def __init__(self, feed: FeedSpec, observer: Observer = NULL_OBSERVER) -> None:
        actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(
            _ObservedStepWorker
        )
        self._actors: list[Any] = [actor.remote(observer, feed) for _ in range(feed.config.loader.num_workers)]

    def submit(self, step: int) -> Any:
        return self._actors[step % len(self._actors)].make.remote(step)

    def result(self, ticket: Any) -> PackedStep | FailedStep:
        return cast("PackedStep | FailedStep", ray.get(ticket))

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


class _Wishes:
    """What the driver and the cluster want of this worker, asked for beside the steps."""

    def __init__(self, meter: Any) -> None:
        self._meter = meter
        self._stop, self._save = threading.Event(), threading.Event()
        self._closed = threading.Event()
        self._told: object = None

    def wanted(self) -> Wanted:
        """See `Trainer.wanted`; a wish to save is granted once."""
        if self._stop.is_set():
            return Wanted.STOP
        if self._save.is_set():
            self._save.clear()
            return Wanted.SAVE
        return Wanted.NOTHING

    def look_around(self) -> None:
        """Asks again and again, until it is closed or Ray ends the workers."""
        while not self._closed.wait(_LOOK_AROUND_S):
            try:
                if ray.get(self._meter.stopping.remote()):
                    self._stop.set()
                # All workers wait for each other in here, which is why it isn't asked in the steps.
                leaving = ray.train.get_preemption_info()
            except RayError:
                return
            if leaving is not None and leaving != self._told:
                self._told = leaving
                logger.warning("nodes are about to go, a state is saved: %s", leaving)
                self._save.set()

    def close(self) -> None:
        """Ends the asking."""
        self._closed.set()


@contextmanager
def _wishes(meter: Any) -> Generator[_Wishes]:
    wishes = _Wishes(meter)
    threading.Thread(target=wishes.look_around, name="wishes", daemon=True).start()
    try:
        yield wishes
    finally:
        wishes.close()
