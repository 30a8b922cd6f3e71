"""Some steps of training by two ranks, as replicas and as shards; for other processes to import."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from model.config import StudentConfig
from pipelines.training.beginning import first_model
from pipelines.training.config import TrainingConfig
from pipelines.training.ema import MovingAverage
from pipelines.training.feed import StepBatches
from pipelines.training.loop import Trainer, make_optimizers
from pipelines.training.parallel import arrange, full_weights, is_sharded
from tests.gloo_group import gloo_group

__all__ = ["Case", "Outcome", "run_ranks", "train"]

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Case:
    """What is trained, and on what: for each rank the batches of each step."""

    config: TrainingConfig
    student: StudentConfig
    steps: tuple[tuple[StepBatches, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """What came of it, put together again where it was sharded."""

    metrics: list[dict[str, float]]
    gradients: dict[str, Tensor]
    """Of the last step, clipped; parameters without one are left out."""
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    sharded: set[str]
    """Parameters of which each rank held a part."""


def run_ranks(function: Callable[..., None], world_size: int, *arguments: Any) -> None:
    """Calls a function with (rank, world size, arguments) in as many processes; all must succeed."""
    processes = [_CONTEXT.Process(target=function, args=(rank, world_size, *arguments)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert codes == [0] * world_size, f"exit codes {codes}"


def train_all(rank: int, world_size: int, folder: Path) -> None:
    """Trains each case of `cases.pickle` in both ways; the first rank leaves `outcomes.pickle`."""
    torch.set_num_threads(1)
    with gloo_group(folder, rank, world_size):
        cases = cast("dict[str, Case]", pickle.loads((folder / "cases.pickle").read_bytes()))
        outcomes = {(name, way): train(case, way, rank, world_size) for name, case in cases.items() for way in _WAYS}
    if rank == 0:
        (folder / "outcomes.pickle").write_bytes(pickle.dumps(outcomes))


_WAYS: Sequence[Literal["ddp", "fsdp2"]] = ("ddp", "fsdp2")


def train(case: Case, way: Literal["ddp", "fsdp2"], rank: int = 0, world_size: int = 1) -> Outcome:
    """Trains one case as one of the ranks."""
    config = case.config.model_copy(update={"parallel": way})
    model = first_model(case.student, config)
    model.gradient_checkpointing = config.gradient_checkpointing
    device = torch.device("cpu")
    parallel = arrange(model, config, device, rank, world_size)
    average = MovingAverage(model, 0.5)
    trainer = Trainer(
        model, make_optimizers(model, config), config, device, rank, world_size, parallel=parallel, average=average
    )
    metrics: list[dict[str, float]] = []
    trainer.run(iter(case.steps[rank]), 0, lambda _, found, __: metrics.append(dict(found)))
    gradients = {name: _whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    sharded = {name for name, parameter in model.named_parameters() if is_sharded(parameter)}
    averages = {name: _whole(weight) for name, weight in average.weights.items()}
    return Outcome(metrics, gradients, full_weights(model), averages, sharded)


def _whole(tensor: Tensor) -> Tensor:
    found = tensor.full_tensor() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]
    return cast("Tensor", found).detach().clone()
