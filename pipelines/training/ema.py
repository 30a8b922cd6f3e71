"""An exponential moving average of the weights, which is what a run publishes if the recipe wants one."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipelines.training.parallel import is_sharded

__all__ = ["MovingAverage"]


class MovingAverage:
    """Average of the trained parameters over the steps; of shards, each rank keeps its own.

    Own code, since torch's `AveragedModel` copies the module as a whole, which a sharded one can't be.

    Args:
        model: its present weights are where the average starts.
        decay: share of the average that stays in each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = get_ema_multi_avg_fn(decay)
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights of now."""
        for sharded in (False, True):  # the two kinds can't stand in one list
            names = [name for name, weight in self.weights.items() if is_sharded(weight) is sharded]
            if names:
                averages = [self.weights[name] for name in names]
                self._average(averages, [self._parameters[name].detach() for name in names], 0)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Inside, the model has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name] = kept
