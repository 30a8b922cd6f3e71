"""How long a training step waits for its data: the feed in a process of its own against batches that lie ready."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import cycle
from typing import Literal

import torch

from model.student import PixelSail
from pipelines.training.feed import StepBatches, TrainingFeed
from pipelines.training.loader import iterate
from pipelines.training.loop import Trainer, make_optimizers
from storage.corpus import Corpus
from storage.features import FeatureStore
from storage.keys import Json
from tests.benchmarks.feature_workloads import scratch_folder
from tests.benchmarks.feed_workloads import FeedWorkload, Slow, demo_workload
from tests.benchmarks.measuring import Figures, Options, fixed_threads, judged, machine, median_interval, spread
from tests.web_server import serve_folder_apart

__all__ = ["stall_share", "stall_share_20ms"]

LOCAL_TARGET, LATENCY_TARGET = 0.03, 0.05
_LATENCY_S = 0.020
_LOADER: Literal["threads", "processes"] = "processes"
_NUM_READY = 24
"""Batches that lie ready; a step of the demo's student takes some 3 ms more or less, by what is in it."""
_STRETCH_STEPS, _NUM_PAIRS = 8, 40
"""Two to three seconds at a time: over minutes equal steps differ by a quarter here."""


def stall_share(options: Options) -> Figures:
    """From a local disk, with cached features."""
    with scratch_folder() as folder:
        workload = demo_workload(folder, 24 if options.tiny else 1024)
        return _measured(workload, workload.spec, "local disk", LOCAL_TARGET, options)


def stall_share_20ms(options: Options) -> Figures:
    """From a server of files, every request delayed by 20 ms."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        workload = demo_workload(folder, 24 if options.tiny else 1024)
        url = stack.enter_context(serve_folder_apart(folder))
        spec = replace(
            workload.spec,
            corpus=Corpus.open(f"{url}/corpus"),
            features={teacher: FeatureStore.open(f"{url}/{teacher}") for teacher in workload.spec.features},
        )
        served = replace(workload, spec=spec)
        return _measured(served, Slow(spec, _LATENCY_S), "HTTP, 20 ms a request", LATENCY_TARGET, options)


def _measured(
    workload: FeedWorkload, factory: Callable[[], TrainingFeed], storage: str, target: float, options: Options
) -> Figures:
    """Steps per second of both, in short stretches that take turns: what else the machine does changes within seconds.

    The loader rests while batches that lie ready are trained on, and its lead is used up before it is timed.
    """
    spec, num_steps, repeats = workload.spec, 2 if options.tiny else _STRETCH_STEPS, options.times(_NUM_PAIRS)
    model = PixelSail(spec.student).init_weights(torch.Generator().manual_seed(0))
    trainer = Trainer(model, make_optimizers(model, spec.config), spec.config, torch.device("cpu"))
    model.train()
    loader = spec.config.loader.model_copy(update={"kind": _LOADER})
    lead = loader.prefetch_steps + loader.num_workers
    total = (repeats + 1) * (num_steps + lead)
    feed = spec()
    ready = [feed.step_batches(step) for step in range(3 if options.tiny else _NUM_READY)]
    rates: dict[str, list[float]] = {"ready": [], "fed": []}
    cpu_s: dict[str, list[float]] = {"ready": [], "fed": []}
    waits: list[float] = []
    with fixed_threads(options.num_threads), closing(iterate(factory, loader, 0, total)) as fed:
        sources: Mapping[str, Iterator[StepBatches]] = {"ready": cycle(ready), "fed": fed}
        made: list[StepBatches] = []
        for repeat in range(-1, repeats):  # the first is a warm-up
            for name, batches in sources.items():
                for _ in range(lead if name == "fed" else 2):
                    _step(trainer, next(batches))
                started_s, started_cpu_s, waited_s = time.perf_counter(), time.process_time(), 0.0
                for _ in range(num_steps):
                    asked_s = time.perf_counter()
                    batch = next(batches)
                    waited_s += time.perf_counter() - asked_s
                    _step(trainer, batch)
                    if name == "fed":
                        made.append(batch)
                taken_s = time.perf_counter() - started_s
                if repeat < 0:
                    continue
                cpu_s[name].append((time.process_time() - started_cpu_s) / num_steps)
                rates[name].append(num_steps / taken_s)
                if name == "fed":
                    waits.append(waited_s / taken_s)
    seconds = {name: 1000 * statistics.mean(batch.seconds[name] for batch in made) for name in made[0].seconds}
    shares = [1 - fed / ready for fed, ready in zip(rates["fed"], rates["ready"], strict=True)]
    ratio: dict[str, Json] = {
        "of": "1 - fed / ready, median of neighbouring stretches",
        "value": round(statistics.median(shares), 4),
        "interval_95": [round(bound, 4) for bound in median_interval(shares)],
        "pairs": spread(shares),
    }
    return {
        "workload": {**workload.described(), "storage": storage, "steps": num_steps},
        "machine": machine(options, repeats),
        "steps_per_s": {name: {"unit": "1/s", **spread(found)} for name, found in rates.items()},
        "waited_share": spread(waits),
        "trainer_cpu_s_per_step": {name: spread(found) for name, found in cpu_s.items()},
        "loader_ms_per_step": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": judged(ratio, at_most=target),
    }


def _step(trainer: Trainer, batch: StepBatches) -> None:
    trainer.step(batch.step % trainer.config.num_steps, batch.micro_batches, batch.bins)
