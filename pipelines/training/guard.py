"""Steps that must not count: losses that aren't numbers, and losses that leap.

The decision uses what all ranks have agreed on, so that all of them skip the same steps, and its memory
is part of the saved state, so that a resumed run decides alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import cast

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from model.objective import TrainingBatch
from pipelines.training.config import SurvivalConfig
from storage.errors import TooManySkips
from storage.keys import Json, canonical_json
from storage.objects import Objects

__all__ = ["Guard", "keep_for_inspection"]


class Guard:
    """Tells for each step whether it counts.

    A step is skipped if its loss or gradient norm isn't finite, or if its loss exceeds
    `spike_factor` times the median of the last `spike_window` losses that counted. As long as there are
    fewer of those, no loss is a leap.
    """

    def __init__(self, config: SurvivalConfig) -> None:
        self._config = config
        self._accepted: deque[float] = deque(maxlen=config.spike_window)
        self.num_skipped = 0
        """Steps skipped so far."""

    def judge(self, loss: float, gradient_norm: float) -> str | None:
        """Why a step must be skipped; None: it counts."""
        reason = self._reason(loss, gradient_norm)
        if reason is None:
            self._accepted.append(loss)
        else:
            self.num_skipped += 1
        return reason

    def check(self, step: int, reason: str, where: str) -> None:
        """Ends a run that skips too often.

        Args:
            step: the step that was skipped.
            reason: why.
            where: the folder in which its batches lie.

        Raises:
            TooManySkips: more steps were skipped than the recipe allows.
        """
        if self.num_skipped > self._config.max_skipped:
            raise TooManySkips(
                f"training step {step}: expected at most {self._config.max_skipped} skipped steps, this is number "
                f"{self.num_skipped} ({reason}); look at the batches in {where}, lower training.learning_rate, or "
                "raise training.survival.max_skipped"
            )

    def _reason(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"the gradient norm is {gradient_norm}"
        factor = self._config.spike_factor
        if factor is None or len(self._accepted) < self._config.spike_window:
            return None
        usual = median(self._accepted)
        if loss <= factor * usual:
            return None
        return f"the loss is {loss:.4g}, more than {factor:g} times the median {usual:.4g} of the last ones"

    def state(self) -> dict[str, Json]:
        """What a resumed run needs to decide alike."""
        return {"accepted": list(self._accepted), "num_skipped": self.num_skipped}

    def load(self, state: Mapping[str, Json]) -> None:
        """The inverse of `state`."""
        self._accepted.clear()
        self._accepted.extend(cast("list[float]", state["accepted"]))
        self.num_skipped = cast("int", state["num_skipped"])


def keep_for_inspection(
    folder: Objects,
    step: int,
    rank: int,
    reason: str,
    metrics: Mapping[str, float],
    micro_batches: Sequence[TrainingBatch],
    sample_ids: Sequence[Sequence[str]],
) -> None:
    """Writes what one rank fed to a skipped step: a JSON of what is known, and the tensors of each micro-batch.

    Args:
        folder: `<output>/inspect`.
        step: the step that was skipped, counted from 0.
        rank: the rank.
        reason: why it was skipped.
        metrics: of the step.
        micro_batches: the rank's.
        sample_ids: samples of each of the rank's conversations, in order.
    """
    name = f"step-{step:08d}-rank-{rank:05d}"
    facts: dict[str, Json] = {
        "step": step,
        "rank": rank,
        "reason": reason,
        # JSON has no NaN.
        "metrics": {key: value if math.isfinite(value) else str(value) for key, value in sorted(metrics.items())},
        "sample_ids": [list(ids) for ids in sample_ids],
        "documents": [batch.num_documents for batch in micro_batches],
        "grids": [[list(grid) for grid in batch.inputs.grids] for batch in micro_batches],
    }
    folder.put(f"{name}.json", canonical_json(facts))
    tensors: dict[str, Tensor] = {}
    for number, batch in enumerate(micro_batches):
        tensors |= {f"{number}/{key}": tensor for key, tensor in _tensors(batch).items()}
    folder.put(f"{name}.safetensors", to_safetensors(tensors))


def _tensors(batch: TrainingBatch) -> dict[str, Tensor]:
    inputs = batch.inputs
    found = {name: getattr(inputs, name) for name in inputs.__dataclass_fields__}
    found["labels"] = batch.labels
    for grid, targets in batch.targets.items():
        where = f"targets/{grid[0]}x{grid[1]}"
        found |= {f"{where}/masks/{image}": masks for image, masks in enumerate(targets.masks)}
        found |= {f"{where}/{name}": getattr(targets, name) for name in ("seg_slots", "owner", "place")}
    # safetensors refuses tensors that share memory, as slices of one batch may.
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in found.items()
        if isinstance(tensor, torch.Tensor)
    }
