"""A training step of the demo with both distillation terms against the same step without, each fed by its loader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from statistics import median

import torch

from model.student import PixelSail
from pipelines.training.feed import StepBatches
from pipelines.training.loader import FeedSpec, iterate
from pipelines.training.loop import Trainer, make_optimizers, parameter_count
from storage.keys import Json
from teachers.base import BaseTeacherConfig
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig
from tests.benchmarks.feature_workloads import scratch_folder
from tests.benchmarks.feed_workloads import demo_workload
from tests.benchmarks.measuring import Figures, Options, alternate, compared_pairs, fixed_threads, judged, machine
from tests.benchmarks.mfu import TARGET as MFU
from tests.benchmarks.mfu import trained_student
from tests.benchmarks.student_counts import tera
from tests.benchmarks.student_workloads import shape_of
from tests.benchmarks.train_workloads import PHOTOGRAPH_PX, published_student_flops

__all__ = ["distill_step_overhead"]

TARGET = 1.10
_PEAK_FLOPS, _BANDWIDTH = 989e12, 3.35e12
"""Of an H100 SXM by its data sheet: dense bfloat16 operations, and bytes of memory, per second."""
_UNPACKED_BYTES, _RESIZED_BYTES, _COMPARED_BYTES = 28, 4, 54
"""Memory traffic per value, counted over the operations of `FeatureTargets.error_of` and the way back. A stored value:
unzigzag 22, scale 6; where it is resized, read once more. A compared value: written by the resize 4 and by the head 2,
difference 10, square 8, mean 4; back through square 16, difference 6, head 4."""


def distill_step_overhead(options: Options) -> Figures:
    """Seconds of both, in turn; the loaders make batches in processes of their own."""
    repeats, num_steps = options.times(40), 2 if options.tiny else 8
    with scratch_folder() as folder, fixed_threads(options.num_threads), ExitStack() as stack:
        workload = demo_workload(folder, 24 if options.tiny else 512)
        with_terms, without = workload.spec, _without(workload.spec)
        num_runs = repeats + options.warmups
        sides = {
            "with": _Side(with_terms, stack, num_runs, num_steps),
            "without": _Side(without, stack, num_runs, num_steps),
        }
        assert {"distillation/mask2former", "distillation/sam2"} <= sides["with"].last.keys()
        assert not [name for name in sides["without"].last if name.startswith("distillation/")]
        seconds = alternate(
            {name: side.run for name, side in sides.items()},
            repeats,
            options.warmups,
            before=lambda: [side.catch_up() for side in sides.values()],
        )
        described = {**workload.described(), "student": shape_of(with_terms.student)}
        loader_ms = {name: side.loader_ms() for name, side in sides.items()}
        parameters = {name: parameter_count(side.trainer.model) for name, side in sides.items()}
    figures, ratio = compared_pairs(
        {name: found.wall for name, found in seconds.items()}, f"s per {num_steps} steps", ("with", "without")
    )
    return {
        "machine": machine(options, repeats),
        "workload": {**described, "parameters": parameters, "steps_per_run": num_steps},
        **figures,
        "loader_ms_per_step": loader_ms,
        "ratio": judged(ratio, at_most=TARGET),
        **({} if options.tiny else {"half_billion": _derived()}),
    }


def _without(spec: FeedSpec) -> FeedSpec:
    """No teacher anywhere: no features are read, no head is there."""
    config = spec.config.model_copy(update={"losses": spec.config.losses.model_copy(update={"distillation": {}})})
    return replace(spec, features={}, config=config, student=spec.student.model_copy(update={"distillation": ()}))


class _Side:
    """One student with its loader."""

    def __init__(self, spec: FeedSpec, stack: ExitStack, num_runs: int, num_steps: int) -> None:
        loader = spec.config.loader
        self._num_steps, self._lead = num_steps, loader.prefetch_steps + loader.num_workers
        total = 1 + num_runs * (num_steps + 2 * self._lead)
        model = PixelSail(spec.student).init_weights(torch.Generator().manual_seed(0)).train()
        config = spec.config.model_copy(update={"num_steps": total})
        self.trainer = Trainer(model, make_optimizers(model, config), config, torch.device("cpu"))
        self._batches: Iterator[StepBatches] = stack.enter_context(closing(iterate(spec, loader, 0, total)))
        self._seconds: list[float] = []
        self.last = self._step()

    def _step(self) -> dict[str, float]:
        batch = next(self._batches)
        self._seconds.append(sum(batch.seconds.values()))
        return self.trainer.step(batch.step, batch.micro_batches, batch.bins)

    def catch_up(self) -> None:
        """Uses up what the loader made while the other side ran, so that its work falls into the time."""
        for _ in range(self._lead):
            next(self._batches)

    def run(self) -> None:
        """Some steps."""
        for _ in range(self._num_steps):
            self.last = self._step()

    def loader_ms(self) -> float:
        """What making the batches of one step takes the loader."""
        return round(1000 * median(self._seconds), 2)


def _derived() -> dict[str, Json]:
    """The ratio for the 0.5B shape on an accelerator: operations at a share of the peak, values at the bandwidth."""
    flops, _ = published_student_flops()
    student, teachers = trained_student(), (Mask2FormerTeacherConfig(), Sam2TeacherConfig())
    rows, columns = (side // student.patch_size_px for side in PHOTOGRAPH_PX)
    heads = {head.teacher: head for head in student.distillation}
    cells = {
        head.teacher: rows * columns * (student.cells_per_patch**2 if head.source == "mask_features" else 1)
        for head in student.distillation
    }
    compared = sum(cells[kind] * heads[kind].num_channels for kind in heads)
    step = 3 * (flops.total - flops.distillation)
    checkpointed = step + flops.layers + flops.attention
    rate = MFU * _PEAK_FLOPS
    added_s = 3 * flops.distillation / rate
    native = sum(_native_values(teacher, heads[teacher.kind].num_channels) for teacher in teachers)
    ratios: dict[str, Json] = {}
    for grid, stored, per_value in (
        ("native", native, _UNPACKED_BYTES + _RESIZED_BYTES),
        ("student", compared, _UNPACKED_BYTES),
    ):
        total_s = added_s + (per_value * stored + _COMPARED_BYTES * compared) / _BANDWIDTH
        ratios[grid] = {
            "stored_values": stored,
            "added_ms": round(1000 * total_s, 3),
            "over_without": round(1 + total_s * rate / step, 4),
            "over_without_with_checkpointing": round(1 + total_s * rate / checkpointed, 4),
        }
    return {
        "photograph_px": list(PHOTOGRAPH_PX),
        "step_tflop_without": tera(step),
        "with_checkpointing": tera(checkpointed),
        "ms_without": round(1000 * step / rate, 3),
        "added_by_heads_tflop": tera(3 * flops.distillation),
        "compared_values": compared,
        "assumed": {
            "mfu": MFU,
            "peak_tflops": _PEAK_FLOPS / 1e12,
            "bandwidth_tb_s": _BANDWIDTH / 1e12,
        },
        "by_grid_of_the_features": ratios,
    }


def _native_values(teacher: BaseTeacherConfig, num_channels: int) -> int:
    rows, columns = teacher.output_grid(*PHOTOGRAPH_PX)
    return num_channels * rows * columns
