"""Share of an accelerator's peak that a training step of the 0.5B shape reaches (model FLOPs utilisation)."""

from __future__ import annotations

import gc
import itertools
import logging
import statistics
import time
from collections.abc import Callable

import torch

from model.attention import plan_attention
from model.config import DistillationHead, StudentConfig
from model.flops import batch_flops
from model.losses import PointDraws
from model.objective import LossWeights, TrainingBatch, compute_losses
from model.student import PixelSail
from pipelines.training.throughput import peak_flops
from storage.keys import Json
from tests.benchmarks.measuring import Figures, NotRun, Options, judged, machine, spread
from tests.benchmarks.student_counts import tera
from tests.benchmarks.student_vs_stack import half_billion_student
from tests.benchmarks.student_workloads import (
    Points,
    SampleMaker,
    seeded_student,
    shape_of,
    tiny_student,
    training_batch_of,
)

__all__ = ["TARGET", "mfu"]

TARGET = 0.45
_SEED = 53

logger = logging.getLogger(__name__)


def mfu(options: Options) -> Figures:
    """Times steps with and without gradient checkpointing and compiled layers.

    A step is forward pass under bf16 autocast, losses, backward pass and a fused AdamW on float32 weights.
    """
    if not torch.cuda.is_available() and not options.tiny:
        raise NotRun("no CUDA device")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = tiny_student() if options.tiny else trained_student()
    batch, points = packed_batch(config, tiny=options.tiny)
    flops = batch_flops(config, batch)
    peak = options.peak_flops or (1e12 if options.tiny else known_peak_flops(torch.cuda.get_device_name()))
    repeats = options.times(10)
    on_device = batch.to(device)
    num_tokens = int((batch.inputs.document >= 0).sum())
    variants: dict[str, Json] = {}
    utilisation: dict[str, float] = {}
    for checkpointing, compiled in itertools.product((False, True), (False, True)):
        if compiled and device.type == "cpu":
            continue
        name = f"checkpointing {'on' if checkpointing else 'off'}, compile {'on' if compiled else 'off'}"
        step = _step(config, on_device, points, device, checkpointing=checkpointing, compiled=compiled)
        seconds, peak_gib = _timed(step, device, repeats, 3 * options.warmups)
        median_s = statistics.median(seconds)
        logger.info("%s: %.3f s a step", name, median_s)
        utilisation[name] = round(3 * flops / median_s / peak, 4)
        variants[name] = {
            "step_s": spread(seconds),
            "tokens_per_s": round(num_tokens / median_s),
            "mfu": utilisation[name],
            "peak_gib": peak_gib,
        }
        del step
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.compiler.reset()
    best = max(utilisation, key=lambda name: utilisation[name])
    inputs = batch.inputs
    return {
        "workload": {
            "seed": _SEED,
            "student": shape_of(config),
            "rows": list(inputs.input_ids.shape),
            "conversations": batch.num_documents,
            "padding_share": round(float((inputs.document < 0).float().mean()), 4),
            "label_tokens": len(batch.label_ids),
            "tflop_per_step": tera(3 * flops),
            "precision": "bfloat16 autocast, float32 weights",
            "peak_tflops": peak / 1e12,
        },
        "machine": machine(options, repeats, device.type),
        "variants": variants,
        "ratio": judged({"of": f"model FLOP/s / peak, {best}", "value": utilisation[best]}, at_least=TARGET),
    }


def trained_student() -> StudentConfig:
    """The 0.5B shape with its heads of distillation."""
    heads = (
        DistillationHead(teacher="mask2former", num_channels=256, source="mask_features"),
        DistillationHead(teacher="sam2", num_channels=256, source="patches"),
    )
    return half_billion_student().model_copy(update={"distillation": heads})


def packed_batch(config: StudentConfig, *, tiny: bool) -> tuple[TrainingBatch, Points]:
    """Rows of 4,096 tokens, each of six conversations with pictures; few grids, so that maps are stacked."""
    maker = SampleMaker(config, _SEED)
    if tiny:
        return training_batch_of([[maker.sample((3, 4), 30, 1), maker.sample(None, 40)]], maker.tokenizer)
    grids = ((24, 30), (30, 24), (20, 26), (26, 20), (24, 24), (20, 20))
    texts = [(4_096 - sum(rows * columns + 2 for rows, columns in grids)) // len(grids)] * len(grids)
    rows = [[maker.sample(grid, text, 2) for grid, text in zip(grids, texts, strict=True)] for _ in range(4)]
    return training_batch_of(rows, maker.tokenizer)


def known_peak_flops(device_name: str) -> float:
    """Peak dense bf16 FLOP/s of a device."""
    flops = peak_flops(device_name)
    if flops is None:
        raise NotRun(f"peak FLOP/s of {device_name!r} is not known; give it with --peak-flops")
    return flops


def _step(
    config: StudentConfig,
    batch: TrainingBatch,
    points: Points,
    device: torch.device,
    *,
    checkpointing: bool,
    compiled: bool,
) -> Callable[[], None]:
    student: PixelSail = seeded_student(config, _SEED).to(device).train()
    student.gradient_checkpointing = checkpointing
    if compiled:
        for layer in student.layers:
            layer.compile(dynamic=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=device.type == "cuda")
    moved = {
        grid: PointDraws(draws.candidates.to(device), draws.uniform.to(device), draws.num_uncertain)
        for grid, draws in points.items()
    }
    weights = LossWeights()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        plan = plan_attention(batch.inputs.structure, compiled=compiled)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = compute_losses(student, batch, weights, moved, plan)
        losses.total.backward()
        optimizer.step()

    return step


def _timed(step: Callable[[], None], device: torch.device, repeats: int, warmups: int) -> tuple[list[float], float]:
    """Seconds of steps, each waited for, and the peak of the device's memory in GiB."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    for repeat in range(-warmups, repeats):
        if cuda:
            torch.cuda.synchronize()
        start_s = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        if repeat >= 0:
            seconds.append(time.perf_counter() - start_s)
    return seconds, round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else 0.0
