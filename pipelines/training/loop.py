"""The training loop of one worker, free of Ray: batches in, updated student out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from model.attention import plan_attention
from model.objective import LossTerms, TrainingBatch, compute_losses, draw_points
from model.student import PixelSail
from pipelines.training.config import TrainingConfig
from pipelines.training.feed import StepBatches

__all__ = ["Trainer", "learning_rate_factor", "make_optimizers"]


def learning_rate_factor(step: int, num_steps: int, warmup_share: float) -> float:
    """Linear warm-up, then cosine to 0; in (0, 1] for steps below `num_steps`.

    >>> [round(learning_rate_factor(step, 100, 0.1), 2) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = max(1, round(num_steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def make_optimizers(model: PixelSail, config: TrainingConfig) -> dict[str, torch.optim.Optimizer]:
    """AdamW, with weight decay on matrices and none on biases and norms; beside it Muon if the recipe wants it.

    Muon (orthogonalised momentum) takes the matrices inside the decoder layers and leaves embeddings
    and heads to AdamW, as its authors advise.
    """
    inner = [p for p in trained_parameters(model.layers) if p.ndim == 2] if config.muon_learning_rate else []
    taken = {id(parameter) for parameter in inner}
    rest = [p for p in trained_parameters(model) if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    }
    if config.muon_learning_rate:
        optimizers["muon"] = torch.optim.Muon(
            inner, lr=config.muon_learning_rate, weight_decay=config.weight_decay, momentum=_MUON_MOMENTUM
        )
    return optimizers


_MUON_MOMENTUM = 0.95


@dataclass
class Trainer:
    """One rank of a run.

    Gradients are summed over the ranks in one flat all-reduce behind the last micro-batch, so that the
    update is that of a single process with the same global batch.
    """

    model: PixelSail
    optimizers: Mapping[str, torch.optim.Optimizer]
    config: TrainingConfig
    device: torch.device
    rank: int = 0
    world_size: int = 1

    def run(
        self,
        batches: Iterator[StepBatches],
        first_step: int,
        after_step: Callable[[int, Mapping[str, float], Mapping[str, float]], None],
    ) -> None:
        """Trains from a position to the end.

        Args:
            batches: of each step, from `first_step` on.
            first_step: steps that are already done.
            after_step: called with the number of done steps, the step's metrics, and the seconds it took
                and waited for data, which are kept apart: they differ between equal runs.
        """
        self.model.train()
        for step in range(first_step, self.config.num_steps):
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            metrics = self.step(step, batch.micro_batches, batch.bins)
            after_step(step + 1, metrics, {"wait_s": waited, "step_s": time.perf_counter() - started})

    def step(
        self, step: int, micro_batches: Sequence[TrainingBatch], bins: Sequence[int] | None = None
    ) -> dict[str, float]:
        """One optimiser step; returns the loss, each term and the gradient norm.

        Args:
            step: steps that are done.
            micro_batches: of this rank.
            bins: their numbers over all ranks, which seed the points of masks; None: counted from 0.
        """
        factor = learning_rate_factor(step, self.config.num_steps, self.config.warmup_share)
        peaks = {"adamw": self.config.learning_rate, "muon": self.config.muon_learning_rate or 0.0}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peaks[name] * factor
            optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, float] = {}
        for number, batch in zip(range(len(micro_batches)) if bins is None else bins, micro_batches, strict=True):
            share = batch.num_documents / self.config.batch_rows
            losses = self._losses(batch.to(self.device), step, number)
            (losses.total * share).backward()
            for name, value in {"loss": losses.total.detach(), **losses.terms}.items():
                metrics[name] = metrics.get(name, 0.0) + float(value) * share
        if self.world_size > 1:
            self._sum_gradients()
            metrics = self._sum_metrics(metrics)
        norm = nn.utils.clip_grad_norm_(trained_parameters(self.model), self.config.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {**metrics, "gradient_norm": float(norm), "learning_rate": self.config.learning_rate * factor}

    def _losses(self, batch: TrainingBatch, step: int, micro_batch: int) -> LossTerms:
        seed = hash((self.config.seed, step, micro_batch)) & 0x7FFF_FFFF_FFFF_FFFF
        generator = torch.Generator(self.device).manual_seed(seed)
        points = None if self.config.mask_points is None else draw_points(batch, self.config.mask_points, generator)
        plan = plan_attention(batch.inputs.structure, compiled=self.config.compile_layers)
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return compute_losses(self.model, batch, self.config.losses, points, plan)

    def _sum_gradients(self) -> None:
        """Behind the gradients stands how many ranks have each: what none has stays without, as in one process."""
        parameters = trained_parameters(self.model)
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        counts = torch.tensor([float(p.grad is not None) for p in parameters], device=gradients[0].device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), counts])
        distributed.all_reduce(flat)
        *parts, counts = flat.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, part, count in zip(parameters, parts, counts.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if count else None

    def _sum_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Ranks can differ in their terms (no mask, no teacher): the names are agreed on first."""
        gathered: list[dict[str, float]] = [{} for _ in range(self.world_size)]
        distributed.all_gather_object(gathered, dict(metrics))
        names = sorted({name for part in gathered for name in part})
        return {name: sum(part.get(name, 0.0) for part in gathered) for name in names}


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that aren't frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers of a model."""
    return sum(tensor.numel() for tensor in model.parameters())


def cpu_copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU, detached from what goes on training."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
