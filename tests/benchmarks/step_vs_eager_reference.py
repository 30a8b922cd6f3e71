"""Time and memory of one training step against the student written plainly (`eager_reference`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from model.config import StudentConfig
from model.flops import attended_pairs, student_flops
from model.objective import LossWeights, TrainingBatch, compute_losses
from model.student import PixelSail
from storage.keys import Json
from tests.benchmarks.eager_reference import EagerReference, eager_losses
from tests.benchmarks.measuring import (
    Figures,
    Options,
    PeakMemory,
    Seconds,
    alternate,
    compared,
    compared_times,
    fixed_threads,
    in_fresh_process,
    judged,
    machine,
)
from tests.benchmarks.student_counts import tera, tera_by_part
from tests.benchmarks.student_workloads import (
    Points,
    SampleMaker,
    seeded_student,
    shape_of,
    tiny_student,
    training_batch_of,
)

__all__ = ["MEMORY_TARGET", "TIME_TARGET", "StepWorkload", "medium_student", "step_vs_eager_reference"]

TIME_TARGET, MEMORY_TARGET = 0.8, 0.6
_SEED = 23
_RTOL = 1e-4
"""Agreement of every loss term; measured 1e-6."""

Side = Literal["ours", "eager"]

logger = logging.getLogger(__name__)


def medium_student() -> StudentConfig:
    """A student whose step takes seconds on two cores."""
    return StudentConfig(
        vocab_size=32_768,
        hidden_size=512,
        intermediate_size=1_408,
        num_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
    )


@dataclass(frozen=True, slots=True)
class StepWorkload:
    """One packed row: conversations with pictures, two masks each."""

    config: StudentConfig
    conversations: tuple[tuple[tuple[int, int], int], ...]
    """Grid of the picture and tokens of text of each."""

    @classmethod
    def of(cls, *, tiny: bool) -> StepWorkload:
        """2,048 tokens in three conversations."""
        if tiny:
            return cls(tiny_student(), (((4, 5), 40), ((3, 3), 30)))
        return cls(medium_student(), (((24, 24), 158), ((20, 28), 158), ((18, 24), 158)))

    def batch(self) -> tuple[TrainingBatch, Points]:
        """The row with its targets."""
        maker = SampleMaker(self.config, _SEED)
        samples = [maker.sample(grid, text, 2) for grid, text in self.conversations]
        return training_batch_of([samples], maker.tokenizer)


def step_vs_eager_reference(options: Options) -> Figures:
    """Forward pass, losses and backward pass of the same batch with the same weights."""
    workload = StepWorkload.of(tiny=options.tiny)
    batch, points = workload.batch()
    repeats, memory_repeats = options.times(5), options.times(2)
    with fixed_threads(options.num_threads):
        checks, seconds = _timed(workload, batch, points, repeats, options.warmups)
    peaks: dict[Side, list[float]] = {"ours": [], "eager": []}
    for _ in range(memory_repeats):
        for side, found in peaks.items():
            found.append(in_fresh_process(peak_mib_of, side, tiny=options.tiny, num_threads=options.num_threads))
            logger.info("%s: peak of %.0f MiB above model and batch", side, found[-1])
    times, time_ratio = compared_times(seconds, "s", ("ours", "eager"))
    memory, memory_ratio = compared({str(side): found for side, found in peaks.items()}, "MiB", ("ours", "eager"))
    return {
        "workload": _described(workload, batch),
        "machine": machine(options, repeats),
        "checks": checks,
        "time": {**times, "ratio": judged(time_ratio, at_most=TIME_TARGET)},
        "peak_memory": {
            "method": f"{PeakMemory.method}, in a fresh process a side, above model and batch; gradients included",
            "repeats": memory_repeats,
            **memory,
            "ratio": judged(memory_ratio, at_most=MEMORY_TARGET),
        },
    }


def _timed(
    workload: StepWorkload, batch: TrainingBatch, points: Points, repeats: int, warmups: int
) -> tuple[dict[str, Json], dict[str, Seconds]]:
    ours = seeded_student(workload.config, _SEED).train()
    eager = EagerReference(workload.config).train()
    eager.load_state_dict(ours.state_dict())
    checks = agreement(ours, eager, batch, points)
    sides = {"ours": lambda: our_step(ours, batch, points), "eager": lambda: eager_step(eager, batch, points)}
    return checks, alternate(sides, repeats, warmups)


def our_step(model: PixelSail, batch: TrainingBatch, points: Points) -> dict[str, float]:
    """One step through `compute_losses`; returns the total and the terms."""
    model.zero_grad(set_to_none=True)
    losses = compute_losses(model, batch, LossWeights(), points)
    losses.total.backward()
    return _as_floats(losses.total, dict(losses.terms))


def eager_step(model: EagerReference, batch: TrainingBatch, points: Points) -> dict[str, float]:
    """One step of the reference; returns the total and the terms."""
    model.zero_grad(set_to_none=True)
    total, terms = eager_losses(model, batch, LossWeights(), points)
    total.backward()
    return _as_floats(total, terms)


def agreement(ours: PixelSail, eager: EagerReference, batch: TrainingBatch, points: Points) -> dict[str, Json]:
    """Asserts that both sides compute the same losses and gradients, before anything is timed."""
    losses, reference = our_step(ours, batch, points), eager_step(eager, batch, points)
    assert losses.keys() == reference.keys()
    worst = max(abs(losses[name] / value - 1) for name, value in reference.items())
    assert worst <= _RTOL, (losses, reference)
    gradients = dict(eager.named_parameters())
    distance, norm = torch.zeros(()), torch.zeros(())
    for name, parameter in ours.named_parameters():
        expected = gradients[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if parameter.grad is not None and expected is not None:
            distance += (parameter.grad - expected).square().sum()
            norm += expected.square().sum()
    apart = float((distance / norm).sqrt())
    assert apart <= 10 * _RTOL, apart
    return {"losses": dict(losses), "largest_relative_difference": worst, "gradients_relative": apart, "rtol": _RTOL}


def peak_mib_of(side: Side, *, tiny: bool, num_threads: int) -> float:
    """Peak of resident memory in the first step of a side, above what model and batch take."""
    torch.set_num_threads(num_threads)
    workload = StepWorkload.of(tiny=tiny)
    batch, points = workload.batch()
    if side == "ours":
        step = partial(our_step, seeded_student(workload.config, _SEED).train(), batch, points)
    else:
        step = partial(eager_step, EagerReference(workload.config).train(), batch, points)
    with PeakMemory() as memory:
        step()
    return memory.peak_bytes / 2**20


def _as_floats(total: Tensor, terms: dict[str, Tensor]) -> dict[str, float]:
    return {"total": float(total.detach()), **{name: float(value) for name, value in terms.items()}}


def _described(workload: StepWorkload, batch: TrainingBatch) -> dict[str, Json]:
    config, inputs = workload.config, batch.inputs
    num_tokens = inputs.input_ids.shape[1]
    pairs = attended_pairs(inputs.structure)
    needed = student_flops(config, inputs, len(batch.label_ids), batch, pairs=pairs)
    eager = student_flops(config, inputs, num_tokens, batch, pairs=num_tokens**2)
    scores = 4 * config.num_attention_heads * num_tokens**2
    return {
        "seed": _SEED,
        "student": shape_of(config),
        "parameters": sum(parameter.numel() for parameter in PixelSail(config).parameters()),
        "row_tokens": num_tokens,
        "conversations": [
            {"patches": list(grid), "text_tokens": text, "masks": 2} for grid, text in workload.conversations
        ],
        "label_tokens": len(batch.label_ids),
        "attended_pairs_share": round(pairs / num_tokens**2, 4),
        "forward_tflop": {"ours": tera_by_part(needed), "eager": tera_by_part(eager)},
        "step_tflop": {"ours": tera(3 * needed.total), "eager": tera(3 * eager.total)},
        "mib": {
            "eager_scores_per_layer": round(scores / 2**20, 1),
            "eager_scores_all_layers": round(config.num_layers * scores / 2**20, 1),
            "eager_logits": round(4 * num_tokens * config.vocab_size / 2**20, 1),
            "our_logits": round(4 * min(512, len(batch.label_ids)) * config.vocab_size / 2**20, 1),
            "mask_features": round(4 * len(inputs.patches) * config.cells_per_patch**2 * config.mask_dim / 2**20, 1),
        },
    }
