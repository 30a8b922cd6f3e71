"""The training loop of one worker, free of Ray: batches in, updated student out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor, distributed, nn

from model.attention import plan_attention
from model.objective import LossTerms, TrainingBatch, compute_losses, draw_points
from model.student import PixelSail
from pipelines.training.config import TrainingConfig
from pipelines.training.ema import MovingAverage
from pipelines.training.families import family_sums
from pipelines.training.feed import StepBatches
from pipelines.training.guard import Guard, keep_for_inspection
from pipelines.training.parallel import Replicas, is_sharded, trained_parameters
from pipelines.training.throughput import Throughput
from storage.objects import Objects

__all__ = ["Trainer", "Wanted", "learning_rate_factor", "make_optimizers", "parameter_count", "points_generator"]

logger = logging.getLogger(__name__)


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
    matrices = [p for p in rest if p.ndim >= 2]
    groups = [
        {"params": [p for p in matrices if not is_sharded(p)], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    if sharded := [p for p in matrices if is_sharded(p)]:  # may not share a group with whole ones
        groups.append({"params": sharded, "weight_decay": config.weight_decay})
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    }
    if config.muon_learning_rate:
        optimizers["muon"] = torch.optim.Muon(
            inner, lr=config.muon_learning_rate, weight_decay=config.weight_decay, momentum=_MUON_MOMENTUM
        )
    return optimizers


_MUON_MOMENTUM = 0.95


class Wanted(IntEnum):
    """What should happen behind a step, beside the next one."""

    NOTHING = 0
    SAVE = 1
    """A state is saved, since a node is about to go."""
    STOP = 2
    """A state is saved and the run ends, to be gone on with later."""


@dataclass
class Trainer:
    """One rank of a run: the student, how it is divided, and what keeps a step from doing harm."""

    model: PixelSail
    optimizers: Mapping[str, torch.optim.Optimizer]
    config: TrainingConfig
    device: torch.device
    rank: int = 0
    world_size: int = 1
    parallel: Replicas | None = None
    """How the ranks share a step; None: each has a replica."""
    average: MovingAverage | None = None
    """Is moved behind each step."""
    inspection: Objects | None = None
    """Folder for the batches of skipped steps; None: they aren't kept."""
    wanted: Callable[[], Wanted] = field(default=lambda: Wanted.NOTHING)
    """Asked once in each step: what should happen behind it. The ranks do the most that any of them wants."""
    complete: Callable[[TrainingBatch], TrainingBatch] = field(default=lambda batch: batch)
    """Adds to a batch the features that no store has, see `pipelines.training.teacher_modes`."""
    throughput: Throughput | None = None
    """Is told of each step of `run`."""
    guard: Guard = field(init=False)
    agreed: Wanted = field(init=False, default=Wanted.NOTHING)
    """What the ranks have agreed on in the last step."""

    def __post_init__(self) -> None:
        self.guard = Guard(self.config.survival)
        self._parallel = self.parallel or Replicas(self.model, self.rank, self.world_size)

    def run(
        self,
        batches: Iterator[StepBatches],
        first_step: int,
        after_step: Callable[[int, Mapping[str, float], Mapping[str, float]], None],
    ) -> bool:
        """Trains from a position to the end, or until it is asked to stop.

        Args:
            batches: of each step, from `first_step` on.
            first_step: steps that are already done.
            after_step: called with the number of done steps, the step's metrics, and its seconds, which are
                kept apart, since they differ between equal runs: `step_s` in all, of these `wait_s` for data.

        Returns:
            Whether all steps are done.
        """
        self.model.train()
        for step in range(first_step, self.config.num_steps):
            started = time.perf_counter()
            batch = next(batches)
            seconds = {"wait_s": time.perf_counter() - started}
            metrics = self.step(step, batch.micro_batches, batch.bins, batch.sample_ids, batch.families)
            seconds["step_s"] = time.perf_counter() - started
            if self.throughput is not None:
                self.throughput.add(batch, seconds)
            after_step(step + 1, metrics, seconds)
            if self.agreed is Wanted.STOP:
                return step + 1 == self.config.num_steps
        return True

    def step(
        self,
        step: int,
        micro_batches: Sequence[TrainingBatch],
        bins: Sequence[int] | None = None,
        sample_ids: Sequence[Sequence[str]] = (),
        families: Sequence[Sequence[str]] = (),
    ) -> dict[str, float]:
        """One optimiser step.

        Args:
            step: steps that are done.
            micro_batches: this rank's part of the global batch.
            bins: their numbers over all ranks, which seed the points of masks; None: as if dealt out in turn.
            sample_ids: samples of each of this rank's conversations, for the inspection of a skipped step.
            families: per micro-batch the family of each conversation; none: losses aren't told by family.

        Returns:
            The loss, each term, the sums of `family_sums`, the gradient norm, the learning rate and whether the
            step was `skipped`; of a skipped step these two alone.

        Raises:
            TooManySkips: more steps had to be skipped than the recipe allows.
        """
        factor = self._begin(step)
        if bins is None:
            bins = [self.rank + self.world_size * place for place in range(len(micro_batches))]
        metrics = self._accumulate(step, list(zip(bins, micro_batches, strict=True)), families)
        self._parallel.sum_gradients()
        metrics["gradient_norm"] = self._parallel.clip(self.config.clip_norm)
        metrics = self._agree(metrics)
        learning_rate = {"learning_rate": self.config.learning_rate * factor}
        reason = self.guard.judge(metrics["loss"], metrics["gradient_norm"])
        if reason is not None:
            self._skip(step, reason, metrics, micro_batches, sample_ids)
            return {"skipped": 1.0, **learning_rate}
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.average is not None:
            self.average.update()
        return {**metrics, "skipped": 0.0, **learning_rate}

    def _begin(self, step: int) -> float:
        """Sets the step's learning rates and forgets the last gradients."""
        factor = learning_rate_factor(step, self.config.num_steps, self.config.warmup_share)
        peaks = {"adamw": self.config.learning_rate, "muon": self.config.muon_learning_rate or 0.0}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peaks[name] * factor
            optimizer.zero_grad(set_to_none=True)
        return factor

    def _accumulate(
        self, step: int, numbered: Sequence[tuple[int, TrainingBatch]], families: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        """Gradients of this rank's part; returns its part of the loss, of each term and of each family."""
        pieces = self._parallel.padded(numbered)
        values: list[tuple[str, float, Tensor]] = []
        documents: list[Tensor] = []
        for place, ((number, batch), weight) in enumerate(pieces):
            self._parallel.begin_micro_batch(is_last=place == len(pieces) - 1)
            share = weight * batch.num_documents / self.config.batch_rows
            losses = self._losses(self.complete(batch).to(self.device), step, number)
            (losses.total * share).backward()
            if weight:
                found = {"loss": losses.total.detach(), **losses.terms}
                values += [(name, share, value.float()) for name, value in found.items()]
                documents.append(losses.per_document.float())
        # One transfer for all of them: each by itself would make the device wait.
        numbers = torch.cat([*(value.reshape(1) for _, _, value in values), *documents]).tolist() if values else []
        metrics: dict[str, float] = {}
        for (name, share, _), number in zip(values, numbers, strict=False):
            metrics[name] = metrics.get(name, 0.0) + number * share
        of_documents = [family for of_batch in families for family in of_batch]
        return metrics | family_sums(numbers[len(values) :] if of_documents else (), of_documents)

    def _losses(self, batch: TrainingBatch, step: int, number: int) -> LossTerms:
        generator = points_generator(self.config.seed, step, number, self.device)
        if self.config.lora is not None and self.config.lora.dropout:
            torch.manual_seed(generator.initial_seed())  # dropout draws from the global generator
        points = None if self.config.mask_points is None else draw_points(batch, self.config.mask_points, generator)
        plan = plan_attention(batch.inputs.structure, compiled=self.config.compile_layers)
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return compute_losses(self.model, batch, self.config.losses, points, plan)

    def _agree(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Sums of the ranks' metrics, and what they want behind the step.

        Ranks can differ in their terms (no mask, no teacher), so the names are agreed on as well. Of the
        gradient norm, which all have, the first rank's counts, whatever another has made of it.
        """
        wanted = self.wanted()
        if self.world_size == 1:
            self.agreed = wanted
            return dict(metrics)
        gathered: list[tuple[dict[str, float], Wanted]] = [({}, wanted)] * self.world_size
        distributed.all_gather_object(gathered, (dict(metrics), wanted))
        self.agreed = max(wanted for _, wanted in gathered)
        names = sorted({name for part, _ in gathered for name in part})
        sums = {name: sum(part.get(name, 0.0) for part, _ in gathered) for name in names}
        return {**sums, "gradient_norm": gathered[0][0]["gradient_norm"]}

    def _skip(
        self,
        step: int,
        reason: str,
        metrics: Mapping[str, float],
        micro_batches: Sequence[TrainingBatch],
        sample_ids: Sequence[Sequence[str]],
    ) -> None:
        logger.warning("training step %d is skipped: %s (number %d)", step, reason, self.guard.num_skipped)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        if self.inspection is not None:
            keep_for_inspection(self.inspection, step, self.rank, reason, metrics, micro_batches, sample_ids)
        self.guard.check(step, reason, "no folder" if self.inspection is None else self.inspection.url)


def points_generator(seed: int, step: int, number: int, device: torch.device) -> torch.Generator:
    """The generator that draws the points of one bin of a step's global batch, whichever rank has it."""
    drawn = np.random.SeedSequence([seed, step, number]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(drawn[0]) & 0x7FFF_FFFF_FFFF_FFFF)


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers of a model."""
    return sum(tensor.numel() for tensor in model.parameters())
