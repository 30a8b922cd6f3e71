"""Compiles the objective for each job that lies in a folder; started by test_objective.py.

The tests' own process checks the shapes of every call, which is no part of the program and can't be traced.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

from model.objective import LossWeights, compute_losses
from model.student import PixelSail


def compiled(job: Path) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one batch from one graph forward and one back; a second graph is an error."""
    config, weights, gradient_checkpointing, batch, points, plan = pickle.loads(job.read_bytes())
    model = PixelSail(config)
    model.load_state_dict(weights)
    model.gradient_checkpointing = gradient_checkpointing
    torch.compiler.reset()
    found = torch.compile(compute_losses, fullgraph=True, backend="aot_eager")(
        model, batch, LossWeights(), points, plan
    )
    found.total.backward()
    losses = {"total": found.total.item(), **{name: value.item() for name, value in found.terms.items()}}
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sorted(Path(sys.argv[1]).glob("*.job")):
        path.with_suffix(".found").write_bytes(pickle.dumps(compiled(path)))
