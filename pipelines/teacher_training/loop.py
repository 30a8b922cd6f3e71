"""The training loop: one process, on a CPU or an accelerator, from a recipe to a network with its figures."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from pipelines.progress import Progress
from pipelines.scenes.chance import Chance
from pipelines.teacher_training.config import TeacherTrainingConfig
from pipelines.teacher_training.data import Example, draw_batch, draw_held_out
from pipelines.training.loop import learning_rate_factor
from storage.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

__all__ = ["TrainedTeacher", "Trainee", "score_teacher", "train_teacher"]

logger = logging.getLogger(__name__)

_REPORT_EVERY = 25
_LOSS_POINTS = 40
_NUM_SCORED_UNTRAINED = 50
"""Scenes of each source for the figures before training, which are near 0 whatever the number."""


class Trainee(Protocol):
    """A network that can be trained on examples and scored on others."""

    @property
    def module(self) -> PreTrainedModel:
        """The network, as transformers saves it."""
        ...

    def loss(self, examples: Sequence[Example], chance: Chance) -> Tensor:
        """What a step makes smaller; examples have one size."""
        ...

    def score(self, examples: Sequence[Example]) -> dict[str, float]:
        """Figures on examples, each from 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class TrainedTeacher:
    """What a training gives.

    Attributes:
        module: the network in evaluation mode, on the CPU.
        scores: figures on held-out scenes, by name of the source.
        untrained: the same before the first step.
        losses: (steps done, mean loss since the entry before), evenly spaced.
        num_pictures: pictures seen, each once.
    """

    module: PreTrainedModel
    scores: Mapping[str, Mapping[str, float]]
    untrained: Mapping[str, Mapping[str, float]]
    losses: tuple[tuple[int, float], ...]
    num_pictures: int


def train_teacher(config: TeacherTrainingConfig, progress: Progress, device: str = "cpu") -> TrainedTeacher:
    """Trains a teacher from nothing and scores it.

    Torch's global generator is left as it was. Equal recipes give equal bits on one machine with one version of
    torch; other machines may round differently, and a training carries that far.

    Args:
        config: what to train, on what, for how long.
        progress: told about finished steps.
        device: torch device, such as `cuda`.

    Raises:
        DataError: the loss is no longer finite.
    """
    trainee = config.network.build(device)
    optimizer = _optimizer(trainee.module, config)
    num_pictures, losses, recent = 0, list[tuple[int, float]](), list[Tensor]()
    note_every = max(1, config.num_steps // _LOSS_POINTS)
    with _reproducible(config):
        trainee.module.eval()
        untrained = score_teacher(trainee, config, min(_NUM_SCORED_UNTRAINED, config.num_held_out))
        trainee.module.train()
        for step in range(config.num_steps):
            examples = draw_batch(config.sources, config.network.geometry, config.seed, step)
            num_pictures += len(examples)
            loss = trainee.loss(examples, Chance(config.seed, "prompts", step))
            _update(trainee.module, optimizer, loss, config, step)
            recent.append(loss.detach())
            if (step + 1) % note_every == 0:
                losses.append((step + 1, _finite_mean(recent, step)))
                recent.clear()
            if (step + 1) % _REPORT_EVERY == 0 or step + 1 == config.num_steps:
                progress.update(step + 1, config.num_steps, unit="steps", loss=float(loss.detach()))
        module = trainee.module.eval()
        scores = score_teacher(trainee, config)
    return TrainedTeacher(module.cpu(), scores, untrained, tuple(losses), num_pictures)


def score_teacher(
    trainee: Trainee, config: TeacherTrainingConfig, num_scenes: int | None = None
) -> dict[str, dict[str, float]]:
    """Figures of a network in evaluation mode on held-out scenes, by name of the source.

    Args:
        trainee: the network.
        config: says which scenes.
        num_scenes: scenes of each source; None: as many as the recipe says.
    """
    count = config.num_held_out if num_scenes is None else num_scenes
    return {
        source.name: trainee.score(draw_held_out(source, config.network.geometry, count)) for source in config.sources
    }


@contextmanager
def _reproducible(config: TeacherTrainingConfig) -> Generator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            yield
    finally:
        torch.set_num_threads(num_threads)


def _optimizer(module: nn.Module, config: TeacherTrainingConfig) -> torch.optim.Optimizer:
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [each for each in parameters if each.ndim >= 2 and id(each) not in embeddings]
    taken = {id(each) for each in decayed}
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if id(each) not in taken], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _update(
    module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, config: TeacherTrainingConfig, step: int
) -> None:
    factor = learning_rate_factor(step, config.num_steps, config.warmup_share)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * factor
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
    optimizer.step()


def _finite_mean(recent: Sequence[Tensor], step: int) -> float:
    mean = float(torch.stack(list(recent)).mean())
    if not torch.isfinite(torch.tensor(mean)):
        raise DataError(f"step {step + 1}: the loss is {mean}; lower learning_rate or clip_norm")
    return mean
