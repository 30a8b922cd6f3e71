"""How fast a run is and what holds it up: rates, the share of time without work, use of the device, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from model.config import StudentConfig
from model.flops import batch_flops
from pipelines.observer import NULL_OBSERVER, Metrics
from pipelines.training.config import TrainingConfig
from pipelines.training.feed import StepBatches

__all__ = ["LOADER_PARTS", "PEAK_FLOPS", "Throughput", "peak_flops"]

LOADER_PARTS = ("storage", "decode", "encode", "host_to_device")
"""What the loader spends its seconds on: fetching images and features, decoding them, tokens and packing, copying to
the device (see `pipelines.training.feed.StepBatches`)."""

PEAK_FLOPS = {
    "B200": 2_250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 FLOP/s by a part of the device's name, from the makers' data sheets; the first that fits counts."""


def peak_flops(device_name: str) -> float | None:
    """Peak dense bf16 FLOP/s of a device, None where it isn't known.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("AMD EPYC")
    (989000000000000.0, None)
    """
    return next((flops for part, flops in PEAK_FLOPS.items() if part in device_name), None)


@dataclass
class Throughput:
    """Sums up the steps of one rank; a reading covers those since the reading before it.

    A step stalls while it waits for the loader. Since that runs ahead beside the steps, the waiting is divided
    among its parts as its own seconds are: if two thirds of them go into storage, two thirds of the waiting
    count as waiting for storage.

    Args:
        student: sizes, for the operations of a batch.
        training: rows of a step, precision and adapters.
        device: the rank's own.
        world_size: ranks, taken to have as many tokens each.
        peak_flops_per_s: of the device at the run's precision; None: as `PEAK_FLOPS` has it for bfloat16.
        metrics: told of each step, too.
    """

    student: StudentConfig
    training: TrainingConfig
    device: torch.device
    world_size: int = 1
    peak_flops_per_s: float | None = None
    metrics: Metrics = NULL_OBSERVER
    _sums: dict[str, float] = field(default_factory=dict[str, float])
    _num_steps: int = 0

    def __post_init__(self) -> None:
        if self.peak_flops_per_s is None and self.device.type == "cuda" and self.training.precision == "bfloat16":
            self.peak_flops_per_s = peak_flops(torch.cuda.get_device_name(self.device))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def add(self, batches: StepBatches, seconds: Mapping[str, float]) -> None:
        """Takes in one step.

        Args:
            batches: what it trained on.
            seconds: `step_s` is the whole step, of which `wait_s` went into waiting for the loader.
        """
        taken = {
            "step_s": seconds["step_s"],
            "wait_s": seconds.get("wait_s", 0.0),
            "tokens": batches.num_tokens * self.world_size,
            **{part: batches.seconds.get(part, 0.0) for part in LOADER_PARTS},
        }
        if self.peak_flops_per_s is not None:
            forward = sum(batch_flops(self.student, batch) for batch in batches.micro_batches)
            taken["flops"] = self.training.passes_per_step * forward
        self.metrics.observe("sailloft_step_seconds", taken["step_s"])
        self.metrics.count("sailloft_step_wait_seconds_total", taken["wait_s"])
        self.metrics.count("sailloft_tokens_total", taken["tokens"])
        for name, value in taken.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._num_steps += 1

    def reading(self) -> dict[str, float]:
        """The figures of the steps since the last reading; empty if there were none.

        Returns:
            `step_s` (mean), `samples_per_s` and `tokens_per_s` of all ranks; `stall_share` and its parts
            `stall/storage`, `stall/decode`, `stall/encode`, `stall/host_to_device` of this rank, in [0, 1];
            `mfu`, the share of the device's peak that the student's own operations reach, where the peak
            is known; `memory_gib`, the most that was held: of the device's memory since the last
            reading, without a device the process' own since its start.
        """
        sums, num_steps = self._sums, self._num_steps
        self._sums, self._num_steps = {}, 0
        if not num_steps or not sums["step_s"]:
            return {}
        step_s = sums["step_s"]
        stalls = {f"stall/{part}": share * sums["wait_s"] / step_s for part, share in _loader_shares(sums).items()}
        figures = {
            "step_s": step_s / num_steps,
            "samples_per_s": num_steps * self.training.batch_rows / step_s,
            "tokens_per_s": sums["tokens"] / step_s,
            "stall_share": sums["wait_s"] / step_s,
            **stalls,
        }
        if self.peak_flops_per_s is not None:
            figures["mfu"] = sums["flops"] / step_s / self.peak_flops_per_s
        return {**figures, "memory_gib": self._peak_memory_bytes() / 2**30}

    def _peak_memory_bytes(self) -> int:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        # Linux counts in KiB, macOS in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _loader_shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Shares of the loader's parts in its time; all of it is storage's where nothing was measured."""
    total = sum(seconds[part] for part in LOADER_PARTS)
    if not total:
        return {part: float(part == "storage") for part in LOADER_PARTS}
    return {part: seconds[part] / total for part in LOADER_PARTS}
