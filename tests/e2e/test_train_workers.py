"""Training by two Ray Train workers: who makes the batches and how the student is divided changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from jobs.flow import State
from model.checkpoint import load_checkpoint
from storage.objects import Objects
from tests.e2e.test_teacher_modes import run_smoke, trained

# Stages before training come first, then four runs with two workers each: two minutes on two cores.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

TWO = ("training.num_workers=2", "training.num_steps=8", "training.micro_batch_rows=1")


Trained = tuple[list[dict[str, float]], dict[str, torch.Tensor]]
"""Rows of metrics, and weights of the checkpoint."""


def train(prepared: Path, workspace: Path, *overrides: str) -> Trained:
    """Trains two workers on the data of a workspace, in another."""
    shutil.copytree(prepared, workspace)
    result = run_smoke(workspace, *TWO, *overrides)
    assert [outcome.name for outcome in result.outcomes if outcome.state is State.RAN] == ["train"]
    (folder,) = (workspace / "train").iterdir()
    return trained(result)[1], load_checkpoint(Objects.open(folder))[0].state_dict()


@pytest.fixture(scope="module")
def prepared(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with everything before training."""
    workspace = tmp_path_factory.mktemp("prepared")
    run_smoke(workspace, until="teach")
    return workspace


@pytest.fixture(scope="module")
def by_threads(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """As it is by default: each worker has a replica, and threads make its batches."""
    return train(prepared, tmp_path_factory.mktemp("threads") / "workspace")


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_the_loader_changes_nothing(prepared: Path, by_threads: Trained, tmp_path: Path, kind: str) -> None:
    """Bit for bit: the same batches in the same order."""
    rows, weights = train(prepared, tmp_path / "workspace", f"training.loader.kind={kind}")
    assert rows == by_threads[0]
    assert weights.keys() == by_threads[1].keys()
    assert all(torch.equal(weights[name], by_threads[1][name]) for name in weights)


def test_sharded_workers_train_as_replicas_do(prepared: Path, by_threads: Trained, tmp_path: Path) -> None:
    """FSDP2, up to rounding; the checkpoint is whole."""
    rows, weights = train(prepared, tmp_path / "workspace", "training.parallel=fsdp2")
    assert rows != by_threads[0]  # rounded elsewhere, so it was another way
    for row, expected in zip(rows, by_threads[0], strict=True):
        assert row == pytest.approx(expected, rel=2e-6)  # found: 3e-7
    assert weights.keys() == by_threads[1].keys()
    for name, weight in by_threads[1].items():
        # Found: 1.2e-6, of biases without a gradient but for rounding.
        assert torch.allclose(weights[name], weight, rtol=0, atol=1e-5), name
