"""Training steps with features from the store against steps in which the teachers run."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import torch

from model.flops import batch_flops
from model.objective import LossWeights
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.training.config import LoaderConfig, MixtureEntry, TrainingConfig
from pipelines.training.feed import StepBatches
from pipelines.training.loader import FeedSpec, iterate
from pipelines.training.loop import Trainer, make_optimizers, parameter_count
from pipelines.training.teacher_modes import TeachersBeside, teacher_beside
from storage.keys import Json
from teachers.base import BaseTeacherConfig
from tests.benchmarks.feature_workloads import scratch_folder
from tests.benchmarks.measuring import (
    Figures,
    Options,
    Seconds,
    alternate,
    compared,
    fixed_threads,
    judged,
    machine,
)
from tests.benchmarks.student_counts import tera
from tests.benchmarks.student_workloads import shape_of
from tests.benchmarks.train_workloads import (
    FEATURES,
    PHOTOGRAPH_PX,
    labelled_corpus,
    narrow_student,
    narrow_teachers,
    published_student_flops,
    published_teachers,
    taught,
    teacher_cost,
)

__all__ = ["cached_vs_online_step"]

TARGET = 1.5
_CODING = 5e-3
"""What losses of distillation may differ by: features have 30 dB."""


def cached_vs_online_step(options: Options) -> Figures:
    """Steps per second of both, in turn; both with the loader in a process of its own."""
    repeats = options.times(5)
    with scratch_folder() as folder, fixed_threads(options.num_threads), ExitStack() as stack:
        sides = _Sides(folder, stack, repeats + options.warmups, tiny=options.tiny)
        sides.check()
        seconds = alternate({"cached": sides.cached, "online": sides.online}, repeats, options.warmups)
        figures, ratio = compared(
            {name: taken.rates(sides.steps_per_run).wall for name, taken in seconds.items()},
            "steps/s",
            ("cached", "online"),
        )
        workload = sides.described()
    by_processor = compared(_processor_rates(seconds), "", ("cached", "online"))[1]["value"]
    return {
        "machine": machine(options, repeats),
        "workload": workload,
        **figures,
        "ratio": judged({**ratio, "by_processor_time_of_the_training_process": by_processor}, at_least=TARGET),
        **({} if options.tiny else {"extrapolation": _extrapolated()}),
    }


def _processor_rates(seconds: dict[str, Seconds]) -> dict[str, list[float]]:
    return {name: taken.rates(1.0).cpu for name, taken in seconds.items()}


class _Sides:
    """The same student on the same batches; one of the two has its teachers beside it."""

    def __init__(self, folder: Path, stack: ExitStack, num_runs: int, *, tiny: bool) -> None:
        self._size_px = (32, 48) if tiny else (240, 320)
        self.steps_per_run = 1 if tiny else 4
        corpus = labelled_corpus(folder / "corpus", 4 if tiny else 24, self._size_px)
        tokenizer = StudentTokenizer.train(["segment the large red dog near the left window", "It is [SEG]."], 512, 15)
        self._student = narrow_student(tokenizer.vocab_size, tiny=tiny)
        self._teachers: tuple[BaseTeacherConfig, ...] = narrow_teachers(tiny=tiny)
        stores = taught(corpus, self._teachers, folder / "features")
        self._config = TrainingConfig(
            num_steps=2 + self.steps_per_run * num_runs,
            batch_rows=2,
            micro_batch_rows=2,
            mixture=(MixtureEntry(turns_per_row=5),),
            loader=LoaderConfig(kind="threads" if tiny else "processes", prefetch_steps=4),
        )
        online = self._config.model_copy(update={"teacher_mode": "online"})
        cached_spec = FeedSpec(corpus, stores, self._student, tokenizer.to_json(), self._config)
        self._cached = _Side(cached_spec, stack)
        self._online = _Side(replace(cached_spec, features={}, config=online), stack)
        beside = [teacher_beside(teacher, FEATURES) for teacher in self._teachers]
        weights = LossWeights().distillation
        running = stack.enter_context(TeachersBeside(beside, weights, torch.device("cpu"), part_images=1))
        self._online.trainer.complete = running.complete

    def cached(self) -> None:
        """Some steps with stored features."""
        self._cached.run(self.steps_per_run)

    def online(self) -> None:
        """The same steps with teachers."""
        self._online.run(self.steps_per_run)

    def check(self) -> None:
        """Takes one step of each, whose losses must agree to the error of coding."""
        cached, online = self._cached.step(), self._online.step()
        assert cached.keys() == online.keys()
        for name in ("distillation/mask2former", "distillation/sam2", "loss"):
            assert math.isclose(cached[name], online[name], rel_tol=_CODING), (name, cached[name], online[name])

    def described(self) -> dict[str, Json]:
        """What was trained, and what both sides cost by count."""
        (batch,) = self._cached.spec().step_batches(0).micro_batches
        student = 3 * batch_flops(self._student, batch) // self._config.batch_rows
        costs = {teacher.kind: teacher_cost(teacher, teacher.build(), self._size_px) for teacher in self._teachers}
        total = sum(cost.forward_flops for cost in costs.values())
        return {
            "student": {**shape_of(self._student), "parameters": parameter_count(self._cached.trainer.model)},
            "picture_px": list(self._size_px),
            "pictures_per_step": self._config.batch_rows,
            "tokens_per_picture": batch.inputs.input_ids.numel() // self._config.batch_rows,
            "steps_per_run": self.steps_per_run,
            "features": FEATURES.codec,
            "student_tflop_per_picture": tera(student),
            "teachers": {
                kind: {"parameters": cost.parameters, "tflop_per_picture": tera(cost.forward_flops)}
                for kind, cost in costs.items()
            },
            "teachers_flops_over_student_flops": round(total / student, 3),
        }


class _Side:
    def __init__(self, spec: FeedSpec, stack: ExitStack) -> None:
        self.spec = spec
        model = PixelSail(spec.student).init_weights(torch.Generator().manual_seed(0)).train()
        self.trainer = Trainer(model, make_optimizers(model, spec.config), spec.config, torch.device("cpu"))
        self._batches: Iterator[StepBatches] = stack.enter_context(closing(_made(spec)))

    def step(self) -> dict[str, float]:
        """The next step."""
        batch = next(self._batches)
        return self.trainer.step(batch.step, batch.micro_batches, batch.bins)

    def run(self, num_steps: int) -> None:
        """Some steps; waits of them for the loader count."""
        for _ in range(num_steps):
            self.step()


def _made(spec: FeedSpec) -> Generator[StepBatches]:
    return iterate(spec, spec.config.loader, 0, spec.config.num_steps)


def _extrapolated() -> dict[str, Json]:
    """The same ratio for the 0.5B student with the published teachers, by operations at an equal share of the peak."""
    flops, num_tokens = published_student_flops()
    teachers = published_teachers()
    recomputed = flops.layers + flops.attention
    step, checkpointed = 3 * flops.total, 3 * flops.total + recomputed
    beside = sum(cost.forward_flops for cost in teachers.values())
    return {
        "photograph_px": list(PHOTOGRAPH_PX),
        "student": {"tokens": num_tokens, "forward_tflop": tera(flops.total), "step_tflop": tera(step)},
        "student_step_tflop_with_checkpointing": tera(checkpointed),
        "teachers": {
            kind: {"parameters": cost.parameters, "forward_tflop": tera(cost.forward_flops)}
            for kind, cost in teachers.items()
        },
        "teachers_flops_over_student_flops": round(beside / step, 3),
        "cached_over_online": round((step + beside) / step, 3),
        "cached_over_online_with_checkpointing": round((checkpointed + beside) / checkpointed, 3),
    }
