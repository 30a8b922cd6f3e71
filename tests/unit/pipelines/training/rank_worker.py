"""The second rank of a run of two processes; started by test_loop.py with a folder to meet in."""

from __future__ import annotations

import pickle
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from model.student import PixelSail
from pipelines.training.loop import Trainer, make_optimizers


def join(folder: Path, rank: int) -> None:
    """Meets the other rank in a file, over the loopback device."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )


def train(folder: Path, rank: int) -> PixelSail:
    """Trains on the batches that lie in the folder for this rank."""
    config, student_config, weights, steps = pickle.loads((folder / f"job-{rank}.pickle").read_bytes())
    model = PixelSail(student_config)
    model.load_state_dict(weights)
    trainer = Trainer(model, make_optimizers(model, config), config, torch.device("cpu"), rank, 2)
    metrics: list[dict[str, float]] = []
    trainer.run(iter(steps), 0, lambda _, found, __: metrics.append(dict(found)))
    (folder / f"metrics-{rank}.pickle").write_bytes(pickle.dumps(metrics))
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    join(where, 1)
    student = train(where, 1)
    (where / "weights-1.pickle").write_bytes(pickle.dumps(student.state_dict()))
    distributed.destroy_process_group()
